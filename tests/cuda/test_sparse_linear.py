"""The kernel of add_sparse_linear in the emulation, against a dense matrix in float64."""

from __future__ import annotations

import numpy as np
import pytest

from .harness.matrices import DTYPES, strided, type_code

# One rounding to the type of float32 sums of a few terms: half of 2**-23, 2**-7 or 2**-10.
RELATIVE = {"float32": 1e-6, "bfloat16": 2.0**-8 * 1.01, "float16": 2.0**-11 * 1.01}


def draw(tokens, out, inp, count, dtype, seed=0):
    """output, input, rows, columns, delta; several edits a row and repeated places."""
    rng = np.random.default_rng(seed)
    output = rng.standard_normal((tokens, out)).astype(DTYPES[dtype])
    x = rng.standard_normal((tokens, inp)).astype(DTYPES[dtype])
    rows = np.sort(rng.integers(0, out, count)).astype(np.int32)
    columns = rng.integers(0, inp, count).astype(np.int32)
    return output, x, rows, columns, rng.standard_normal(count).astype(np.float32)


def arguments(result, x, rows, columns, delta):
    memory, *result_strides = strided(result)
    places = (rows, columns, delta, len(rows), type_code(x.dtype))
    sizes = (memory, result.shape[1], *result_strides)
    memory, *x_strides = strided(x)
    return (*sizes, memory, x.shape[1], *x_strides, len(x), *places)


def exact(output, x, rows, columns, delta):
    change = np.zeros((output.shape[1], x.shape[1]))
    np.add.at(change, (rows, columns), delta.astype(np.float64))
    return output.astype(np.float64) + x.astype(np.float64) @ change.T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "out", "inp", "count"), [(1, 1, 1, 1), (9, 30, 40, 200), (70, 200, 9, 130)]
)
def test_agrees_with_a_dense_matrix(kernels, dtype, tokens, out, inp, count):
    output, *rest = draw(tokens, out, inp, count, dtype)
    result = output.copy()
    kernels.run_in_all_orders("add_sparse_linear", *arguments(result, *rest))
    np.testing.assert_allclose(
        result.astype(np.float64), exact(output, *rest), rtol=RELATIVE[dtype], atol=2e-6
    )
    unchanged = np.setdiff1d(np.arange(out), rest[1])
    np.testing.assert_array_equal(result[:, unchanged], output[:, unchanged])


def test_input_of_any_strides(kernels):
    output, x, *places = draw(9, 30, 40, 50, "float32")
    results = []
    for view in (x, x.T.copy().T):
        results.append(output.copy())
        kernels.run("add_sparse_linear", *arguments(results[-1], view, *places))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([0, 30], [0, 0], "row is outside"),
        ([-1, 3], [0, 0], "row is outside"),
        ([4, 3], [0, 0], "rows descend"),
        ([3, 3], [0, 40], "column is outside"),
        ([3, 4], [0, -1], "column is outside"),
    ],
)
def test_bad_places_stop_the_kernel(kernels, rows, columns, message):
    output, x, *_ = draw(9, 30, 40, 2, "float32")
    places = (np.array(rows, np.int32), np.array(columns, np.int32), np.ones(2, np.float32))
    with pytest.raises(kernels.error, match=message):
        kernels.run("add_sparse_linear", *arguments(output, x, *places))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sanitizers_find_nothing(kernels, sanitizer, dtype):
    output, *rest = draw(9, 30, 40, 200, dtype)
    result = output.copy()
    assert not kernels.report(sanitizer, "add_sparse_linear", *arguments(result, *rest))
    np.testing.assert_allclose(
        result.astype(np.float64), exact(output, *rest), rtol=RELATIVE[dtype], atol=2e-6
    )
