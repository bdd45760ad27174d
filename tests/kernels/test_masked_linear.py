from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from neuropatch.errors import UsageError
from neuropatch.kernels import SparseEdits, add_sparse_linear, masked_linear

# The sum over the edits of one row and its addition to the output are float32, and the result is
# rounded once: half a unit of the type, 2**-9 for bfloat16 and 2**-12 for float16.
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-8, "atol": 1e-5},
    torch.float16: {"rtol": 2**-11, "atol": 1e-5},
}
DTYPES = list(TOLERANCE)


def make_edits(out, inp, counts, *, seed=0, dtype=torch.float32):
    """Random edits, ``counts[p]`` for patch ``p``: distinct places, sorted."""
    generator = torch.Generator().manual_seed(seed)
    places = [torch.randperm(out * inp, generator=generator)[:n].sort().values for n in counts]
    flat = torch.cat([torch.zeros(0, dtype=torch.int64), *places])
    delta = torch.randn(len(flat), generator=generator, dtype=torch.float64).to(dtype)
    offsets = torch.tensor([0, *map(len, places)]).cumsum(0)
    return SparseEdits((flat // inp).int(), (flat % inp).int(), delta, offsets)


def make_batch(out, inp, lengths, *, dtype=torch.float32, seed=0):
    """Random output and input, and token offsets."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(sum(lengths), out, generator=generator).to(dtype)
    x = torch.randn(sum(lengths), inp, generator=generator).to(dtype)
    return output, x, torch.tensor([0, *lengths]).cumsum(0)


def exact(output, x, edits, token_offsets, patches):
    """``y_t + D_p x_t`` in float64, the change of each patch as a dense matrix."""
    rows = []
    for (start, stop), patch in zip(
        pairwise(token_offsets.tolist()), patches.tolist(), strict=True
    ):
        dense = torch.zeros(output.shape[1], x.shape[1], dtype=torch.float64)
        if patch >= 0:
            mine = slice(*edits.offsets[patch : patch + 2].tolist())
            place = edits.rows[mine].long(), edits.columns[mine].long()
            dense.index_put_(place, edits.delta[mine].double(), accumulate=True)
        rows.append(output[start:stop].double() + x[start:stop].double() @ dense.T)
    return torch.cat([output[:0].double(), *rows])


# Blocks of one, a few and all sixteen tokens, and what is left of them; few edits (gathered) and
# many (transposed); a patch without edits; ranges without tokens or patch.
CASES = [
    (6, 9, [5, 0, 54], [1, 3, 0, 16, 33], [2, 0, 1, 0, 2]),
    (40, 30, [700, 3], [40, 17, 1, 9], [0, 1, 0, -1]),
    (1, 1, [1], [2], [0]),
    (3, 200, [100], [5, 7], [-1, 0]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "inp", "counts", "lengths", "patches"), CASES)
def test_agrees_with_float64(path, dtype, out, inp, counts, lengths, patches):
    edits = make_edits(out, inp, counts)
    output, x, offsets = make_batch(out, inp, lengths, dtype=dtype)
    before = output.clone(), x.clone()
    patches = torch.tensor(patches)
    actual = add_sparse_linear(output, x, edits, offsets, patches)
    assert actual.dtype == dtype
    wanted = exact(output, x, edits, offsets, patches)
    torch.testing.assert_close(actual.double(), wanted, **TOLERANCE[dtype])
    assert torch.equal(output, before[0])
    assert torch.equal(x, before[1])
    assert actual.data_ptr() != output.data_ptr()


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    out=st.integers(1, 12),
    inp=st.integers(1, 40),
    counts=st.lists(st.integers(0, 60), min_size=0, max_size=3),
    lengths=st.lists(st.integers(0, 20), max_size=5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_any_shape(path, out, inp, counts, lengths, dtype, seed):
    edits = make_edits(out, inp, counts, seed=seed)
    output, x, offsets = make_batch(out, inp, lengths, dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(-1, len(counts), (len(lengths),), generator=generator)
    actual = add_sparse_linear(output, x, edits, offsets, patches)
    wanted = exact(output, x, edits, offsets, patches)
    torch.testing.assert_close(actual.double(), wanted, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_linear_zeroes_scales_and_sets(path, dtype):
    """Against a copy of the weights with the edits written into it, one copy a patch."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(20, 31, generator=generator).to(dtype)
    bias = torch.randn(20, generator=generator).to(dtype)
    edited = [weight.clone() for _ in range(3)]
    edited[0].view(-1)[::7] = 0
    edited[1].view(-1)[3::11] *= 0.5
    edited[2].view(-1)[5::5] = 2
    changed = [e.float() - weight.float() for e in edited]
    places = [c.nonzero() for c in changed]
    values = [c[tuple(p.T)] for c, p in zip(changed, places, strict=True)]
    edits = SparseEdits(
        torch.cat(places)[:, 0].int(),
        torch.cat(places)[:, 1].int(),
        torch.cat(values),
        torch.tensor([0, *map(len, places)]).cumsum(0),
    )
    x = torch.randn(13, 31, generator=generator).to(dtype)
    before = weight.clone()
    offsets, patches = torch.tensor([0, 4, 5, 9, 13]), torch.tensor([2, -1, 0, 1])
    actual = masked_linear(x, weight, bias, edits, offsets, patches)
    assert torch.equal(weight, before)
    wanted = torch.cat(
        [
            functional.linear(
                x[a:b].double(), (weight if p < 0 else edited[p]).double(), bias.double()
            )
            for (a, b), p in zip(pairwise(offsets.tolist()), patches.tolist(), strict=True)
        ]
    )
    # The layer's own product is rounded to the type before it is corrected, and is up to 30 large.
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.2, torch.float16: 0.03}[dtype]
    torch.testing.assert_close(actual.double(), wanted, rtol=0, atol=tolerance)
    assert not torch.allclose(actual.float(), functional.linear(x, weight, bias).float(), atol=0.5)


@pytest.mark.parametrize("tokens", [0, 1])
def test_no_edits_and_no_patches_change_nothing(path, tokens):
    output, x, offsets = make_batch(5, 8, [tokens])
    none = make_edits(5, 8, [0])
    assert torch.equal(add_sparse_linear(output, x, none, offsets, torch.tensor([0])), output)
    some = make_edits(5, 8, [7])
    assert torch.equal(add_sparse_linear(output, x, some, offsets, torch.tensor([-1])), output)
    empty = make_edits(5, 8, [])
    assert torch.equal(add_sparse_linear(output, x, empty, offsets, torch.tensor([-1])), output)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [20, 400])
def test_any_strides(path, dtype, count):
    edits = make_edits(30, 25, [count])
    output, x, offsets = make_batch(30, 25, [40], dtype=dtype)
    patches = torch.tensor([0])
    wanted = add_sparse_linear(output, x, edits, offsets, patches)
    views = {
        "column-major": (output.T.contiguous().T, x.T.contiguous().T),
        "columns of a wider matrix": (
            torch.cat([output, output], 1)[:, 30:],
            torch.stack([x, x], 2)[:, :, 1],
        ),
    }
    for name, (output_view, x_view) in views.items():
        actual = add_sparse_linear(output_view, x_view, edits, offsets, patches)
        assert actual.is_contiguous(), name
        # The reference hands the strides to a GEMM, which may then sum in another order.
        tolerance = TOLERANCE[dtype] if path == "reference" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(actual, wanted, **tolerance, msg=name)
    wide = torch.stack([edits.rows, edits.columns], 1)
    strided = SparseEdits(wide[:, 0], wide[:, 1], edits.delta, edits.offsets)
    assert torch.equal(add_sparse_linear(output, x, strided, offsets, patches), wanted)


@pytest.mark.parametrize("count", [30, 900])
def test_a_token_does_not_depend_on_its_batch(instruction_sets, choose_path, threads, count):
    """Bit for bit: alone, in a small block, in a full one, on any number of threads."""
    edits = make_edits(40, 50, [count, 5])
    output, x, _ = make_batch(40, 50, [50])
    for choice in instruction_sets:
        choose_path(choice)
        together = add_sparse_linear(output, x, edits, torch.tensor([0, 50]), torch.tensor([0]))
        for number in (1, 2, 3, 7):
            threads(number)
            for size in (1, 5, 16, 50):
                parts = [*range(0, 50, size), 50]
                patches = torch.zeros(len(parts) - 1, dtype=torch.int64)
                split = add_sparse_linear(output, x, edits, torch.tensor(parts), patches)
                assert torch.equal(split, together), (choice, number, size)


def test_many_edits_of_one_token_are_shared_by_threads(instruction_sets, choose_path, threads):
    edits = make_edits(150, 100, [12_000])
    output, x, offsets = make_batch(150, 100, [1])
    patches = torch.tensor([0])
    wanted = exact(output, x, edits, offsets, patches)
    for choice in instruction_sets:
        choose_path(choice)
        results = []
        for number in (1, 2, 5):
            threads(number)
            results.append(add_sparse_linear(output, x, edits, offsets, patches))
        torch.testing.assert_close(results[0].double(), wanted, rtol=1e-5, atol=1e-4)
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_huge_subnormal_and_nan(path):
    edits = SparseEdits(
        torch.tensor([0, 1, 2], dtype=torch.int32),
        torch.tensor([0, 1, 2], dtype=torch.int32),
        torch.tensor([2.0**-70, 1e30, 1.0]),
        torch.tensor([0, 3]),
    )
    x = torch.tensor([[2.0**-70, 1e30, float("nan")], [1.0, 1.0, 1.0]])
    actual = add_sparse_linear(torch.zeros(2, 4), x, edits, torch.tensor([0, 2]), torch.tensor([0]))
    inf, nan = float("inf"), float("nan")
    if path == "reference":  # its dense product spreads the NaN over the row
        actual[0, 0], actual[0, 3], actual[0, 1] = 2.0**-140, 0, inf
    wanted = torch.tensor([[2.0**-140, inf, nan, 0], [2.0**-70, 1e30, 1.0, 0]])
    torch.testing.assert_close(actual, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("counts", [[4, 0, 9], [200, 3]])
def test_gradient_of_the_input(path, counts):
    out, inp = 11, 23
    edits = make_edits(out, inp, counts)
    output, x, offsets = make_batch(out, inp, [3, 20, 1, 2])
    patches = torch.tensor([1, 0, len(counts) - 1, -1])

    def gradients(output, x, function):
        output, x = output.clone().requires_grad_(), x.clone().requires_grad_()
        return torch.autograd.grad(function(output, x).sin().sum(), (output, x))

    ours = gradients(output, x, lambda o, i: add_sparse_linear(o, i, edits, offsets, patches))
    wanted = gradients(
        output.double(), x.double(), lambda o, i: exact(o, i, edits, offsets, patches)
    )
    for a, w in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a.double(), w, rtol=1e-4, atol=1e-4)


def test_gradcheck_of_the_reference():
    edits = make_edits(4, 5, [3, 6], dtype=torch.float64)
    output, x, offsets = make_batch(4, 5, [2, 3], dtype=torch.float64)
    patches = torch.tensor([1, 0])
    leaves = output.requires_grad_(), x.requires_grad_()

    def function(output, x):
        return add_sparse_linear(output, x, edits, offsets, patches)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_nothing_dense_is_saved(path):
    edits = make_edits(4, 5, [3])
    _, x, offsets = make_batch(4, 5, [6])
    weight = torch.randn(4, 5)
    x.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = masked_linear(x, weight, None, edits, offsets, torch.tensor([0]))
    assert all(t.dim() == 1 or t.data_ptr() == weight.data_ptr() for t in kept)
    y.sum().backward()
    assert x.grad.shape == x.shape


def bad(**changed):
    output, x, offsets = make_batch(3, 4, [2, 3])
    good = make_edits(3, 4, [2, 2])
    arguments = {
        "output": output,
        "input": x,
        "rows": torch.tensor([0, 2, 1, 1], dtype=torch.int32),
        "columns": good.columns,
        "delta": good.delta,
        "edit_offsets": good.offsets,
        "token_offsets": offsets,
        "patches": torch.tensor([1, 0]),
    }
    return {**arguments, **changed}


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


BAD_ARGUMENTS = {
    "one dimension": ({"input": torch.zeros(5)}, r"dimensions, not shapes \(5, 3\) and \(5,\)"),
    "tokens": ({"input": torch.zeros(6, 4)}, "output has 5 tokens but input has 6"),
    "mixed types": ({"input": torch.zeros(5, 4).half()}, "output is float32 but input is float16"),
    "lengths": ({"delta": torch.zeros(3)}, r"not shapes \(4,\), \(4,\) and \(3,\)"),
    "index type": ({"rows": torch.zeros(4).long()}, "must be int32, not int64 and int32"),
    "delta type": ({"delta": torch.zeros(4).double()}, "delta must be float32, not float64"),
    "edit offsets": (
        {"edit_offsets": torch.tensor([0, 3])},
        "edit_offsets must run from 0 to the number of edits, 4, not from 0 to 3",
    ),
    "token offsets": (
        {"token_offsets": torch.tensor([0, 6, 5])},
        r"token_offsets must not descend, but token_offsets\[2\] = 5 follows 6",
    ),
    "patch count": ({"patches": torch.tensor([0])}, r"patches must have shape \(2,\), not \(1,\)"),
    "patch type": ({"patches": int32(0, 1)}, "patches must be int64 on the CPU, not int32"),
    "unknown patch": ({"patches": torch.tensor([0, 2])}, "names patch 2, but there are 2"),
    "bad patch": ({"patches": torch.tensor([-2, 0])}, "names patch -2, but there are 2"),
    "row outside": ({"rows": int32(0, 3, 1, 1)}, "rows must lie in 0 to 2"),
    "negative row": ({"rows": int32(-1, 0, 1, 1)}, "rows must lie in 0 to 2"),
    "column outside": ({"columns": int32(0, 3, 4, 1)}, "columns must lie in 0 to 3"),
    "descending rows": ({"rows": int32(1, 0, 1, 1)}, "rows must not descend within a patch"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(path, case):
    changed, message = BAD_ARGUMENTS[case]
    arguments = bad(**changed)
    with pytest.raises((UsageError, RuntimeError), match=message):
        torch.ops.neuropatch.add_sparse_linear(*arguments.values())
    output, x, *edits, token_offsets, patches = arguments.values()
    with pytest.raises((UsageError, RuntimeError), match=message):
        add_sparse_linear(output, x, SparseEdits(*edits), token_offsets, patches)


def test_good_arguments_are_good(path):
    torch.ops.neuropatch.add_sparse_linear(*bad().values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    edits = make_edits(7, 9, [4, 0, 30])
    output, x, offsets = make_batch(7, 9, [2, 18, 1], dtype=dtype)
    torch.library.opcheck(
        torch.ops.neuropatch.add_sparse_linear.default,
        (
            output.requires_grad_(),
            x.requires_grad_(),
            edits.rows,
            edits.columns,
            edits.delta,
            edits.offsets,
            offsets,
            torch.tensor([0, 2, -1]),
        ),
    )
