import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuropatch.attribution.selection import TopSelector, amount_of, parse_amount, top_indices
from neuropatch.errors import ModelError, UsageError

# Few distinct values, so that ties at the boundary are common.
tied_scores = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40)


def brute_force(entries, k):
    """The k largest positive scores of ``(score, coordinate...)``, ties to the lower coordinate."""
    positive = [entry for entry in entries if entry[0] > 0]
    return sorted(entry[1:] for entry in sorted(positive, key=lambda e: (-e[0], *e[1:]))[:k])


@given(tied_scores, st.integers(1, 45))
def test_top_indices_takes_the_largest_and_breaks_ties_by_index(scores, k):
    found = top_indices(torch.tensor(scores), k).tolist()
    assert found == [i for (i,) in brute_force([(s, i) for i, s in enumerate(scores)], k)]


@pytest.mark.parametrize("scope", ["matrix", "layer", "model"])
@given(data=st.data(), amount=st.sampled_from([1, 3, 7, 50, 0.01, 0.1, 1 / 3]))
def test_selector_equals_a_sort_of_all_scores(make_layout, scope, data, amount):
    layout = make_layout("llama")
    matrices = layout.matrices(("down", "k"))
    seed = data.draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    scores = {m: rng.choice([0, 0.5, 1, 2], layout.shape(m)).astype("f4") for m in matrices}
    selector = TopSelector(layout, matrices, scope, amount)
    for matrix in matrices:
        selector.add(matrix, torch.from_numpy(scores[matrix]))
    groups = {}
    for number, matrix in enumerate(matrices):
        group = {"matrix": matrix, "layer": matrix.layer, "model": None}[scope]
        flat = scores[matrix].reshape(-1)
        groups.setdefault(group, []).extend((s, number, i) for i, s in enumerate(flat))
    expected = {}
    for entries in groups.values():
        for number, index in brute_force(entries, amount_of(amount, len(entries))):
            expected.setdefault(matrices[number], []).append(index)
    found = {matrix: index.tolist() for matrix, index in selector.result().items()}
    assert found == expected


def test_selector_continues_from_its_saved_state(make_layout):
    layout = make_layout("llama")
    matrices = layout.matrices(("up",))
    scores = [
        torch.rand(layout.shape(m), generator=torch.Generator().manual_seed(1)) for m in matrices
    ]
    whole, first, second = (TopSelector(layout, matrices, "model", 9) for _ in range(3))
    for matrix, score in zip(matrices, scores, strict=True):
        whole.add(matrix, score)
    first.add(matrices[0], scores[0])
    second.load(first.state())
    second.add(matrices[1], scores[1])
    assert {m: i.tolist() for m, i in second.result().items()} == {
        m: i.tolist() for m, i in whole.result().items()
    }


def test_amounts_below_one_are_floored_fractions():
    assert amount_of(5e-7, 4096 * 11008) == 22
    assert amount_of(5e-7, 896 * 4864) == 2
    assert amount_of(5e-7, 576 * 1536) == 0
    assert amount_of(200, 100) == 100


@pytest.mark.parametrize("value", [0, -1e-6, 1.5, float("nan"), float("inf")])
def test_amounts_that_are_neither_fraction_nor_count_are_refused(value):
    with pytest.raises(UsageError, match="--q"):
        parse_amount("--q", value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused_by_name(make_layout, bad):
    layout = make_layout("llama")
    matrices = layout.matrices(("down",))
    score = torch.zeros(layout.shape(matrices[0]))
    score[1, 2] = bad
    with pytest.raises(ModelError, match=r"decoder\.0\.down"):
        TopSelector(layout, matrices, "matrix", 3).add(matrices[0], score)
