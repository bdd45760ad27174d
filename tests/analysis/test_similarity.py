"""Similarity against Python's own sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropatch.analysis.neurons import neurons_of
from neuropatch.analysis.similarity import similarity

_UNITS = st.dictionaries(
    st.integers(0, 1), st.sets(st.integers(0, 19), min_size=1), min_size=1, max_size=2
)


def _of(patch, name, group="g"):
    return neurons_of(patch, name=name, group=group)


@given(one=_UNITS, other=_UNITS)
def test_like_sets(one, other, unit_patch):
    a, b = ({(layer, unit) for layer in units for unit in units[layer]} for units in (one, other))
    found = similarity([_of(unit_patch(one), "a"), _of(unit_patch(other), "b")])
    (pair,) = found.pairs
    assert pair.shared == len(a & b)
    assert pair.jaccard == pytest.approx(len(a & b) / len(a | b))
    assert pair.overlap == pytest.approx(len(a & b) / min(len(a), len(b)))
    assert pair.by_chance == pytest.approx(len(a) * len(b) / 40)
    np.testing.assert_array_equal(found.patches.jaccard, found.patches.jaccard.T)
    np.testing.assert_array_equal(np.diag(found.patches.overlap), 1)


def test_the_number_shared_by_chance_is_what_random_sets_share(unit_patch):
    rng = np.random.default_rng(0)
    flat = [np.sort(rng.permutation(40)[:12]) for _ in range(400)]
    patches = [
        _of(
            unit_patch(
                {layer: f[f // 20 == layer] % 20 for layer in (0, 1) if (f // 20 == layer).any()}
            ),
            str(n),
        )
        for n, f in enumerate(flat)
    ]
    found = [similarity(patches[i : i + 2]).pairs[0] for i in range(0, 400, 2)]
    # 12 * 12 / 40 = 3.6; the standard error over 200 pairs is about 0.09.
    assert np.mean([pair.shared for pair in found]) == pytest.approx(found[0].by_chance, abs=0.4)


def test_weights_are_coordinates_and_rows_are_neurons(weight_patch):
    row = [(1, c) for c in range(12)]
    a = _of(weight_patch({(0, "q"): [*row, (0, 3)], (1, "q"): [(5, 5)]}), "a")
    b = _of(weight_patch({(0, "q"): [*row, (0, 4)], (0, "k"): [(5, 5)]}), "b")
    (pair,) = similarity([a, b]).pairs
    assert (pair.shared, pair.jaccard, pair.overlap) == (1, 1 / 5, 1 / 3)


def test_units_and_weights_cannot_be_compared(unit_patch, weight_patch):
    units = _of(unit_patch({0: [3]}), "u", "u")
    weights = _of(weight_patch({(0, "down"): [(0, 3)]}), "w", "w")
    found = similarity([units, weights])
    assert found.pairs[0].jaccard is found.pairs[0].overlap is None
    assert np.isnan(found.patches.jaccard[0, 1])
    assert np.isnan(found.groups.jaccard[0, 1])
    assert all(row["jaccard"] is None for row in found.rows() if row["first"] != row["second"])


def test_groups_are_means_over_pairs_of_different_patches(unit_patch):
    patches = [
        _of(unit_patch({0: [0, 1]}), "a1", "a"),
        _of(unit_patch({0: [1, 2]}), "a2", "a"),
        _of(unit_patch({0: [0, 1, 2, 3]}), "b1", "b"),
    ]
    found = similarity(patches)
    assert found.groups.names == ("a", "b")
    np.testing.assert_allclose(found.groups.jaccard, [[1 / 3, 0.5], [0.5, 1]])
    np.testing.assert_allclose(found.groups.overlap, [[0.5, 1], [1, 1]])
    rows = found.rows()
    assert [row["level"] for row in rows] == ["patch"] * 3 + ["group"] * 3
    assert rows[0] | {"shared_by_chance": 0.1} == rows[0]
    assert (rows[1]["first"], rows[1]["second"], rows[1]["shared"]) == ("a1", "b1", 2)
