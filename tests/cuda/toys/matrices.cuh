// Matrix instructions: a tiled product, and single instructions that show their fragments.

#pragma once

#include "portable.cuh"

namespace toy {

enum class ProductDefect { kNone, kMisaligned };

// c[m][n] = a[m][k] b[k][n] for multiples of 128, 64 and 32: a block of 256 threads computes 128 x
// 64, each warp 16 rows of it, in steps of 32 that are fetched one ahead.
template <typename T, ProductDefect kDefect>
__global__ void __launch_bounds__(256) product(float* c, const T* a, const T* b, int n, int k) {
  constexpr int kRows = 128, kColumns = 64, kDepth = 32;
  // A pitch of 16 bytes beyond a power of two spreads the rows of a matrix over the banks. With two
  // bytes beyond, rows do not start where ldmatrix can read.
  constexpr int kPad = kDefect == ProductDefect::kMisaligned ? 1 : 8;
  constexpr int kPitchA = kDepth + kPad, kPitchB = kColumns + 8;
  NP_DYNAMIC_SHARED(T, memory);
  T* const tiles_b = memory;
  T* const tiles_a = memory + 2 * kDepth * kPitchB;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int top = blockIdx.y * kRows, left = blockIdx.x * kColumns;

  const auto fetch = [&](int stage, int depth) {
    for (int i = threadIdx.x; i < kRows * kDepth / 8; i += 256) {
      const int row = i / (kDepth / 8), column = i % (kDepth / 8) * 8;
      T* const target = tiles_a + (stage * kRows + row) * kPitchA + column;
      const T* const source = a + (top + row) * k + depth + column;
      if constexpr (kDefect == ProductDefect::kMisaligned) {
        for (int j = 0; j < 8; ++j) target[j] = source[j];
      } else {
        np::cp_async16(target, source);
      }
    }
    for (int i = threadIdx.x; i < kDepth * kColumns / 8; i += 256) {
      const int row = i / (kColumns / 8), column = i % (kColumns / 8) * 8;
      T* const target = tiles_b + (stage * kDepth + row) * kPitchB + column;
      np::cp_async16(target, b + (depth + row) * n + left + column);
    }
    np::cp_async_commit();
  };

  float sums[kColumns / 8][4] = {};
  fetch(0, 0);
  for (int depth = 0, stage = 0; depth < k; depth += kDepth, stage ^= 1) {
    if (depth + kDepth < k) {
      fetch(stage ^ 1, depth + kDepth);
      np::cp_async_wait<1>();
    } else {
      np::cp_async_wait<0>();
    }
    __syncthreads();
    for (int inner = 0; inner < kDepth; inner += 16) {
      std::uint32_t fragment_a[4];
      np::ldmatrix_x4(
          fragment_a, tiles_a + (stage * kRows + warp * 16 + lane % 16) * kPitchA + inner +
                          lane / 16 * 8);
      for (int j = 0; j < kColumns / 8; j += 2) {
        std::uint32_t fragment_b[4];
        np::ldmatrix_x4_trans(
            fragment_b, tiles_b + (stage * kDepth + inner + lane % 16) * kPitchB + j * 8 +
                            lane / 16 * 8);
        np::mma_m16n8k16<T>(sums[j], fragment_a, fragment_b[0], fragment_b[1]);
        np::mma_m16n8k16<T>(sums[j + 1], fragment_a, fragment_b[2], fragment_b[3]);
      }
    }
    __syncthreads();
  }
  for (int j = 0; j < kColumns / 8; ++j) {
    const int row = top + warp * 16 + lane / 4, column = left + j * 8 + lane % 4 * 2;
    np::store_vector(c + row * n + column, make_float2(sums[j][0], sums[j][1]));
    np::store_vector(c + (row + 8) * n + column, make_float2(sums[j][2], sums[j][3]));
  }
}

// registers[lane][matrix] of one ldmatrix of kMatrices 8x8 matrices [matrix][row][column].
template <int kMatrices, bool kTransposed>
__global__ void load(std::uint32_t* registers, const std::uint16_t* matrices) {
  NP_DYNAMIC_SHARED(std::uint16_t, tile);
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < kMatrices * 64; i += 32) tile[i] = matrices[i];
  __syncwarp();
  // Lanes whose address is not used give one that must not be read.
  const std::uint16_t* row = lane < 8 * kMatrices ? tile + lane * 8 : tile + 1;
  std::uint32_t values[kMatrices];
  if constexpr (kMatrices == 4) {
    kTransposed ? np::ldmatrix_x4_trans(values, row) : np::ldmatrix_x4(values, row);
  } else {
    kTransposed ? np::ldmatrix_x2_trans(values, row) : np::ldmatrix_x2(values, row);
  }
  for (int i = 0; i < kMatrices; ++i) registers[lane * kMatrices + i] = values[i];
}

__global__ void round_to_tf32(std::uint32_t* out, const float* in) {
  out[threadIdx.x] = np::to_tf32(in[threadIdx.x]);
}

// One mma, from registers to registers: d[lane][4] += of a[lane][4] and b[lane][2].
template <typename T>
__global__ void multiply(float* d, const std::uint32_t* a, const std::uint32_t* b) {
  const unsigned lane = threadIdx.x;
  const std::uint32_t fragment[4] = {
      a[lane * 4], a[lane * 4 + 1], a[lane * 4 + 2], a[lane * 4 + 3]};
  float sums[4] = {d[lane * 4], d[lane * 4 + 1], d[lane * 4 + 2], d[lane * 4 + 3]};
  if constexpr (std::is_same_v<T, float>) {
    np::mma_m16n8k8_tf32(sums, fragment, b[lane * 2], b[lane * 2 + 1]);
  } else {
    np::mma_m16n8k16<T>(sums, fragment, b[lane * 2], b[lane * 2 + 1]);
  }
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sums[i];
}

}  // namespace toy
