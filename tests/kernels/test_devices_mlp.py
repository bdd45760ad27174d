"""The operators of masked MLPs and sparse changes, on every device; see test_devices.py."""

from __future__ import annotations

import pytest
import torch

from neuropatch.kernels.reference import linear as linear_reference
from neuropatch.kernels.reference import mlp as mlp_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ACTIVATIONS = list(mlp_reference.ACTIVATIONS)

# One rounding of float32 arithmetic to the type; near the zeros of an activation's slope terms of
# size one cancel.
CLOSE = {
    torch.float32: {"rtol": 4e-6, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2.0**-8 * 1.01, "atol": 1e-5},
    torch.float16: {"rtol": 2.0**-11 * 1.01, "atol": 1e-5},
}


def draw(tokens, units, dtype):
    """z, up, grad and mask."""
    generator = torch.Generator().manual_seed(0)
    z, up, grad = (torch.randn(3, tokens, units, generator=generator) * 2).to(dtype)
    mask = torch.rand(units, generator=generator)
    mask[::3] = 0
    return z, up, grad, mask


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "units"), [(0, 8), (1, 1), (33, 7), (70, 1536)])
def test_masked_units(device, dtype, gated, activation, tokens, units):
    z, up, grad, mask = draw(tokens, units, dtype)
    up = up if gated else None
    wide = [None if t is None else t.double() for t in (z, up, mask)]
    expected = mlp_reference.masked_units(*wide, activation)
    there = [None if t is None else t.to(device) for t in (z, up, mask)]
    result = torch.ops.neuropatch.masked_units(*there, activation)
    assert result.dtype == dtype
    torch.testing.assert_close(result.cpu().double(), expected, **CLOSE[dtype])

    of_mask = mlp_reference.masked_units_backward_(*wide, grad.double(), activation)
    arguments = (*there, grad.to(device), activation)
    result = torch.ops.neuropatch.masked_units_backward_(*arguments)
    for changed, exact in zip(there[:2], wide[:2], strict=True):
        if changed is not None:
            torch.testing.assert_close(changed.cpu().double(), exact, **CLOSE[dtype])
    torch.testing.assert_close(result.cpu().double(), of_mask, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_units_of_any_strides(device, dtype):
    """Halves of one product, and an expanded gradient, as a sum gives it."""
    z, up, _, mask = draw(40, 24, dtype)
    both = torch.cat([z, up], dim=1).to(device)
    grad = torch.ones((), dtype=dtype).expand(40, 24)
    exact = [t.double() for t in (z, up, mask)]
    expected = mlp_reference.masked_units(*exact, "silu")
    views = (both[:, :24], both[:, 24:], mask.to(device))
    result = torch.ops.neuropatch.masked_units(*views, "silu")
    torch.testing.assert_close(result.cpu().double(), expected, **CLOSE[dtype])
    mlp_reference.masked_units_backward_(*exact, grad.double(), "silu")
    torch.ops.neuropatch.masked_units_backward_(*views, grad.to(device), "silu")
    torch.testing.assert_close(both.cpu().double(), torch.cat(exact[:2], dim=1), **CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_changes(device, dtype):
    """Two patches, one of them on two ranges, and tokens that none serves."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(50, 90, generator=generator).to(dtype)
    x = torch.randn(50, 70, generator=generator).to(dtype)
    rows = torch.cat([torch.randint(90, (n,), generator=generator).sort().values for n in (40, 9)])
    columns = torch.randint(70, (49,), generator=generator)
    delta = torch.randn(49, generator=generator)
    edit_offsets, token_offsets = torch.tensor([0, 40, 49]), torch.tensor([0, 3, 20, 41, 50])
    patches = torch.tensor([0, -1, 1, 0])
    edits = (rows.int(), columns.int(), delta)
    served = (edit_offsets, token_offsets, patches)
    expected = linear_reference.add_sparse_linear(
        output.double(), x.double(), *edits[:2], delta.double(), *served
    )
    for view in (x, x.T.contiguous().T):
        there = (t.to(device) for t in (output, view, *edits))
        result = torch.ops.neuropatch.add_sparse_linear(*there, *served)
        torch.testing.assert_close(result.cpu().double(), expected, **CLOSE[dtype])
