"""The kernel of snip_column_norms in the emulation: the bits of the definition on the CPU."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from .harness.matrices import DTYPES, SnipBatch, type_code, with_pitch

RAGGED = [0, 1, 5, 0, 17, 1, 40, 0]


def by_definition(values, offsets):
    """neuropatch/kernels/norms.py, token by token in float64."""
    norms = np.zeros((len(offsets) - 1, values.shape[1]), np.float32)
    for sample, (start, stop) in enumerate(pairwise(offsets)):
        total = np.zeros(values.shape[1])
        for row in values[start:stop].astype(np.float64):
            total += row * row
        norm = np.sqrt(total) * (1 + (stop - start + 4) * 2.0**-53)
        nearest = norm.astype(np.float32)
        above = np.nextafter(nearest, np.float32(np.inf))
        norms[sample] = np.where(nearest < norm, above, nearest)
    return norms


def arguments(values, offsets, weights=None, stride=0):
    matrix = (*with_pitch(values), type_code(values.dtype))
    return (*matrix, weights, stride, offsets, len(offsets) - 1)


def column_norms(kernels, values, offsets, *weights):
    norms = np.full((len(offsets) - 1, values.shape[1]), -1, np.float32)
    kernels.run_in_all_orders("column_norms", norms, *arguments(values, offsets, *weights))
    return norms


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 2, 47, 256, 257, 600])
def test_bits_of_the_definition(kernels, dtype, columns):
    _, values, offsets = SnipBatch.draw(1, columns, RAGGED, dtype)
    np.testing.assert_array_equal(
        column_norms(kernels, values, offsets), by_definition(values, offsets)
    )


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-70, 2.0**70, 2.0**127, np.inf, np.nan])
def test_extreme_values(kernels, scale):
    _, values, offsets = SnipBatch.draw(1, 9, RAGGED)
    with np.errstate(over="ignore"):
        values = (values.astype(np.float64) * scale).astype(np.float32)
        expected = by_definition(values, offsets)
    np.testing.assert_array_equal(column_norms(kernels, values, offsets), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weighted_norms_are_bounds(kernels, dtype):
    """Close above the norms of the products, which float64 holds exactly."""
    _, values, offsets = SnipBatch.draw(1, 47, RAGGED, dtype)
    weights = np.random.default_rng(1).standard_normal(2 * len(values)).astype(np.float32)
    norms = column_norms(kernels, values, offsets, weights, 2)
    products = values.astype(np.float64) * weights[::2, None]
    exact = np.array([np.linalg.norm(products[a:b], axis=0) for a, b in pairwise(offsets)])
    assert (norms >= exact).all()
    # Half a step up of float32 and what float64 lost; subnormal results do not occur here.
    assert (norms <= exact * (1 + 2.0**-22)).all()


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sanitizers_find_nothing(kernels, sanitizer, dtype):
    _, values, offsets = SnipBatch.draw(1, 257, RAGGED, dtype)
    norms = np.zeros((len(offsets) - 1, 257), np.float32)
    weights = np.ones(len(values), np.float32)
    every = arguments(values, offsets, weights, 1)
    assert not kernels.report(sanitizer, "column_norms", norms, *every)
    np.testing.assert_array_equal(norms, by_definition(values, offsets))
