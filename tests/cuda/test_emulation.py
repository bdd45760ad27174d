"""The emulation runs right kernels rightly, in any order of threads and blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

# Integers: sums in float32 are exact in any order, so results are compared bit by bit.


@pytest.fixture
def integers():
    """``integers(*shape)``: small random integers as float32."""
    rng = np.random.default_rng(0)
    return lambda *shape: rng.integers(-9, 10, shape).astype(np.float32)


def test_tile_reduction(toys, integers):
    values = integers(3, 128)
    sums = np.zeros(3, np.float32)
    toys.run_in_all_orders("tile_sum", sums, values, 3)
    np.testing.assert_array_equal(sums, values.sum(axis=1))


def test_warp_shuffles(toys, integers):
    values = integers(6, 32)
    sums = np.zeros(6, np.float32)
    toys.run_in_all_orders("warp_sum", sums, values, 3)
    np.testing.assert_array_equal(sums, values.sum(axis=1))


def test_kinds_of_shuffles(toys):
    lanes = np.arange(32, dtype=np.int32)
    out = np.zeros((6, 32), np.int32)
    toys.run_in_all_orders("shuffles", out, lanes * 10)
    segment = lanes // 8 * 8
    expected = [
        np.full(32, 7),
        np.where(lanes + 5 < 32, lanes + 5, lanes),
        np.where(lanes - 3 >= 0, lanes - 3, lanes),
        # Segments of 8 lanes: a source beyond one's own segment is one's own value.
        segment + (lanes + 3) % 8,
        np.where(lanes + 5 < segment + 8, lanes + 5, lanes),
        # xor may reach back into an earlier segment, not forward into a later one.
        np.where(lanes ^ 8 < segment + 8, lanes ^ 8, lanes),
    ]
    np.testing.assert_array_equal(out, np.array(expected) * 10)


def test_votes_and_masks(toys):
    out = np.zeros((4, 32), np.uint32)
    toys.run_in_all_orders("votes", out)
    odd, low = np.uint32(0xAAAAAAAA), np.uint32(0xFFFF)
    np.testing.assert_array_equal(out[0], np.full(32, odd))
    # The two halves of the warp vote apart, each with its own mask.
    np.testing.assert_array_equal(out[1], np.repeat([odd & low, odd & ~low], 16))
    np.testing.assert_array_equal(out[2], np.repeat([1, 0], 16))
    np.testing.assert_array_equal(out[3], np.repeat([0, 1], 16))


def test_exchange_in_a_warp(toys, integers):
    values = integers(2, 32)
    out = np.zeros_like(values)
    toys.run_in_all_orders("rotate_warp", out, values, 64)
    np.testing.assert_array_equal(out, np.roll(values, -1, axis=1))


def test_atomics(toys, integers):
    values = integers(5, 96)
    out = np.zeros(1, np.float32)
    toys.run_in_all_orders("total", out, values, 5, 96)
    assert out == values.sum()


def test_atomic_operations(toys):
    values = np.random.default_rng(0).integers(0, 1000, 64).astype(np.int32)
    out = np.array([0, -1, 1000, 0, 0], np.int32)
    toys.run_in_all_orders("atomics", out, values)
    expected = [values.sum(), values.max(), values.min(), np.bitwise_or.reduce(values), 64]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("shape", [(64, 96), (1, 1), (33, 31)])
def test_transpose(toys, integers, shape):
    values = integers(*shape)
    out = np.zeros(shape[::-1], np.float32)
    toys.run_in_all_orders("transpose", out, values, *shape)
    np.testing.assert_array_equal(out, values.T)


@pytest.mark.parametrize("count", [1, 127, 128, 130, 640])
def test_asynchronous_copies(toys, integers, count):
    values = integers(count)
    out = np.zeros(128, np.float32)
    toys.run_in_all_orders("pipeline", out, values, count)
    tiles = np.zeros(-(-count // 128) * 128)
    tiles[:count] = values
    np.testing.assert_array_equal(out, tiles.reshape(-1, 128).sum(axis=0)[::-1])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_matrix_product(toys, dtype):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((256, 96)).astype(dtype)
    b = rng.standard_normal((96, 128)).astype(dtype)
    c = np.full((256, 128), np.nan, np.float32)
    toys.run_in_all_orders(f"product {np.dtype(dtype).name}", c, a, b, 256, 128, 96)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    # Products of two 11-bit numbers are exact in float32: the error is that of summing 96 numbers,
    # at most 95 rounding errors of half a unit in the last place of the sum of their magnitudes.
    bound = 95 * 2.0**-24 * (abs(a.astype(np.float64)) @ abs(b.astype(np.float64)))
    assert (abs(c - exact) <= bound).all()


def test_shared_memory_starts_as_nan(toys):
    # Two blocks: the second one must not see what the first one left.
    static, dynamic = np.zeros(2, np.float32), np.zeros(2, np.float32)
    toys.run_in_all_orders("untouched", static, dynamic)
    assert np.isnan(static).all()
    assert np.isnan(dynamic).all()


def test_order_of_blocks_and_threads(toys):
    def run():
        results = toys.results("order", np.zeros((3, 12), np.int32))
        return [arrays[0].tolist() for arrays in results]

    ascending, descending, *shuffled = run()
    assert ascending == [list(range(12))] * 3
    assert descending == [list(range(12))[::-1]] * 3
    for orders in shuffled:
        assert [sorted(order) for order in orders] == ascending
        assert len({tuple(order) for order in (*orders, *ascending, *descending)}) == 5
    assert shuffled[0] != shuffled[1]
    # The same seed gives the same order.
    assert run()[2:] == shuffled


def test_grid_and_block_in_three_dimensions(toys):
    seen = np.zeros((3, 2, 2, 2, 2, 5), np.int32)
    toys.run_in_all_orders("indices", seen)
    assert (seen == 1).all()
