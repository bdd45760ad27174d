"""The same sources compile with nvcc, to the instructions that the emulation stands for."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from .harness import CUDA, ROOT

TOYS = ROOT / "tests/cuda/toys"
SOURCE = """
#include "matrices.cuh"
#include "sums.cuh"
#include "tiles.cuh"

template <typename T>
cudaError_t product(float* c, const T* a, const T* b, cudaStream_t stream) {
  return np::launch(
      toy::product<T, toy::ProductDefect::kNone>, dim3(1), dim3(256), 65536, stream, c, a, b, 64,
      64);
}
template cudaError_t product(float*, const __half*, const __half*, cudaStream_t);
template cudaError_t product(float*, const __nv_bfloat16*, const __nv_bfloat16*, cudaStream_t);

template __global__ void toy::multiply<float>(float*, const std::uint32_t*, const std::uint32_t*);
template __global__ void toy::load<2, false>(std::uint32_t*, const std::uint16_t*);
template __global__ void toy::load<2, true>(std::uint32_t*, const std::uint16_t*);
template __global__ void toy::pipeline<>(float*, const float*, int);
template __global__ void toy::tile_sum<toy::SumDefect::kNone>(float*, const float*);
template __global__ void toy::warp_sum<toy::WarpDefect::kNone>(float*, const float*);
"""
INSTRUCTIONS = [
    r"cp\.async\.cg\.shared\.global \[%r\d+\], \[%rd\d+\], 16;",
    r"cp\.async\.cg\.shared\.global \[%r\d+\], \[%rd\d+\], 16, %r\d+;",
    r"cp\.async\.commit_group;",
    r"cp\.async\.wait_group 1;",
    r"ldmatrix\.sync\.aligned\.m8n8\.x2\.shared\.b16",
    r"ldmatrix\.sync\.aligned\.m8n8\.x2\.trans\.shared\.b16",
    r"ldmatrix\.sync\.aligned\.m8n8\.x4\.shared\.b16",
    r"ldmatrix\.sync\.aligned\.m8n8\.x4\.trans\.shared\.b16",
    r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32",
    r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16\.f16\.f32",
    r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.tf32\.tf32\.f32",
    r"cvt\.rna\.tf32\.f32",
]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_toys_compile(tmp_path):
    source = tmp_path / "toys.cu"
    source.write_text(SOURCE)
    ptx, cubin = tmp_path / "toys.ptx", tmp_path / "toys.cubin"
    flags = ["-std=c++20", "-arch=sm_80", "-Werror=all-warnings", f"-I{CUDA}", f"-I{TOYS}"]
    for kind, output in (("-ptx", ptx), ("-cubin", cubin)):
        subprocess.run(["nvcc", *flags, kind, "-o", output, source], check=True)
    text = ptx.read_text()
    assert [line for line in INSTRUCTIONS if not re.search(line, text)] == []
