"""The kernels of snip_accumulate_at_ in the emulation: the bits of the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest

from .harness.matrices import DTYPES, SnipBatch

RAGGED = [0, 1, 5, 0, 17, 1, 40, 0]


def places(out, inp, count, seed=0):
    flat = np.sort(np.random.default_rng(seed).permutation(out * inp)[:count])
    return (flat // inp).astype(np.int32), (flat % inp).astype(np.int32)


def whole(kernels, batch):
    score = np.zeros((batch.grad.shape[1], batch.input.shape[1]), np.float32)
    kernels.run("snip_accumulate", score, *batch.arguments(), 2**62)
    return score


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("out", "inp", "count"), [(1, 1, 1), (9, 50, 15), (9, 50, 16), (70, 140, 500), (200, 33, 130)]
)
def test_bits_of_the_whole_matrix(kernels, dtype, out, inp, count):
    batch = SnipBatch.draw(out, inp, RAGGED, dtype)
    rows, columns = places(out, inp, count)
    score = np.zeros(count, np.float32)
    kernels.run_in_all_orders("snip_accumulate_at", score, *batch.arguments(), rows, columns, count)
    np.testing.assert_array_equal(score, whole(kernels, batch)[rows, columns])


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_order_and_repetitions(kernels, dtype):
    batch = SnipBatch.draw(9, 50, RAGGED, dtype)
    rows = np.array([8, 0, 8, 8, 3, 0, 1, 2, 3, 4, 8] * 3, np.int32)
    columns = np.array([49, 0, 49, 1, 7, 0, 1, 2, 3, 4, 49] * 3, np.int32)
    score = np.full(33, 0.25, np.float32)
    kernels.run("snip_accumulate_at", score, *batch.arguments(), rows, columns, 33)
    np.testing.assert_array_equal(score, np.float32(0.25) + whole(kernels, batch)[rows, columns])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_stay_in_their_row_and_column(kernels, dtype, bad):
    """Neighbours of a place in a tensor core's tile are other places."""
    batch = SnipBatch.draw(20, 30, [5, 6], dtype)
    batch.grad[3, 19] = bad
    batch.input[7, 29] = bad
    rows, columns = places(20, 30, 600)
    score = np.zeros(600, np.float32)
    kernels.run("snip_accumulate_at", score, *batch.arguments(), rows, columns, 600)
    np.testing.assert_array_equal(np.isfinite(score), (rows != 19) & (columns != 29))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sanitizers_find_nothing(kernels, sanitizer, dtype):
    batch = SnipBatch.draw(30, 40, RAGGED, dtype)
    rows, columns = places(30, 40, 90)
    score = np.zeros(90, np.float32)
    arguments = (score, *batch.arguments(), rows, columns, 90)
    assert not kernels.report(sanitizer, "snip_accumulate_at", *arguments)
    np.testing.assert_array_equal(score, whole(kernels, batch)[rows, columns])
