"""A kernel's defect is an error, makes the result depend on the order, or a sanitizer sees it."""

from __future__ import annotations

import re

import numpy as np
import pytest


def arguments_of(name):
    """Small arguments for a toy, integers so that sums do not depend on their order."""
    rng = np.random.default_rng(0)

    def array(*shape):
        return rng.integers(1, 10, shape).astype(np.float32)

    toy = name.split()[0]
    dtype = np.float16
    return {
        "tile_sum": lambda: (np.zeros(2, np.float32), array(2, 128), 2),
        "warp_sum": lambda: (np.zeros(4, np.float32), array(4, 32), 2),
        "rotate_warp": lambda: (np.zeros(64, np.float32), array(64), 64),
        "total": lambda: (np.zeros(1, np.float32), array(2, 32), 2, 32),
        "transpose": lambda: (np.zeros(32 * 40, np.float32), array(32 * 40), 32, 40),
        "pipeline": lambda: (np.zeros(128, np.float32), array(509), 509),
        "product": lambda: (
            np.zeros((128, 64), np.float32),
            *(array(*shape).astype(dtype) for shape in ((128, 64), (64, 64))),
            *(128, 64, 64),
        ),
        "untouched": lambda: (np.zeros(2, np.float32), np.zeros(2, np.float32)),
    }[toy]()


ERRORS = [
    (
        "tile_sum with an early exit",
        r"sums\.cuh:\d+: __syncthreads waits for threads that do not come, in block \(0,0,0\); "
        r"64 of 128 threads, the first is \(0,0,0\), are in __syncthreads at .*sums\.cuh:\d+; "
        r"64 of 128 threads, the first is \(64,0,0\), have ended",
    ),
    (
        "tile_sum with a divergent barrier",
        r"sums\.cuh:\d+: divergent barrier: __syncthreads here, and at .*sums\.cuh:\d+ in thread",
    ),
    (
        "warp_sum with lanes that left",
        r"sums\.cuh:\d+: __shfl_xor_sync waits for threads that do not come.*"
        r"with the mask 0xffffffff, whose lanes 24, 25, 26, 27, 28, 29, 30, 31 do not come",
    ),
    (
        "warp_sum with a wrong mask",
        r"sums\.cuh:\d+: __syncwarp with the mask 0x7fffffff, which does not name the calling "
        r"lane 31",
    ),
    (
        "warp_sum from outside the mask",
        r"sums\.cuh:\d+: lane \d+ reads from lane \d+, which the mask 0xffff does not name",
    ),
    (
        "warp_sum with a missing lane",
        r"divergent warp: __shfl_xor_sync here, __shfl_xor_sync at .*sums\.cuh:\d+ in thread",
    ),
    ("warp_sum at two places", r"divergent warp: __shfl_xor_sync here, __shfl_xor_sync at"),
    (
        "pipeline misaligned",
        r"tiles\.cuh:\d+: cp\.async from the address 0x[0-9a-f]+, which is not a multiple of 16; "
        r"thread \(\d+,0,0\) of block \(0,0,0\)",
    ),
    (
        "pipeline never waited for",
        r"a thread ends with asynchronous copies that it has not waited for: thread \(0,0,0\)",
    ),
    (
        "product misaligned",
        r"matrices\.cuh:\d+: ldmatrix from the address 0x[0-9a-f]+, which is not a multiple of 16",
    ),
    (
        "transpose out of bounds",
        r"the end of the 4224 bytes of dynamic shared memory was written beyond, in block \(",
    ),
]


@pytest.mark.parametrize(("name", "message"), ERRORS, ids=[name for name, _ in ERRORS])
def test_errors_name_the_place(toys, name, message):
    with pytest.raises(toys.error) as caught:
        toys.results(name, *arguments_of(name))
    assert re.search(message, str(caught.value))
    # Whatever the stacks looked like, the next launch is not harmed.
    sums, values = np.zeros(2, np.float32), np.ones((2, 128), np.float32)
    toys.run("tile_sum", sums, values, 2)
    np.testing.assert_array_equal(sums, [128, 128])


@pytest.mark.parametrize(
    "name",
    [
        "tile_sum without a barrier",
        "rotate_warp without a barrier",
        "transpose without a barrier",
        "pipeline without a barrier after",
        "pipeline without a barrier before",
    ],
)
def test_results_depend_on_the_order(toys, name):
    with pytest.raises(AssertionError, match=r"written array 0 of .* differs in Order"):
        toys.run_in_all_orders(name, *arguments_of(name))


@pytest.mark.parametrize("name", ["pipeline without a wait", "pipeline that waits too little"])
def test_copies_that_were_not_waited_for_are_nan(toys, name):
    for arrays in toys.results(name, *arguments_of(name)):
        assert np.isnan(arrays[0]).all()


RACES = [
    ("tile_sum without a barrier", "sums.cuh"),
    ("rotate_warp without a barrier", "sums.cuh"),
    # These results are right in every order.
    ("rotate_warp by luck", "rotate_warp_by_luck"),
    ("total with racing threads", "sums.cuh"),
    ("total with racing blocks", "total"),
    ("transpose without a barrier", "tiles.cuh"),
    ("pipeline without a barrier after", "tiles.cuh"),
    ("pipeline without a barrier before", "tiles.cuh"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "place"), RACES, ids=[name for name, _ in RACES])
def test_races_are_reported(toys, name, place):
    report = toys.report("thread", name, *arguments_of(name))
    assert "WARNING: ThreadSanitizer: data race" in report
    assert place in report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("tile_sum out of bounds", "sums.cuh"),
        ("transpose out of bounds", "heap-buffer-overflow"),
        ("total beyond its input", "heap-buffer-overflow"),
    ],
)
def test_accesses_out_of_bounds_are_reported(toys, name, finding):
    assert finding in toys.report("address", name, *arguments_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
@pytest.mark.parametrize(
    "name",
    [
        "tile_sum",
        "warp_sum",
        "rotate_warp",
        "total",
        "transpose",
        "pipeline",
        "product float16",
        "untouched",
    ],
)
def test_right_kernels_are_not_reported(toys, sanitizer, name):
    arguments, expected = arguments_of(name), arguments_of(name)
    assert toys.report(sanitizer, name, *arguments) == ""
    toys.run(name, *expected)
    if (sanitizer, name) != ("address", "untouched"):
        # Under AddressSanitizer __shared__ variables do not start as NaN.
        np.testing.assert_array_equal(arguments[0], expected[0])


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_errors_under_a_sanitizer(toys, sanitizer):
    name, message = ERRORS[0]
    with pytest.raises(toys.error, match=message):
        toys.report(sanitizer, name, *arguments_of(name))
