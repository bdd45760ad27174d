"""ldmatrix and mma hold matrices as the Parallel Thread Execution ISA says.

The formulas are those of its sections "Warp-level Matrix Instructions: ldmatrix", "Matrix Fragments
for mma.m16n8k16 with floating point type" and "Matrix Fragments for mma.m16n8k8", by elements.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

LANES = range(32)


@pytest.mark.parametrize("matrices", [2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(toys, matrices, transposed):
    elements = np.random.default_rng(0).permutation(2**16)[: matrices * 64].astype(np.uint16)
    elements = elements.reshape(matrices, 8, 8)
    registers = np.zeros((32, matrices), np.uint32)
    toys.run_in_all_orders(
        f"ldmatrix_x{matrices}{'_trans' if transposed else ''}", registers, elements
    )
    halves = registers.view(np.uint16).reshape(32, matrices, 2)
    for lane in LANES:
        # Four consecutive lanes hold a row, each two elements of it; .trans loads by columns.
        row, columns = lane // 4, [lane % 4 * 2, lane % 4 * 2 + 1]
        held = elements[:, columns, row] if transposed else elements[:, row, columns]
        np.testing.assert_array_equal(halves[lane], held)


def fragment_a(lane, i):
    """Row and column of element ai, 0 <= i < 8, of A of m16n8k16."""
    group, thread = lane >> 2, lane % 4
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    column = thread * 2 + (i & 1) if i < 4 else thread * 2 + (i & 1) + 8
    return row, column


def fragment_b(lane, i):
    """Row and column of element bi, 0 <= i < 4, of B of m16n8k16."""
    group, thread = lane >> 2, lane % 4
    row = thread * 2 + (i & 1) if i < 2 else thread * 2 + (i & 1) + 8
    return row, group


def fragment_a_tf32(lane, i):
    """Row and column of element ai, 0 <= i < 4, of A of m16n8k8 for .tf32."""
    group, thread = lane >> 2, lane % 4
    return (group if i in (0, 2) else group + 8), (thread if i in (0, 1) else thread + 4)


def fragment_b_tf32(lane, i):
    """Row and column of element bi, 0 <= i < 2, of B of m16n8k8 for .tf32."""
    group, thread = lane >> 2, lane % 4
    return (thread if i == 0 else thread + 4), group


def fragment_d(lane, i):
    """Row and column of element ci, 0 <= i < 4, of C and D of both."""
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def distribute(matrix, fragment, count):
    """The elements of a matrix that each lane holds, [32, count]."""
    return np.array([[matrix[fragment(lane, i)] for i in range(count)] for lane in LANES])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_mma_of_16_bit_types(toys, dtype):
    # Integers up to 8: every sum is exact, in whatever order the products are added.
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, shape).astype(dtype) for shape in ((16, 16), (16, 8)))
    d = rng.integers(-99, 99, (16, 8)).astype(np.float32)
    held = distribute(d, fragment_d, 4)
    toys.run_in_all_orders(
        f"mma {np.dtype(dtype).name}",
        held,
        distribute(a, fragment_a, 8).view(np.uint32),
        distribute(b, fragment_b, 4).view(np.uint32),
    )
    expected = d + a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_array_equal(held, distribute(expected, fragment_d, 4))


def test_mma_of_tf32(toys):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-99, 99, shape).astype(np.float32) for shape in ((16, 8), (8, 8)))
    d = rng.integers(-99, 99, (16, 8)).astype(np.float32)
    held = distribute(d, fragment_d, 4)
    # The lower 13 bits of an operand are not read.
    noise = rng.integers(0, 2**13, (16, 8)).astype(np.uint32)
    toys.run_in_all_orders(
        "mma tf32",
        held,
        distribute((a.view(np.uint32) | noise).view(np.float32), fragment_a_tf32, 4).view(
            np.uint32
        ),
        distribute(b, fragment_b_tf32, 2).view(np.uint32),
    )
    np.testing.assert_array_equal(held, distribute(d + a @ b, fragment_d, 4))


@pytest.mark.parametrize(
    ("dtype", "exponent"), [(ml_dtypes.bfloat16, 0x7F80), (np.float16, 0x7C00)]
)
def test_finite_numbers_keep_their_value(toys, dtype, exponent):
    # Every third bit pattern, 16 x 16 at a time, times the identity: also the subnormal numbers.
    patterns = np.arange(0, 2**16, 3, dtype=np.uint16)
    finite = patterns[patterns & exponent != exponent].view(dtype)
    identity = distribute(np.eye(16, 8).astype(dtype), fragment_b, 4).view(np.uint32)
    for a in finite[: len(finite) // 256 * 256].reshape(-1, 16, 16):
        held = np.zeros((32, 4), np.float32)
        toys.run(
            f"mma {np.dtype(dtype).name}",
            held,
            distribute(a, fragment_a, 8).view(np.uint32),
            identity,
        )
        expected = distribute(a[:, :8].astype(np.float32), fragment_d, 4)
        np.testing.assert_array_equal(held, expected)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_infinity_and_nan(toys, dtype, value):
    a, b = np.zeros((16, 16)), np.ones((16, 8))
    a[5, 9] = value
    held = np.zeros((32, 4), np.float32)
    toys.run(
        f"mma {np.dtype(dtype).name}",
        held,
        distribute(a.astype(dtype), fragment_a, 8).view(np.uint32),
        distribute(b.astype(dtype), fragment_b, 4).view(np.uint32),
    )
    np.testing.assert_array_equal(held, distribute((a @ b).astype(np.float32), fragment_d, 4))


def test_rounding_to_tf32(toys):
    # Ties go away from zero, also into the next power of two; infinity and NaN stay.
    values = np.array([1, 1 + 2**-11, -1 - 2**-11, 1 + 2**-11 - 2**-23, 2 - 2**-11, 3e38, 0, -0.0])
    values = np.concatenate([values, [np.inf, -np.inf, np.nan]]).astype(np.float32)
    rounded = np.zeros_like(values)
    toys.run("to_tf32", rounded, values, len(values))
    expected = values.copy()
    expected[1:5] = [1 + 2**-10, -1 - 2**-10, 1, 2]
    np.testing.assert_array_equal(rounded[:5], expected[:5])
    np.testing.assert_array_equal(rounded[6:], expected[6:])
    assert abs(rounded[5] / values[5] - 1) <= 2**-11
    assert rounded.view(np.uint32)[:10].max() & 0x1FFF == 0
