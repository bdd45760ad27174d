"""The kernels of masked_units in the emulation, against float64 references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from .harness.matrices import DTYPES, strided, type_code

ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "relu": functional.relu,
}

# Arithmetic is float32 (a few roundings of 2**-24 each, and expf, erff and tanhf of about 2 units
# in the last place), then one rounding to the type: half of 2**-23, 2**-7 or 2**-10. Near the zeros
# of an activation's slope, terms of size one cancel, so the bound is absolute there.
RELATIVE = {"float32": 2e-6, "bfloat16": 2.0**-8 * 1.01, "float16": 2.0**-11 * 1.01}
ABSOLUTE = 1e-5

SHAPES = [(1, 1), (3, 7), (33, 8), (70, 136), (5, 1100)]


def draw(tokens, units, dtype, gated, seed=0):
    """z, up (or None), grad, mask."""
    rng = np.random.default_rng(seed)
    z, up, grad = (2 * rng.standard_normal((3, tokens, units))).astype(DTYPES[dtype])
    mask = rng.random(units, np.float32)
    mask[::3] = 0
    return z, up if gated else None, grad, mask


def forward(kernels, z, up, mask, activation, run="run"):
    hidden = np.zeros(z.shape, z.dtype)
    code = list(ACTIVATIONS).index(activation)
    arguments = (*strided(z), *strided(up), mask, *z.shape, type_code(z.dtype), code)
    getattr(kernels, run)("masked_units", hidden, *arguments)
    return hidden


def backward(kernels, z, up, grad, mask, activation, run="run"):
    """The gradients of z and up, in their place, and that of the mask."""
    grad_mask = np.full(mask.shape, np.nan, np.float32)
    code = list(ACTIVATIONS).index(activation)
    rest = (*strided(grad), mask, *z.shape, type_code(z.dtype), code)
    getattr(kernels, run)("masked_units_backward", grad_mask, *strided(z), *strided(up), *rest)
    return grad_mask


def by_autograd(z, up, grad, mask, activation):
    """Result and gradients in float64."""
    leaves = [
        None if a is None else torch.tensor(a.astype(np.float64), requires_grad=True)
        for a in (z, up, mask)
    ]
    hidden = ACTIVATIONS[activation](leaves[0]) * leaves[2]
    if up is not None:
        hidden = hidden * leaves[1]
    hidden.backward(torch.tensor(grad.astype(np.float64)))
    return [hidden.detach().numpy(), *(a if a is None else a.grad.numpy() for a in leaves)]


def check_close(actual, exact, dtype):
    np.testing.assert_allclose(
        actual.astype(np.float64), exact, rtol=RELATIVE[dtype], atol=ABSOLUTE
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "units"), SHAPES)
def test_agrees_with_float64(kernels, dtype, gated, activation, tokens, units):
    z, up, grad, mask = draw(tokens, units, dtype, gated)
    hidden, of_z, of_up, of_mask = by_autograd(z, up, grad, mask, activation)
    check_close(forward(kernels, z, up, mask, activation), hidden, dtype)
    grad_mask = backward(kernels, z, up, grad, mask, activation)
    check_close(z, of_z, dtype)
    if gated:
        check_close(up, of_up, dtype)
    # Not rounded to the type; its terms are of the size of the values.
    np.testing.assert_allclose(grad_mask, of_mask, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_order_of_threads_and_blocks(kernels, dtype):
    """The gradient of the mask, too, is summed in an order of its own."""
    z, up, grad, mask = draw(70, 136, dtype, True)
    forward(kernels, z, up, mask, "silu", "run_in_all_orders")
    backward(kernels, z, up, grad, mask, "silu", "run_in_all_orders")


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(kernels, dtype):
    """Halves of one matrix, as a stacked projection returns them, and column-major ones."""
    z, up, grad, mask = draw(40, 24, dtype, True)
    expected = forward(kernels, z, up, mask, "silu")
    both = np.concatenate([z, up], axis=1)
    views = [
        (both[:, :24], both[:, 24:]),
        (z.T.copy().T, up),
        (np.repeat(z, 2, axis=1)[:, ::2], up.T.copy().T),
    ]
    for z_view, up_view in views:
        np.testing.assert_array_equal(forward(kernels, z_view, up_view, mask, "silu"), expected)
    z_only = z.copy()
    expected_mask = backward(kernels, z_only, up.copy(), grad, mask, "silu")
    transposed = z.T.copy().T
    grad_mask = backward(kernels, transposed, up.copy(), grad.T.copy().T, mask, "silu")
    np.testing.assert_array_equal(grad_mask, expected_mask)
    np.testing.assert_array_equal(transposed, z_only)


def test_extreme_values(kernels):
    """No overflow on the way to a finite result, and NaN is not lost."""
    z = np.array([[-200, -90, 0, 90, 200, np.nan]], np.float32)
    mask = np.ones(6, np.float32)
    for activation, function in ACTIVATIONS.items():
        expected = function(torch.tensor(z)).numpy()
        np.testing.assert_allclose(
            forward(kernels, z, None, mask, activation), expected, rtol=1e-6, atol=1e-30
        )
    finite, grad = z[:, :5].copy(), np.ones((1, 5), np.float32)
    backward(kernels, finite, None, grad, mask[:5].copy(), "silu")
    np.testing.assert_allclose(finite, [[0, 0, 0.5, 1, 1]], atol=1e-30)


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [7, 136])
def test_sanitizers_find_nothing(kernels, sanitizer, dtype, units):
    z, up, grad, mask = draw(40, units, dtype, True)
    tail = (mask, 40, units, type_code(z.dtype), 0)
    hidden, grad_mask = np.zeros_like(z), np.zeros_like(mask)
    both = (*strided(z), *strided(up))
    assert not kernels.report(sanitizer, "masked_units", hidden, *both, *tail)
    rest = (*strided(grad), *tail)
    assert not kernels.report(sanitizer, "masked_units_backward", grad_mask, *both, *rest)
