"""Exact scores of a few weights: the very bits of the whole matrix's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.errors import UsageError
from neuropatch.kernels import snip_accumulate_, snip_accumulate_at_
from neuropatch.kernels.reference import snip_at as reference

RAGGED = [0, 1, 5, 0, 17, 1, 40, 0]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def places(out, inp, count, seed=0):
    """``count`` of the matrix's weights, in order of row and column."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randperm(out * inp, generator=generator)[:count].sort().values
    return (flat // inp).int(), (flat % inp).int()


def whole(score, *arguments):
    result = score.clone()
    snip_accumulate_(result, *arguments)
    return result


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    out=st.integers(1, 40),
    inp=st.integers(1, 110),
    lengths=st.lists(st.integers(0, 12), max_size=8),
    count=st.integers(0, 100),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_bits_of_the_whole_matrix(path, make_tensors, out, inp, lengths, count, dtype, seed):
    score, grad, x, offsets = make_tensors(out, inp, lengths, dtype=dtype, seed=seed)
    rows, columns = places(out, inp, count, seed)
    some = score[rows, columns].contiguous()
    expected = whole(score, grad, x, offsets)[rows, columns]
    snip_accumulate_at_(some, grad, x, offsets, rows, columns)
    assert torch.equal(some, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_the_whole_matrix_over_calls_and_strides(path, make_tensors, dtype):
    """Several batches; each with other strides, which the reference's GEMM may sum differently."""
    rows, columns = places(200, 65, 900)
    matrix, some = torch.zeros(200, 65), torch.zeros(900)
    for seed in range(3):
        _, grad, x, offsets = make_tensors(200, 65, RAGGED, dtype=dtype, seed=seed)
        if seed and path != "reference":
            grad = torch.cat([grad, grad], dim=1)[:, ::2] if seed == 1 else grad.T.contiguous().T
            x = torch.cat([x, x], dim=1)[:, 65:]
        snip_accumulate_(matrix, grad, x, offsets)
        snip_accumulate_at_(some, grad, x, offsets, rows, columns)
    assert torch.equal(some, matrix[rows, columns])


def test_agrees_with_float64(path, make_tensors):
    _, grad, x, offsets = make_tensors(30, 40, RAGGED)
    rows, columns = places(30, 40, 300)
    exact = torch.zeros(300, dtype=torch.float64)
    reference.snip_accumulate_at_(exact, grad.double(), x.double(), offsets, rows, columns)
    score = torch.zeros(300)
    snip_accumulate_at_(score, grad, x, offsets, rows, columns)
    # Float32 summation of 64 terms, as in the tests of snip_accumulate_.
    assert (score.double() - exact).norm() <= 1e-6 * exact.norm()


def test_any_order_and_repetitions(path, make_tensors):
    score, grad, x, offsets = make_tensors(9, 50, RAGGED)
    rows = torch.tensor([8, 0, 8, 8, 3, 0, 1, 2, 3, 4, 8], dtype=torch.int32)
    columns = torch.tensor([49, 0, 49, 1, 7, 0, 1, 2, 3, 4, 49], dtype=torch.int32)
    some = torch.zeros(11)
    snip_accumulate_at_(some, grad, x, offsets, rows, columns)
    assert torch.equal(some, whole(torch.zeros_like(score), grad, x, offsets)[rows, columns])


@pytest.mark.parametrize("scale", [2.0**-70, 2.0**-60, 2.0**62, float("inf"), float("nan")])
def test_extreme_values_have_the_same_bits(path, make_tensors, scale):
    _, grad, x, offsets = make_tensors(9, 50, RAGGED)
    rows, columns = places(9, 50, 450)
    grad, x = grad * scale, x * (scale if scale < 1 or scale > 2.0**63 else 2.0**64)
    matrix, some = torch.zeros(9, 50), torch.zeros(450)
    snip_accumulate_(matrix, grad, x, offsets)
    snip_accumulate_at_(some, grad, x, offsets, rows, columns)
    torch.testing.assert_close(some, matrix.reshape(-1), rtol=0, atol=0, equal_nan=True)
    if scale < 1:
        assert (some > 0).any()
        assert (some < 2.0**-110).all()


def test_subnormal_bfloat16_have_the_same_bits(path, make_tensors):
    """Dot products of bfloat16 flush operands and results that the other paths keep."""
    _, grad, x, offsets = make_tensors(9, 50, RAGGED, dtype=torch.bfloat16)
    rows, columns = places(9, 50, 450)
    for of_grad, of_input in ((2.0**-63, 2.0**-63), (2.0**-66, 2.0**-66), (2.0**-128, 2.0**60)):
        matrix, some = torch.zeros(9, 50), torch.zeros(450)
        snip_accumulate_(matrix, grad * of_grad, x * of_input, offsets)
        snip_accumulate_at_(some, grad * of_grad, x * of_input, offsets, rows, columns)
        assert torch.equal(some, matrix.reshape(-1))
    # The mode of the processor is as it was.
    assert torch.tensor([2.0**-130]).mul(0.5).item() == 2.0**-131


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_no_tokens_change_nothing(path, make_tensors, lengths):
    _, grad, x, offsets = make_tensors(9, 50, lengths)
    rows, columns = places(9, 50, 7)
    some = torch.full((7,), 0.25)
    snip_accumulate_at_(some, grad, x, offsets, rows, columns)
    assert torch.equal(some, torch.full((7,), 0.25))


def test_independent_of_threads(instruction_sets, choose_path, make_tensors, threads):
    rows, columns = places(120, 70, 2000)
    for choice in instruction_sets:
        choose_path(choice)
        _, grad, x, offsets = make_tensors(120, 70, [30, 1, 0, 25])
        results = []
        for count in (1, 2, 3, 7):
            threads(count)
            results.append(torch.zeros(2000))
            snip_accumulate_at_(results[-1], grad, x, offsets, rows, columns)
        assert all(torch.equal(results[0], other) for other in results[1:]), choice


def test_float64_takes_the_reference(make_tensors):
    _, grad, x, offsets = make_tensors(6, 9, [4, 5])
    rows, columns = places(6, 9, 20)
    score = torch.zeros(20, dtype=torch.float64)
    arguments = (grad.double(), x.double(), offsets)
    snip_accumulate_at_(score, *arguments, rows, columns)
    matrix = whole(torch.zeros(6, 9, dtype=torch.float64), *arguments)
    assert torch.equal(score, matrix[rows, columns])


def _arguments(make_tensors, **changed):
    _, grad, x, offsets = make_tensors(3, 4, [2, 3])
    rows, columns = places(3, 4, 5)
    return {
        "score": torch.zeros(5),
        "grad": grad,
        "input": x,
        "offsets": offsets,
        "rows": rows,
        "columns": columns,
        **changed,
    }


INT = torch.int32
BAD_ARGUMENTS = {
    "counts": ({"rows": torch.zeros(4, dtype=INT)}, r"one shape \(n,\), not \(5,\), \(4,\) and"),
    "dimensions": ({"score": torch.zeros(5, 1)}, r"one shape \(n,\), not \(5, 1\)"),
    "vector": ({"grad": torch.zeros(5)}, r"two dimensions, not shapes \(5,\) and \(5, 4\)"),
    "tokens": ({"input": torch.zeros(6, 4)}, "grad has 5 tokens but input has 6"),
    "mixed types": ({"input": torch.zeros(5, 4).half()}, "grad is float32 but input is float16"),
    "long rows": ({"rows": torch.zeros(5).long()}, "must be int32, not int64 and int32"),
    "strided": ({"score": torch.zeros(10)[::2]}, "score, rows and columns must be contiguous"),
    "high row": ({"rows": torch.full((5,), 3, dtype=INT)}, "rows must be from 0 to 2, not from 3"),
    "low column": (
        {"columns": torch.tensor([0, 1, -1, 2, 3], dtype=INT)},
        "columns must be from 0 to 3, not from -1 to 3",
    ),
    "early end": ({"offsets": torch.tensor([0, 4])}, "tokens, 5, not from 0 to 4"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(path, make_tensors, case):
    changed, message = BAD_ARGUMENTS[case]
    arguments = _arguments(make_tensors, **changed)
    with pytest.raises(UsageError, match=message) as of_wrapper:
        snip_accumulate_at_(**arguments)
    assert not arguments["score"].any()
    with pytest.raises((RuntimeError, UsageError)) as of_operator:
        torch.ops.neuropatch.snip_accumulate_at_(**arguments)
    assert of_wrapper.value.message in str(of_operator.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"grad": torch.zeros(5, 3).int(), "input": torch.zeros(5, 4).int()}, "not int32"),
        ({"score": torch.zeros(5).half()}, "score must be float32 or float64, not float16"),
        ({"score": torch.zeros(5, requires_grad=True)}, "must not require a gradient"),
        ({"rows": torch.zeros(5, dtype=INT, device="meta")}, "must be on one device"),
    ],
)
def test_bad_types_and_devices(make_tensors, changed, message):
    with pytest.raises(UsageError, match=message):
        snip_accumulate_at_(**_arguments(make_tensors, **changed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(make_tensors, dtype):
    _, grad, x, offsets = make_tensors(9, 50, RAGGED, dtype=dtype)
    arguments = (torch.zeros(30), grad, x, offsets, *places(9, 50, 30))
    torch.library.opcheck(torch.ops.neuropatch.snip_accumulate_at_.default, arguments)
