"""The kernels of snip_accumulate_ in the emulation, on the shapes of the operator's own tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuropatch.kernels import _backend, snip_accumulate_

from .harness.matrices import DTYPES, SnipBatch

# As in tests/kernels: empty samples first, in the middle and last, and single tokens; one sample is
# longer than a chunk of 32 tokens, and than four of them.
RAGGED = [0, 1, 5, 0, 17, 1, 40, 0, 140]

# Products of 16-bit numbers are exact in float32, and the emulated tensor cores sum in float32, as
# the float32 kernel does: the tolerance of tests/kernels. A tensor core of a real GPU truncates.
TOLERANCE = 1e-6

LARGE, SMALL = 1, 2**62  # how many tiles of 128 x 128 are enough to take them


def accumulate(kernels, batch, score=None, enough_tiles=SMALL, **options):
    shape = batch.grad.shape[1], batch.input.shape[1]
    score = np.zeros(shape, np.float32) if score is None else score
    kernels.run("snip_accumulate", score, *batch.arguments(), enough_tiles, **options)
    return score


def error(score, exact):
    return np.linalg.norm(score - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("out", "inp"),
    [(1, 1), (8, 48), (6, 16), (7, 47), (9, 49), (200, 33), (384, 65), (5, 161), (64, 128)],
)
def test_agrees_with_float64(kernels, dtype, out, inp):
    batch = SnipBatch.draw(out, inp, RAGGED, dtype)
    assert error(accumulate(kernels, batch), batch.exact()) <= TOLERANCE


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "inp"), [(128, 128), (129, 130), (1100, 140)])
def test_large_tiles(kernels, dtype, out, inp):
    """The last shape has more rows of tiles than a strip of the raster."""
    batch = SnipBatch.draw(out, inp, [33, 0, 7], dtype)
    assert error(accumulate(kernels, batch, enough_tiles=LARGE), batch.exact()) <= TOLERANCE


@pytest.mark.parametrize("enough_tiles", [LARGE, SMALL])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_order_of_threads_and_blocks(kernels, dtype, enough_tiles):
    batch = SnipBatch.draw(130, 150, [0, 33, 7, 90], dtype)
    score = np.zeros((130, 150), np.float32)
    kernels.run_in_all_orders("snip_accumulate", score, *batch.arguments(), enough_tiles)
    assert error(score, batch.exact()) <= TOLERANCE


def test_random_shapes(kernels):
    rng = np.random.default_rng(0)
    for seed in range(20):
        out, inp = rng.integers(1, 140, 2)
        lengths = rng.integers(0, 70, rng.integers(0, 6))
        dtype = list(DTYPES)[seed % 3]
        batch = SnipBatch.draw(out, inp, lengths, dtype, seed)
        score = accumulate(kernels, batch, enough_tiles=(LARGE, SMALL)[seed % 2])
        exact = batch.exact()
        assert np.linalg.norm(score - exact) <= TOLERANCE * np.linalg.norm(exact), (seed, dtype)


@pytest.mark.skipif(
    not {"avx2", "avx512"} & set(_backend.available_choices()),
    reason="the CPU kernel rounds every product where there is no fused multiply-add",
)
def test_float32_has_the_bits_of_the_cpu_kernel(kernels):
    """Both run one chain of fused multiply-adds an element, in the order of the tokens."""
    batch = SnipBatch.draw(70, 150, RAGGED)
    score = np.random.default_rng(1).random((70, 150), np.float32)
    on_cpu = torch.from_numpy(score.copy())
    snip_accumulate_(on_cpu, *map(torch.from_numpy, batch))
    np.testing.assert_array_equal(accumulate(kernels, batch, score), on_cpu.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_adds_to_what_is_there(kernels, dtype):
    batch = SnipBatch.draw(9, 50, [4, 3], dtype)
    once = accumulate(kernels, batch)
    there = np.random.default_rng(1).random((9, 50), np.float32)
    np.testing.assert_array_equal(accumulate(kernels, batch, there.copy()), there + once)


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_samples_between_do_not_matter(kernels, dtype):
    batch = SnipBatch.draw(10, 50, [4, 3], dtype)
    sparse = batch._replace(offsets=np.array([0, 0, 4, 4, 4, 7, 7]))
    np.testing.assert_array_equal(accumulate(kernels, sparse), accumulate(kernels, batch))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_finite_half_value_is_kept(kernels, dtype):
    """All bit patterns, times one in the row of their token and times zero in all others."""
    values = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype]).reshape(256, 256)
    finite = np.isfinite(values.astype(np.float32))
    values = np.where(finite, values, np.zeros_like(values))
    one = np.eye(256, dtype=DTYPES[dtype])
    score = accumulate(kernels, SnipBatch(one, values, np.array([0, 256])))
    np.testing.assert_array_equal(score, np.abs(values.astype(np.float32)))


def test_subnormal_and_huge_values(kernels):
    tokens = np.array([0, 1, 2])
    tiny = SnipBatch(
        np.full((2, 9), 2.0**-70, np.float32), np.full((2, 49), -(2.0**-70), np.float32), tokens
    )
    assert (accumulate(kernels, tiny) == 2.0**-139).all()
    big = np.finfo(np.float32).max
    grad = np.array([[1, 2], [0, 0]], np.float32)
    x = np.array([[big, -big, 1e30], [1, 1, 1]], np.float32)
    score = accumulate(kernels, SnipBatch(grad, x, np.array([0, 2])))
    np.testing.assert_array_equal(
        score, np.array([[big, big, 1e30], [np.inf, np.inf, 2e30]], np.float32)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_stays_in_its_row_and_column(kernels, dtype, bad):
    batch = SnipBatch.draw(20, 100, [5, 6], dtype)
    clean = accumulate(kernels, batch)
    batch.grad[3, 19] = bad
    batch.input[7, 99] = bad
    score = accumulate(kernels, batch)
    assert not np.isfinite(score[19]).any()
    assert not np.isfinite(score[:, 99]).any()
    np.testing.assert_array_equal(score[:19, :99], clean[:19, :99])


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("enough_tiles", [LARGE, SMALL])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sanitizers_find_nothing(kernels, sanitizer, dtype, enough_tiles):
    batch = SnipBatch.draw(130, 71, [33, 0, 7, 100], dtype)
    score = np.zeros((130, 71), np.float32)
    assert not kernels.report(sanitizer, "snip_accumulate", score, *batch.arguments(), enough_tiles)
    assert error(score, batch.exact()) <= TOLERANCE
