"""Per-sample norms against exact arithmetic: never below, and hardly above."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from neuropatch.errors import UsageError
from neuropatch.kernels import snip_column_norms

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RAGGED = [0, 1, 5, 0, 17, 1, 40, 0]


def exact_squares(values, offsets):
    """Sums of squares as fractions, ``[samples][columns]``."""
    rows = [[Fraction(v) ** 2 for v in row] for row in values.double().tolist()]
    return [
        [sum((row[j] for row in rows[start:stop]), Fraction(0)) for j in range(values.shape[1])]
        for start, stop in pairwise(offsets.tolist())
    ]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=nps.arrays(
        np.float32,
        st.tuples(st.integers(0, 9), st.integers(1, 5)),
        elements=st.floats(width=32, min_value=-(2.0**120), max_value=2.0**120),
    ),
    cut=st.integers(0, 9),
    dtype=st.sampled_from(DTYPES),
)
def test_an_upper_bound_of_the_exact_norm_and_close(path, values, cut, dtype):
    # The largest float16 stands for what lies beyond it.
    tensor = torch.from_numpy(values).clamp(-65504, 65504 if dtype == torch.float16 else 2.0**120)
    tensor = tensor.to(dtype)
    offsets = torch.tensor([0, min(cut, len(values)), len(values)])
    norms = snip_column_norms(tensor, offsets)
    assert norms.dtype == torch.float32
    for found_row, exact_row in zip(norms.tolist(), exact_squares(tensor, offsets), strict=True):
        for found, square in zip(found_row, exact_row, strict=True):
            assert Fraction(found) ** 2 >= square
            assert (found == 0) == (square == 0)
            # One float32 up at the most, of which half is the rounding's.
            below = Fraction(found) * (1 - Fraction(1, 2**22)) - Fraction(1, 2**149)
            assert below <= 0 or below**2 <= square


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 7, 64, 511, 513, 1100])
def test_odd_shapes(path, make_tensors, dtype, columns):
    _, _, x, offsets = make_tensors(1, columns, RAGGED, dtype=dtype)
    exact = torch.stack([x[a:b].double().norm(dim=0) for a, b in pairwise(offsets.tolist())])
    norms = snip_column_norms(x, offsets)
    assert norms.shape == (len(RAGGED), columns)
    # One float32 up at the most; the float64 norm itself errs by 1e-15.
    torch.testing.assert_close(norms.double(), exact, rtol=2.0**-22, atol=0)
    assert (norms >= exact * (1 - 1e-14)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_tokens(path, make_tensors, dtype):
    _, _, x, offsets = make_tensors(1, 70, RAGGED, dtype=dtype)
    weights = torch.rand(2 * len(x))[::2]
    weights[3] = 0
    exact = weights.double()[:, None] * x.double()
    exact = torch.stack([exact[a:b].norm(dim=0) for a, b in pairwise(offsets.tolist())])
    norms = snip_column_norms(x, offsets, weights)
    torch.testing.assert_close(norms.double(), exact, rtol=2.0**-22, atol=0)
    assert (norms >= exact * (1 - 1e-14)).all()
    ones = snip_column_norms(x, offsets, torch.ones(len(x)))
    assert torch.equal(ones, snip_column_norms(x, offsets))


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(path, make_tensors, dtype):
    _, _, x, offsets = make_tensors(1, 70, RAGGED, dtype=dtype)
    norms = snip_column_norms(x, offsets)
    wide = torch.zeros(len(x), 143, dtype=dtype)
    wide[:, 3::2] = x
    for view in (x.T.contiguous().T, wide[:, 3::2], torch.cat([x, x], dim=1)[:, 70:]):
        assert not view.is_contiguous()
        # Only the reference's sums depend on strides, by less than the rounding up.
        tolerance = 2.0**-22 if path == "reference" else 0
        torch.testing.assert_close(snip_column_norms(view, offsets), norms, rtol=tolerance, atol=0)
    assert torch.equal(
        snip_column_norms(torch.full((1, 1), -2.0).expand(9, 4), torch.tensor([0, 9])),
        torch.full((1, 4), 6.0).nextafter(torch.tensor(torch.inf)),
    )


def test_the_same_bits_everywhere(instruction_sets, choose_path, make_tensors, threads):
    _, _, x, offsets = make_tensors(1, 1300, RAGGED)
    results = []
    for choice in instruction_sets:
        choose_path(choice)
        for count in (1, 2, 7):
            threads(count)
            results.append(snip_column_norms(x, offsets))
    assert all(torch.equal(results[0], other) for other in results)


@pytest.mark.parametrize(
    ("value", "norm"),
    [
        (float("inf"), float("inf")),
        (float("nan"), float("nan")),
        (2.0**127, float("inf")),  # the norm of four of them is beyond float32
        (2.0**-149, 2.0**-148 + 2.0**-149),
        (0.0, 0.0),
    ],
)
def test_extreme_values(path, value, norm):
    found = snip_column_norms(torch.full((4, 3), value), torch.tensor([0, 4, 4]))
    torch.testing.assert_close(found[0], torch.full((3,), norm), rtol=0, atol=0, equal_nan=True)
    assert not found[1].any()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty(path, shape):
    norms = snip_column_norms(torch.zeros(shape), torch.tensor([0, shape[0]]))
    assert torch.equal(norms, torch.zeros(1, shape[1]))
    none = snip_column_norms(torch.zeros(0, 4), torch.tensor([0]))
    assert none.shape == (0, 4)
    assert none.dtype == torch.float32


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": torch.zeros(5)}, r"two dimensions, not shape \(5,\)"),
        ({"offsets": torch.tensor([0, 4])}, "tokens, 5, not from 0 to 4"),
        ({"offsets": torch.tensor([0, 5]).int()}, "offsets must be int64, not int32"),
        ({"weights": torch.zeros(4)}, r"weights must have shape \(5,\), not \(4,\)"),
        ({"weights": torch.zeros(5).double()}, "weights must be float32, not float64"),
    ],
)
def test_bad_arguments(path, changed, message):
    arguments = {"values": torch.zeros(5, 3), "offsets": torch.tensor([0, 5]), **changed}
    with pytest.raises(UsageError, match=message) as of_wrapper:
        snip_column_norms(**arguments)
    with pytest.raises((RuntimeError, UsageError)) as of_operator:
        torch.ops.neuropatch.snip_column_norms(**arguments)
    assert of_wrapper.value.message in str(of_operator.value)


def test_integers_are_refused():
    with pytest.raises(UsageError, match=r"values must be float32, .* not int32"):
        snip_column_norms(torch.zeros(5, 3).int(), torch.tensor([0, 5]))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_opcheck(make_tensors, dtype):
    _, _, x, offsets = make_tensors(1, 50, RAGGED, dtype=dtype)
    if dtype == torch.float64:
        exact = torch.stack([x[a:b].norm(dim=0) for a, b in pairwise(offsets.tolist())])
        torch.testing.assert_close(
            snip_column_norms(x, offsets).double(), exact, rtol=2.0**-22, atol=0
        )
        return
    op = torch.ops.neuropatch.snip_column_norms.default
    torch.library.opcheck(op, (x, offsets))
    torch.library.opcheck(op, (x, offsets, torch.rand(len(x))))
