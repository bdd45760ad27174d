from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.errors import UsageError
from neuropatch.kernels import snip_accumulate_
from neuropatch.kernels.reference import snip as reference

# Lengths with an empty sample first, in the middle and last, and single tokens.
RAGGED = [0, 1, 5, 0, 17, 1, 40, 0]

# Each product is exact in float32 for bfloat16 (8-bit significands) and float16 (11-bit), and the
# sum is float32 for every type, so the error against the same (already rounded) activations in
# float64 is that of float32 summation: at most about tokens * 2**-24 of the sum of magnitudes, and
# its square root in practice. For 64 tokens of standard normal values 1e-6 of the Frobenius norm
# leaves a factor of five.
FROBENIUS_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}


def expected(score, grad, x, offsets):
    """The same sum in float64."""
    result = score.double()
    reference.snip_accumulate_(result, grad.double(), x.double(), offsets)
    return result


def frobenius_error(actual, exact):
    return ((actual.double() - exact).norm() / exact.norm()).item()


def test_reference_is_the_gradient_of_each_sample(make_tensors):
    """Against autograd: the weight gradient of a linear layer, one sample at a time."""
    _, grad, x, offsets = make_tensors(5, 7, RAGGED)
    score = torch.zeros(5, 7, dtype=torch.float64)
    snip_accumulate_(score, grad.double(), x.double(), offsets)

    by_autograd = torch.zeros(5, 7, dtype=torch.float64)
    for start, stop in pairwise(offsets.tolist()):
        weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
        output = x[start:stop].double() @ weight.T
        output.backward(grad[start:stop].double())
        by_autograd += weight.grad.abs()
    torch.testing.assert_close(score, by_autograd, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("out", "inp"),
    [
        (1, 1),
        (8, 48),  # one whole tile of avx512
        (6, 16),  # one whole tile of avx2
        (7, 47),
        (9, 49),
        (200, 33),  # more than one block of rows, a panel of three vectors with one element over
        (384, 65),
        (5, 161),
    ],
)
def test_agrees_with_float64(path, make_tensors, dtype, out, inp):
    score, grad, x, offsets = make_tensors(out, inp, RAGGED, dtype=dtype)
    exact = expected(score, grad, x, offsets)
    snip_accumulate_(score, grad, x, offsets)
    assert frobenius_error(score, exact) <= FROBENIUS_TOLERANCE[dtype]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    out=st.integers(1, 40),
    inp=st.integers(1, 110),
    lengths=st.lists(st.integers(0, 12), max_size=8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**31),
)
def test_any_shape(path, make_tensors, out, inp, lengths, dtype, seed):
    score, grad, x, offsets = make_tensors(out, inp, lengths, dtype=dtype, seed=seed)
    exact = expected(score, grad, x, offsets)
    snip_accumulate_(score, grad, x, offsets)
    # A single element may be the difference of large terms; 12 tokens of values below 6 sum to at
    # most 432 a sample, so 8 samples err by less than 8 * 12 * 432 * 2**-24.
    torch.testing.assert_close(score.double(), exact, rtol=1e-6, atol=2.5e-3)
    assert frobenius_error(score, exact) <= 1e-6


def test_adds_to_what_is_there(path, make_tensors):
    score, grad, x, offsets = make_tensors(9, 50, [4, 3])
    once = torch.zeros_like(score)
    snip_accumulate_(once, grad, x, offsets)
    total = score + once
    snip_accumulate_(score, grad, x, offsets)
    torch.testing.assert_close(score, total, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_no_tokens_change_nothing(path, make_tensors, lengths):
    score, grad, x, offsets = make_tensors(9, 50, lengths)
    before = score.clone()
    snip_accumulate_(score, grad, x, offsets)
    assert torch.equal(score, before)


@pytest.mark.parametrize(("out", "inp"), [(0, 4), (4, 0), (0, 0)])
def test_empty_score(path, make_tensors, out, inp):
    score, grad, x, offsets = make_tensors(out, inp, [3, 2])
    snip_accumulate_(score, grad, x, offsets)
    assert score.shape == (out, inp)


def test_empty_samples_between_do_not_matter(path, make_tensors):
    score, grad, x, _ = make_tensors(10, 50, [4, 3])
    dense, sparse = score.clone(), score.clone()
    snip_accumulate_(dense, grad, x, torch.tensor([0, 4, 7]))
    snip_accumulate_(sparse, grad, x, torch.tensor([0, 0, 4, 4, 4, 7, 7]))
    assert torch.equal(dense, sparse)


def test_single_tokens_are_outer_products(path, make_tensors):
    _, grad, x, offsets = make_tensors(11, 51, [1, 1, 1])
    score = torch.zeros(11, 51)
    snip_accumulate_(score, grad, x, offsets)
    torch.testing.assert_close(score, grad.abs().T @ x.abs(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_strides(path, make_tensors, dtype):
    score, grad, x, offsets = make_tensors(13, 70, RAGGED, dtype=dtype)
    contiguous = score.clone()
    snip_accumulate_(contiguous, grad, x, offsets)

    wide_grad = torch.zeros(grad.shape[0], 2 * 13 + 3, dtype=dtype)
    wide_grad[:, 3::2] = grad
    views = {
        "column-major": (grad.T.contiguous().T, x.T.contiguous().T),
        "every second column": (wide_grad[:, 3::2], x),
        "rows of a wider matrix": (grad, torch.cat([x, x], dim=1)[:, 70:]),
    }
    for name, (grad_view, x_view) in views.items():
        assert not (grad_view.is_contiguous() and x_view.is_contiguous()), name
        strided = score.clone()
        snip_accumulate_(strided, grad_view, x_view, offsets)
        # The reference hands the strides to a GEMM, which may then sum in another order.
        torch.testing.assert_close(
            strided, contiguous, rtol=0 if path != "reference" else 1e-5, atol=1e-5, msg=name
        )


def test_expanded_inputs_and_strided_offsets(path):
    score = torch.zeros(3, 4)
    ones = torch.ones(1, 1)
    offsets = torch.tensor([0, 99, 2, 99, 6])[::2]
    snip_accumulate_(score, ones.expand(6, 3), -ones.expand(6, 4), offsets)
    assert torch.equal(score, torch.full((3, 4), 6.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_value_is_converted_exactly(path, dtype):
    """All 65536 bit patterns against a factor of one, subnormals, infinities and NaN included.

    The bfloat16 dot products take subnormals for zeros.
    """
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    score = torch.zeros(1, values.numel())
    snip_accumulate_(
        score, torch.ones(1, 1, dtype=dtype), values.unsqueeze(0), torch.tensor([0, 1])
    )
    exact = values.float().abs()
    if dtype == torch.bfloat16 and path == "avx512_bf16":
        exact[exact < torch.finfo(dtype).tiny] = 0
    torch.testing.assert_close(score[0], exact, rtol=0, atol=0, equal_nan=True)
    assert torch.isnan(score).sum() == torch.isnan(values).sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_subnormal_results(path, dtype):
    """Products and sums below the smallest normal number: kept, or flushed to zero."""
    kept = 0 if dtype == torch.bfloat16 and path == "avx512_bf16" else 1
    tiny = 2.0**-140
    score = torch.zeros(9, 49)
    grad = torch.full((2, 9), 2.0**-70, dtype=dtype)
    x = torch.full((2, 49), -(2.0**-70), dtype=dtype)
    snip_accumulate_(score, grad, x, torch.tensor([0, 1, 2]))
    assert torch.equal(score, torch.full((9, 49), kept * 2 * tiny))

    # 1.5 - 1 times the smallest normal number.
    score = torch.zeros(9, 49)
    grad = torch.tensor([[1.5], [-1.0]], dtype=dtype).expand(2, 9)
    x = torch.full((2, 49), 2.0**-126, dtype=dtype)
    snip_accumulate_(score, grad, x, torch.tensor([0, 2]))
    assert torch.equal(score, torch.full((9, 49), kept * 2.0**-127))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_values(path, dtype):
    big = torch.finfo(dtype).max
    score = torch.zeros(2, 3)
    grad = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=dtype)
    x = torch.tensor([[big, -big, 2.0**14], [1.0, 1.0, 1.0]], dtype=dtype)
    snip_accumulate_(score, grad, x, torch.tensor([0, 2]))
    # Twice the largest float16 is a float32, twice the largest of the others is not.
    exact = torch.tensor([[big, big, 2.0**14], [2 * big, 2 * big, 2.0**15]], dtype=torch.float64)
    assert torch.equal(score, exact.float())
    assert torch.isinf(score).any() == (dtype != torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_in_its_row_and_column(path, make_tensors, bad, dtype):
    """Nothing leaks into other elements through padding, and nothing is lost."""
    score, grad, x, offsets = make_tensors(20, 100, [5, 6], dtype=dtype)
    clean = score.clone()
    snip_accumulate_(clean, grad, x, offsets)
    grad[3, 19] = bad
    x[7, 99] = bad
    snip_accumulate_(score, grad, x, offsets)
    assert not torch.isfinite(score[19]).any()
    assert not torch.isfinite(score[:, 99]).any()
    torch.testing.assert_close(score[:19, :99], clean[:19, :99], rtol=1e-6, atol=1e-6)


def fused_multiply_add(a, b, c):
    """``a * b + c`` of float32 arrays with one rounding to float32.

    The product is exact in float64. Its sum with c is rounded to odd there, so that rounding again,
    to 29 bits fewer, is rounding once (Boldo and Melquiond, 2008).
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    wide = c.astype(np.float64)
    total = product + wide
    back = total - product
    rest = (product - (total - back)) + (wide - back)
    even = total.view(np.int64) % 2 == 0
    towards = np.where(rest > 0, np.inf, -np.inf)
    odd = np.where((rest != 0) & even, np.nextafter(total, towards), total)
    return odd.astype(np.float32)


def in_the_contracted_order(score, grad, x, offsets):
    """The sum as ``csrc/cpu/snip_kernels.h`` promises it, operation by operation."""
    grad, x = grad.float().numpy(), x.float().numpy()
    total = np.zeros(score.shape, dtype=np.float32)
    for start, stop in pairwise(offsets.tolist()):
        one = np.zeros_like(total)
        for t in range(start, stop):
            factors = np.broadcast_arrays(grad[t, :, None], x[t, None, :])
            one = fused_multiply_add(*factors, one)
        total = total + np.abs(one)
    return torch.from_numpy(score.numpy() + total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_order_of_summation(instruction_sets, choose_path, make_tensors, dtype):
    """Bit for bit what other operators rely on, wherever the CPU has fused multiply-adds."""
    arguments = make_tensors(21, 101, RAGGED, dtype=dtype)
    contracted = in_the_contracted_order(*arguments)
    for choice in instruction_sets:
        if choice != "portable":
            choose_path(choice)
            score, *rest = arguments
            result = score.clone()
            snip_accumulate_(result, *rest)
            assert torch.equal(result, contracted), choice


def test_independent_of_threads(instruction_sets, choose_path, make_tensors, threads):
    """Bit for bit, for any number of threads, with fewer and with more tasks than threads."""
    for choice in instruction_sets:
        choose_path(choice)
        # The last one has so many panels that one thread takes several at once.
        cases = itertools.product([(500, 50), (3, 5), (30, 1300)], [torch.float32, torch.bfloat16])
        for (out, inp), dtype in cases:
            score, grad, x, offsets = make_tensors(out, inp, [30, 1, 0, 25], dtype=dtype)
            results = []
            for count in (1, 2, 3, 7):
                threads(count)
                result = score.clone()
                snip_accumulate_(result, grad, x, offsets)
                results.append(result)
            assert all(torch.equal(results[0], other) for other in results[1:]), (choice, out, inp)


def test_float64_takes_the_reference(make_tensors):
    _, grad, x, offsets = make_tensors(6, 9, [4, 5])
    score = torch.zeros(6, 9, dtype=torch.float64)
    snip_accumulate_(score, grad.double(), x.double(), offsets)
    by_reference = torch.zeros(6, 9, dtype=torch.float64)
    reference.snip_accumulate_(by_reference, grad.double(), x.double(), offsets)
    assert torch.equal(score, by_reference)


def test_activations_of_a_graph(path, make_tensors):
    """Tensors that require gradients, as hooks see them, are read without being recorded."""
    score, grad, x, offsets = make_tensors(6, 9, [4, 5])
    plain = score.clone()
    snip_accumulate_(plain, grad, x, offsets)
    snip_accumulate_(score, grad.requires_grad_(), x.requires_grad_(), offsets)
    assert not score.requires_grad
    assert torch.equal(score, plain)


def _arguments(make_tensors, **changed):
    score, grad, x, offsets = make_tensors(3, 4, [2, 3])
    return {"score": score, "grad": grad, "input": x, "offsets": offsets, **changed}


BAD_ARGUMENTS = {
    "one dimension": ({"grad": torch.zeros(5)}, r"two dimensions, not shapes \(3, 4\), \(5,\) and"),
    "tokens": ({"input": torch.zeros(6, 4)}, "grad has 5 tokens but input has 6"),
    "score shape": ({"score": torch.zeros(4, 3)}, r"shape \(4, 3\) but grad and input need \(3, 4"),
    "mixed types": ({"input": torch.zeros(5, 4).half()}, "grad is float32 but input is float16"),
    "strided score": ({"score": torch.zeros(4, 3).T}, "score must be contiguous"),
    "offset shape": ({"offsets": torch.zeros(2, 2).long()}, r"shape \(samples \+ 1,\), not \(2, 2"),
    "no offsets": ({"offsets": torch.zeros(0).long()}, r"shape \(samples \+ 1,\), not \(0,\)"),
    "offset type": ({"offsets": torch.tensor([0, 5]).int()}, "offsets must be int64, not int32"),
    "late start": ({"offsets": torch.tensor([1, 5])}, "tokens, 5, not from 1 to 5"),
    "early end": ({"offsets": torch.tensor([0, 4])}, "tokens, 5, not from 0 to 4"),
    "past the end": ({"offsets": torch.tensor([0, 6])}, "tokens, 5, not from 0 to 6"),
    "descending": (
        {"offsets": torch.tensor([0, 7, 3, 5])},
        r"not descend, but offsets\[2\] = 3 follows 7",
    ),
    "negative": ({"offsets": torch.tensor([0, -3, 5])}, r"offsets\[1\] = -3 follows 0"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(path, make_tensors, case):
    changed, message = BAD_ARGUMENTS[case]
    arguments = _arguments(make_tensors, **changed)
    before = arguments["score"].clone()
    with pytest.raises(UsageError, match=message):
        snip_accumulate_(**arguments)
    assert torch.equal(arguments["score"], before)


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_the_operator_words_errors_as_the_wrapper_does(make_tensors, case):
    """``torch.ops`` is checked too: in C++ where the extension is loaded."""
    changed, _ = BAD_ARGUMENTS[case]
    arguments = _arguments(make_tensors, **changed)
    with pytest.raises(UsageError) as of_wrapper:
        snip_accumulate_(**arguments)
    with pytest.raises((RuntimeError, UsageError)) as of_operator:
        torch.ops.neuropatch.snip_accumulate_(**arguments)
    assert of_wrapper.value.message in str(of_operator.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"grad": torch.zeros(5, 3).int(), "input": torch.zeros(5, 4).int()}, "not int32"),
        ({"score": torch.zeros(3, 4).half()}, "score must be float32 or float64, not float16"),
        (
            {"grad": torch.zeros(5, 3).double(), "input": torch.zeros(5, 4).double()},
            "float64 activations need a float64 score",
        ),
        ({"score": torch.zeros(3, 4, requires_grad=True)}, "must not require a gradient"),
        ({"score": torch.zeros(3, 4, device="meta")}, "must be on one device"),
        ({"offsets": torch.zeros(3, dtype=torch.int64, device="meta")}, "offsets must be on the C"),
    ],
)
def test_bad_types_and_devices(make_tensors, changed, message):
    with pytest.raises(UsageError, match=message):
        snip_accumulate_(**_arguments(make_tensors, **changed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_opcheck(make_tensors, dtype):
    arguments = make_tensors(9, 50, RAGGED, dtype=dtype)
    torch.library.opcheck(torch.ops.neuropatch.snip_accumulate_.default, arguments)
