"""The AMX kernel of snip_accumulate_, on software tiles.

The source of the kernel and of its driver is compiled against csrc/emulation/amx.h, under UBSan,
and run on the shapes of the other kernels. On a CPU with AMX the same tests run the real one too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from neuropatch.kernels import _backend, snip_accumulate_
from neuropatch.kernels.reference import snip as reference

SOURCES = Path(__file__).parents[2] / "csrc"
RAGGED = [0, 1, 5, 0, 17, 1, 40, 0, 33]

# bfloat16 products are exact and their sums are float32, as in the other kernels. Rounding both
# float32 factors to 8 bits changes a product by 2 * 2**-9 + 2**-18 of itself at most; over the
# samples of a batch such errors average out.
FROBENIUS_OF_BFLOAT16 = 1e-6
OF_MAGNITUDES_OF_FLOAT32 = 1.01 * 2.0**-8
OF_MAXIMUM_OF_FLOAT32 = 2e-3


class Matrix(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("tokens", "columns", "token_stride", "column_stride")
        ),
    )

    @classmethod
    def of(cls, tensor):
        return cls(tensor.data_ptr(), *tensor.shape, *tensor.stride())


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The emulated kernel, compiled once a session."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = tmp_path_factory.mktemp("amx") / "emulated.so"
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-Wall", "-Werror"]
    command += ["-fsanitize=undefined", "-fno-sanitize-recover=all", "-DNEUROPATCH_EMULATE_AMX"]
    command += [str(SOURCES / "cpu/snip_kernels_amx.cpp"), str(SOURCES / "emulation/snip_amx.cpp")]
    subprocess.run([*command, "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def _message(call):
    """Runs a call with a buffer for an error; returns the error or an empty text."""
    error = ctypes.create_string_buffer(256)
    call(error, ctypes.c_size_t(len(error)))
    return error.value.decode()


def _emulated(library, threads=2):
    def run(score, grad, x, offsets):
        matrices = [ctypes.byref(Matrix.of(m)) for m in (grad, x)]
        is_bfloat16 = ctypes.c_bool(grad.dtype == torch.bfloat16)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (score, offsets)]
        counts = [ctypes.c_int64(offsets.numel() - 1), ctypes.c_int64(threads)]
        error = _message(
            lambda *buffer: library.emulated_snip_accumulate(
                pointers[0], *matrices, is_bfloat16, pointers[1], *counts, *buffer
            )
        )
        assert not error

    return run


@pytest.fixture(params=["emulated", *({"amx"} & set(_backend.available_choices()))])
def accumulate(request, monkeypatch):
    """The kernel under test, with the arguments of ``snip_accumulate_``."""
    if request.param == "amx":
        monkeypatch.setenv(_backend.ENVIRONMENT_VARIABLE, "amx")
        return snip_accumulate_
    return _emulated(request.getfixturevalue("library"))


def expected(score, grad, x, offsets):
    result = score.double()
    reference.snip_accumulate_(result, grad.double(), x.double(), offsets)
    return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("out", "inp"),
    [(1, 1), (16, 48), (7, 47), (17, 49), (6, 16), (15, 33), (100, 65), (200, 33), (5, 161)],
)
def test_agrees_with_float64(accumulate, make_tensors, dtype, out, inp):
    score, grad, x, offsets = make_tensors(out, inp, RAGGED, dtype=dtype)
    exact = expected(score, grad, x, offsets)
    accumulate(score, grad, x, offsets)
    if dtype == torch.bfloat16:
        assert (score - exact).norm() <= FROBENIUS_OF_BFLOAT16 * exact.norm()
    else:
        magnitudes = expected(torch.zeros_like(score), grad.abs(), x.abs(), offsets)
        assert ((score - exact).abs() <= OF_MAGNITUDES_OF_FLOAT32 * magnitudes).all()


def test_float32_batch_of_usual_size(accumulate, make_tensors):
    _, grad, x, offsets = make_tensors(96, 96, [76] * 16)
    score = torch.zeros(96, 96)
    exact = expected(score, grad, x, offsets)
    accumulate(score, grad, x, offsets)
    assert (score - exact).abs().max() <= OF_MAXIMUM_OF_FLOAT32 * exact.max()


def test_float32_is_rounded_to_bfloat16(accumulate, make_tensors):
    """To nearest even: as torch rounds, ties, the largest numbers and NaN included."""
    score, grad, x, offsets = make_tensors(19, 50, RAGGED)
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, -3.4e38, float("nan")])
    x[0, :6] = ties
    rounded = score.clone()
    accumulate(score, grad, x, offsets)
    accumulate(rounded, grad.bfloat16(), x.bfloat16(), offsets)
    torch.testing.assert_close(score, rounded, rtol=0, atol=0, equal_nan=True)
    assert torch.isnan(score[:, 5]).all()


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [2], [31], [32], [33], [0, 0, 3], [64, 0]])
def test_any_number_of_tokens(accumulate, make_tensors, lengths):
    score, grad, x, offsets = make_tensors(18, 50, lengths, dtype=torch.bfloat16)
    exact = expected(score, grad, x, offsets)
    accumulate(score, grad, x, offsets)
    assert (score - exact).norm() <= FROBENIUS_OF_BFLOAT16 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_any_strides(accumulate, make_tensors, dtype):
    score, grad, x, offsets = make_tensors(18, 70, RAGGED, dtype=dtype)
    contiguous = score.clone()
    accumulate(contiguous, grad, x, offsets)
    accumulate(score, grad.T.contiguous().T, torch.cat([x, x], dim=1)[:, 70:], offsets)
    assert torch.equal(score, contiguous)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_in_its_row_and_column(accumulate, make_tensors, bad):
    score, grad, x, offsets = make_tensors(20, 100, [5, 6], dtype=torch.bfloat16)
    clean = score.clone()
    accumulate(clean, grad, x, offsets)
    grad[3, 19] = bad
    x[7, 99] = bad
    accumulate(score, grad, x, offsets)
    assert not torch.isfinite(score[19]).any()
    assert not torch.isfinite(score[:, 99]).any()
    assert torch.equal(score[:19, :99], clean[:19, :99])


def test_huge_values_and_subnormals(accumulate):
    big = torch.finfo(torch.bfloat16).max
    score = torch.zeros(2, 3)
    grad = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    x = torch.tensor([[big, 2.0**-127, -(2.0**-126)]], dtype=torch.bfloat16)
    accumulate(score, grad, x, torch.tensor([0, 1]))
    inf = float("inf")
    assert torch.equal(score, torch.tensor([[big, 0, 2.0**-126], [inf, 0, 2.0**-125]]))


def test_independent_of_threads(library, make_tensors):
    for out, inp in [(300, 50), (3, 5), (20, 700)]:
        score, grad, x, offsets = make_tensors(out, inp, [30, 1, 0, 25], dtype=torch.bfloat16)
        results = [score.clone() for _ in range(3)]
        for threads, result in zip((1, 2, 5), results, strict=True):
            _emulated(library, threads)(result, grad, x, offsets)
        assert all(torch.equal(results[0], other) for other in results[1:])


# The emulated instructions themselves.


def _config(rows, column_bytes, palette=1):
    config = np.zeros(64, dtype=np.uint8)
    config[0] = palette
    config[16:48].view(np.uint16)[: len(column_bytes)] = column_bytes
    config[48 : 48 + len(rows)] = rows
    return config


def _dot_product(library, config, sums, left, right):
    arrays = [ctypes.c_void_p(a.ctypes.data) for a in (config, sums, left, right)]
    return _message(lambda *buffer: library.emulated_dot_product(*arrays, *buffer))


def _bfloat16_words(values):
    """``[rows, 2 * words]`` float32 values, all bfloat16, as words whose low half comes first."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def test_tdpbf16ps_sums_each_half_apart(library):
    """Against the manual's pseudocode in float64 with integers, where every step is exact."""
    generator = np.random.default_rng(0)
    left, right = (generator.integers(-9, 9, size=(r, 2 * c)) for r, c in ((3, 5), (5, 4)))
    sums = generator.integers(-9, 9, size=(3, 4)).astype(np.float32)
    exact = sums + left[:, 0::2] @ right[:, 0::2] + left[:, 1::2] @ right[:, 1::2]
    words = [_bfloat16_words(m.astype(np.float32)) for m in (left, right)]
    config = _config([3, 3, 5], [16, 20, 16])
    assert not _dot_product(library, config, sums, *words)
    assert np.array_equal(sums, exact)


def test_tdpbf16ps_rounds_in_the_manuals_order(library):
    """Halves are added to each other before they reach the sum: 2**24 + (1 + 1), no tie."""
    ones = _bfloat16_words(np.ones((1, 2), dtype=np.float32))
    sums = np.full((1, 1), 2.0**24, dtype=np.float32)
    assert not _dot_product(library, _config([1, 1, 1], [4, 4, 4]), sums, ones, ones)
    assert sums[0, 0] == 2.0**24 + 2


@pytest.mark.parametrize(
    ("factor", "result"),
    [
        (2.0**-127, 0.0),  # a subnormal factor
        (-(2.0**-126), -(2.0**-126)),
        (2.0**-126 * 1.5, 2.0**-126 * 1.5),
    ],
)
def test_tdpbf16ps_flushes_subnormals(library, factor, result):
    config = _config([1, 1, 1], [4, 4, 4])
    left = _bfloat16_words(np.array([[factor, 0]], dtype=np.float32))
    right = _bfloat16_words(np.array([[1, 1]], dtype=np.float32))
    sums = np.full((1, 1), 2.0**-130, dtype=np.float32)  # a subnormal sum counts as zero
    assert not _dot_product(library, config, sums, left, right)
    assert sums[0, 0] == result


def test_tdpbf16ps_decides_tininess_after_rounding(library):
    """2**-126 - 2**-151 rounds to 2**-126 at 24 bits; 2**-126 - 2**-150 is a number of 24 bits."""
    config = _config([1, 1, 2], [4, 8, 4])
    left = _bfloat16_words(np.array([[1, 0, -(2.0**-75), 0]], dtype=np.float32))
    for small, result in ((2.0**-76, 2.0**-126), (2.0**-75, 0.0)):
        right = _bfloat16_words(np.array([[2.0**-126, 0], [small, 0]], dtype=np.float32))
        sums = np.zeros((1, 1), dtype=np.float32)
        assert not _dot_product(library, config, sums, left, right)
        assert sums[0, 0] == result


FAULTS = {
    "palette": (_config([1, 1, 1], [4, 4, 4], palette=2), "#GP: LDTILECFG with a palette past 1"),
    "none": (_config([1, 1, 1], [4, 4, 4], palette=0), "#UD: TILELOADD before LDTILECFG"),
    "too wide": (_config([1, 1, 1], [68, 4, 4]), "#GP: LDTILECFG of a tile over 16 x 64"),
    "no columns": (_config([1, 1, 1], [4, 4, 0]), "#GP: LDTILECFG of rows without columns"),
    "ninth": (_config([1] * 9, [4] * 9), "#GP: LDTILECFG of a tile past 7"),
    "unused": (_config([1, 1, 0], [4, 4, 0]), "#UD: TILELOADD of tile 2, which has no rows"),
    "rows": (_config([2, 1, 1], [4, 4, 4]), "#UD: TDPBF16PS: rows of the sums and the left"),
    "inner": (_config([1, 1, 2], [4, 4, 4]), "#UD: TDPBF16PS: the factors do not fit"),
    "columns": (_config([1, 1, 1], [8, 4, 4]), "#UD: TDPBF16PS: columns of the sums and the right"),
    "no words": (_config([1, 1, 1], [6, 4, 6]), "#UD: TDPBF16PS of columns that are no words"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_misuse_is_a_fault(library, case):
    config, message = FAULTS[case]
    memory = [np.zeros(1024, dtype=np.uint8) for _ in range(3)]
    assert _dot_product(library, config, *memory).startswith(message)


@pytest.mark.skipif(_backend.MISSING is not None, reason="no compiled extension to look into")
def test_the_build_has_the_instructions():
    """What is shipped is the real kernel: 1 + 2 + 3 products for 16, 32 and 48 columns."""
    objdump = shutil.which("objdump")
    if objdump is None or os.uname().machine != "x86_64":
        pytest.skip("needs objdump on x86-64")
    listing = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", str(_backend.EXTENSION_PATH)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert listing.count("tdpbf16ps") == 6
    for instruction in ("ldtilecfg", "tileloadd", "tilestored", "tilerelease", "vdpbf16ps"):
        assert instruction in listing
