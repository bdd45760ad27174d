"""The kernels of product_topk in the emulation, against a sort of all products."""

from __future__ import annotations

import numpy as np
import pytest

from .harness.matrices import DTYPES, strided, type_code


def draw(out, inp, dtype="float32", seed=0, tied=False):
    rng = np.random.default_rng(seed)
    if tied:
        weight, score = rng.integers(-1, 2, (out, inp)), rng.integers(0, 3, (out, inp))
    else:
        weight, score = rng.standard_normal((out, inp)), rng.random((out, inp))
    return weight.astype(DTYPES[dtype]), score.astype(np.float32)


def by_sorting(weight, score, divisor, k, floor):
    """The definition, in float32."""
    with np.errstate(invalid="ignore", over="ignore"):
        product = (score * np.abs(weight.astype(np.float32)) / np.float32(divisor)).ravel()
    rank = np.where(np.isfinite(product), product, np.inf)
    order = np.lexsort((np.arange(product.size), -rank))[:k]
    taken = rank[order] > np.float32(floor)
    return np.where(taken, product[order], 0), np.where(taken, order, -1)


def arguments(weight, score, divisor, floor, k):
    matrices = (*strided(weight), type_code(weight.dtype), *strided(score))
    return (*matrices, *score.shape, divisor, floor, k)


def top(kernels, weight, score, divisor, k, floor, run="run"):
    k = min(k, score.size)
    rest = arguments(weight, score, divisor, float(floor), k)
    order = np.zeros(k, np.int64)
    getattr(kernels, run)("find_top_products", order, *rest)
    values, indices = np.full(k, np.nan, np.float32), np.full(k, -2)
    # The operator sorts with torch in between.
    kernels.run("list_top_products", values, indices, np.sort(order)[::-1].copy(), *rest)
    return values, indices


def check(kernels, weight, score, divisor, k, floor):
    values, indices = top(kernels, weight, score, float(divisor), k, floor)
    expected_values, expected_indices = by_sorting(weight, score, divisor, k, floor)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(values, expected_values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("k", [1, 50, 3000, 10**9])
def test_equals_a_sort(kernels, dtype, tied, k):
    check(kernels, *draw(5, 1100, dtype, tied=tied), 7, k, 0.0)
    check(kernels, *draw(37, 100, dtype, tied=tied), 7, k, 1 / 14)


def test_random_cases(kernels):
    rng = np.random.default_rng(0)
    for seed in range(25):
        out, inp = rng.integers(1, 40, 2)
        arguments = draw(out, inp, list(DTYPES)[seed % 3], seed, tied=bool(seed % 2))
        divisor = rng.choice([1, 3, 64, 100])
        floor = rng.choice([0, 1 / 3, 0.5, 100]) / divisor
        check(kernels, *arguments, divisor, rng.integers(1, 300), floor)


def test_any_strides(kernels):
    """A transposed weight, as GPT-2 stores it."""
    weight, score = draw(60, 30)
    check(kernels, weight.T.copy().T, score, 3, 99, 0.0)
    check(kernels, weight, score.T.copy().T, 3, 99, 0.0)
    check(kernels, weight[::2, 1::3], score[::2, 1::3], 3, 99, 0.0)


def test_equal_values_take_the_lowest_indices(kernels):
    """Ties that go through every digit of the index."""
    ones = np.ones((5, 6000), np.float32)
    values, indices = top(kernels, ones, ones, 1.0, 7001, 0.0)
    np.testing.assert_array_equal(indices, np.arange(7001))
    assert (values == 1).all()


@pytest.mark.parametrize(
    ("weight", "score"),
    [(1, np.nan), (np.nan, 1), (np.inf, 0), (1, np.inf), (3e38, 3e38)],
)
def test_a_product_that_is_not_finite_comes_first(kernels, weight, score):
    weights, scores = draw(33, 300)
    weights[20, 270], scores[20, 270] = weight, score
    values, indices = top(kernels, weights, scores, 2.0, 3, 0.5)
    assert indices[0] == 20 * 300 + 270
    assert not np.isfinite(values[0])
    assert np.isfinite(values[1:]).all()


def test_subnormal_products_and_floors(kernels):
    weight, score = np.full((2, 3), 2.0**-70, np.float32), np.full((2, 3), 2.0**-75, np.float32)
    assert top(kernels, weight, score, 1.0, 2, 0.0)[1].tolist() == [0, 1]
    assert top(kernels, weight, score, 1.0, 2, 2.0**-145)[1].tolist() == [-1, -1]


def test_any_order_of_threads_and_blocks(kernels):
    """What is selected does not depend on luck; only the order of the list before the sort does."""
    weight, score = draw(7, 700, tied=True)
    rest = arguments(weight, score, 3.0, 0.0, 500)
    results = kernels.results("find_top_products", np.zeros(500, np.int64), *rest)
    assert len({np.sort(order).tobytes() for (order,) in results}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sanitizers_find_nothing(kernels, sanitizer, dtype):
    weight, score = draw(7, 1100, dtype, tied=True)
    rest = arguments(weight, score, 3.0, 0.0, 500)
    order = np.zeros(500, np.int64)
    assert not kernels.report(sanitizer, "find_top_products", order, *rest)
    values, indices = np.zeros(500, np.float32), np.zeros(500, np.int64)
    order = np.sort(order)[::-1].copy()
    assert not kernels.report(sanitizer, "list_top_products", values, indices, order, *rest)
    np.testing.assert_array_equal(indices, by_sorting(weight, score, 3, 500, 0)[1])
