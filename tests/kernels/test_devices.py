"""Every operator with a CUDA kernel, on every device: ``pytest tests/kernels --device cuda``.

Without a GPU the same tests run on the CPU, so that nothing is wrong with the tests themselves.
"""

from __future__ import annotations

import pytest
import torch

from neuropatch.errors import UsageError
from neuropatch.kernels import (
    cuda_kernels,
    product_topk,
    snip_accumulate_,
    snip_accumulate_at_,
    snip_column_norms,
)
from neuropatch.kernels._backend import compiled
from neuropatch.kernels.reference import norms as norms_reference
from neuropatch.kernels.reference import snip as reference
from neuropatch.kernels.reference import topk as topk_reference

RAGGED = [0, 1, 5, 0, 17, 1, 40, 0, 140]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (7, 47), (64, 128), (200, 33), (576, 1536), (1500, 1411)]


def tolerance(device, dtype):
    """Of the Frobenius norm.

    float32 sums of 140 terms err by less than 1e-6. A tensor core cuts off what it adds 16 products
    at a time by, to about 22 bits of the largest: 10 such steps are below 1e-5.
    """
    return 1e-5 if device == "cuda" and dtype != torch.float32 else 1e-6


def on(device, arguments):
    """Offsets stay on the CPU."""
    score, grad, x, offsets = arguments
    return score.to(device), grad.to(device), x.to(device), offsets


def exact(score, grad, x, offsets):
    result = score.cpu().double()
    reference.snip_accumulate_(result, grad.cpu().double(), x.cpu().double(), offsets)
    return result


def check_accumulation(device, arguments):
    expected = exact(*arguments)
    snip_accumulate_(*arguments)
    error = (arguments[0].cpu().double() - expected).norm() / expected.norm()
    assert error <= tolerance(device, arguments[1].dtype)


def test_a_gpu_runs_the_compiled_kernels(device):
    if device == "cuda":
        ops = cuda_kernels().ops
        assert "snip_accumulate_" in ops
        assert all(compiled(op, torch.device(device)) for op in ops)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "inp"), SHAPES)
def test_accumulation(device, make_tensors, dtype, out, inp):
    check_accumulation(device, on(device, make_tensors(out, inp, RAGGED, dtype=dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_accumulation_of_any_strides(device, make_tensors, dtype):
    """Column-major, rows that do not start at multiples of 16 bytes, rows of a wider matrix."""
    score, grad, x, offsets = on(device, make_tensors(40, 72, RAGGED, dtype=dtype))
    check_accumulation(device, (score, grad.T.contiguous().T, x, offsets))
    flat = torch.cat([x.reshape(-1)[:1], x.reshape(-1)])
    check_accumulation(device, (score, grad, flat[1:].view(x.shape), offsets))
    check_accumulation(device, (score, torch.cat([grad, grad], dim=1)[:, 40:], x, offsets))
    check_accumulation(device, (score, grad[:1].expand(grad.shape), x, offsets))


def test_nothing_to_add(device, make_tensors):
    for lengths in ([], [0, 0]):
        score, *rest = on(device, make_tensors(9, 50, lengths))
        before = score.clone()
        snip_accumulate_(score, *rest)
        assert torch.equal(score, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_runs_have_the_same_bits(device, make_tensors, dtype):
    score, *rest = on(device, make_tensors(300, 500, RAGGED, dtype=dtype))
    results = [score.clone() for _ in range(3)]
    for result in results:
        snip_accumulate_(result, *rest)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "inp"), [(9, 50), (1500, 1411)])
def test_places_have_the_bits_of_the_whole_matrix(device, make_tensors, dtype, out, inp):
    score, grad, x, offsets = on(device, make_tensors(out, inp, RAGGED, dtype=dtype))
    chosen = torch.randperm(out * inp, generator=torch.Generator().manual_seed(0))[:400].sort()
    rows, columns = (chosen.values // inp).int(), (chosen.values % inp).int()
    rows, columns = rows.to(device), columns.to(device)
    some = score[rows, columns].contiguous()
    snip_accumulate_(score, grad, x, offsets)
    snip_accumulate_at_(some, grad, x, offsets, rows, columns)
    assert torch.equal(some, score[rows, columns])


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(device, make_tensors, dtype):
    _, grad, x, offsets = make_tensors(7, 1411, RAGGED, dtype=dtype)
    for values in (grad, x, x[:, 3::2]):
        expected = norms_reference.snip_column_norms(values, offsets)
        norms = snip_column_norms(values.to(device), offsets).cpu()
        # The reference may sum in another order, within the allowance that both have.
        torch.testing.assert_close(norms, expected, rtol=2.0**-22, atol=0)
        assert torch.equal(norms, snip_column_norms(values, offsets))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 300, 10**9])
def test_top_products(device, dtype, k):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-9, 10, (37, 1300), generator=generator).to(dtype)
    score = torch.randint(0, 9, (37, 1300), generator=generator).float()
    for w in (weight, weight.T.contiguous().T):
        values, indices = product_topk(w.to(device), score.to(device), 7.0, k, 0.5)
        expected = topk_reference.product_topk(w, score, 7.0, k, 0.5)
        assert torch.equal(values.cpu(), expected[0])
        assert torch.equal(indices.cpu(), expected[1])


def test_another_stream(device, make_tensors):
    """The kernels run where torch runs: after what made their arguments, before what reads them."""
    if device == "cuda":
        score, grad, x, offsets = on(device, make_tensors(576, 1536, [70] * 30))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(50):
                grad = grad @ torch.eye(576, device=device)
            expected = exact(score, grad, x, offsets)
            snip_accumulate_(score, grad, x, offsets)
            result = score.cpu().double()
        assert (result - expected).norm() <= 1e-6 * expected.norm()


def test_bad_arguments_are_named(device, make_tensors):
    """By the wrapper, and by the operator itself."""
    score, grad, x, _ = on(device, make_tensors(3, 4, [2, 3]))
    bad = torch.tensor([0, 7, 3, 5])
    with pytest.raises(UsageError, match="not descend"):
        snip_accumulate_(score, grad, x, bad)
    with pytest.raises((RuntimeError, UsageError), match="not descend"):
        torch.ops.neuropatch.snip_accumulate_(score, grad, x, bad)
    places = torch.tensor([3], dtype=torch.int32, device=device)
    arguments = (torch.zeros(1, device=device), grad, x, torch.tensor([0, 5]), places, places)
    with pytest.raises((RuntimeError, UsageError), match="rows must be from 0 to 2"):
        torch.ops.neuropatch.snip_accumulate_at_(*arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(device, make_tensors, dtype):
    arguments = on(device, make_tensors(9, 50, RAGGED, dtype=dtype))
    torch.library.opcheck(torch.ops.neuropatch.snip_accumulate_.default, arguments)
    _, grad, _, offsets = arguments
    torch.library.opcheck(torch.ops.neuropatch.snip_column_norms.default, (grad, offsets))
