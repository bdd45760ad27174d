// Tiles in shared memory: a transpose, and a pipeline of asynchronous copies.

#pragma once

#include "portable.cuh"

namespace toy {

// What shared memory holds at the start of each block; it is used afterwards.
__global__ void untouched(float* from_static, float* from_dynamic) {
  __shared__ float tile[2];
  NP_DYNAMIC_SHARED(float, memory);
  if (threadIdx.x == 0) {
    from_static[blockIdx.x] = tile[1];
    from_dynamic[blockIdx.x] = memory[7];
    tile[1] = memory[7] = 1;
  }
}

// out[place in the order of running] = number of the thread in the grid: from the start of a block
// on, after a barrier of the block, and after one of the warp. next[3] counts the places.
__global__ void order(int* out, int* next) {
  const int number = blockIdx.x * blockDim.x + threadIdx.x;
  const int threads = gridDim.x * blockDim.x;
  out[atomicAdd(next, 1)] = number;
  __syncthreads();
  out[threads + atomicAdd(next + 1, 1)] = number;
  __syncwarp(0xfu);
  out[2 * threads + atomicAdd(next + 2, 1)] = number;
}

// Counts the visits of each thread of a grid, [gridDim.z][y][x][blockDim.z][y][x].
__global__ void indices(int* seen) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  ++seen[block * (blockDim.x * blockDim.y * blockDim.z) + thread];
}

enum class TransposeDefect { kNone, kNoBarrier, kOutOfBounds };

// out[columns][rows] = in[rows][columns] transposed, in tiles of 32 x 32 by 32 x 8 threads.
template <TransposeDefect kDefect>
__global__ void transpose(float* out, const float* in, int rows, int columns) {
  NP_DYNAMIC_SHARED(float, tile);
  constexpr int kPitch = kDefect == TransposeDefect::kOutOfBounds ? 34 : 33;
  const int left = blockIdx.x * 32;
  const int top = blockIdx.y * 32;
  for (int y = threadIdx.y; y < 32; y += blockDim.y) {
    const int row = top + y;
    const int column = left + threadIdx.x;
    if (row < rows && column < columns) {
      tile[y * kPitch + threadIdx.x] = in[row * columns + column];
    }
  }
  if constexpr (kDefect != TransposeDefect::kNoBarrier) __syncthreads();
  for (int y = threadIdx.y; y < 32; y += blockDim.y) {
    const int row = left + y;
    const int column = top + threadIdx.x;
    if (row < columns && column < rows) out[row * rows + column] = tile[threadIdx.x * kPitch + y];
  }
}

enum class PipelineDefect {
  kNone,
  kNoWait,
  kWaitTooLittle,
  kNoBarrierAfterWait,
  kNoBarrierBeforeRefill,
  kMisaligned,
  kNeverWaited,
};

// out[t] = sum over tiles of the element of its mirror image, with two tiles of 128 in turn: one is
// summed while the other one arrives. Of the last tile only `count` elements exist.
template <PipelineDefect kDefect = PipelineDefect::kNone>
__global__ void pipeline(float* out, const float* in, int count) {
  constexpr int kTile = 128;
  __shared__ __align__(16) float tiles[2][kTile];
  const int thread = threadIdx.x;
  const int steps = (count + kTile - 1) / kTile;
  const auto fetch = [&](int step) {
    // 32 threads fetch 16 bytes each.
    if (step < steps && thread < kTile / 4) {
      const int first = step * kTile + thread * 4;
      const int left = min(max(count - first, 0), 4);
      const int shift = kDefect == PipelineDefect::kMisaligned ? 1 : 0;
      np::cp_async_zfill<16>(&tiles[step % 2][thread * 4], in + first + shift, left * 4);
    }
    np::cp_async_commit();
  };
  float sum = 0;
  fetch(0);
  for (int step = 0; step < steps; ++step) {
    fetch(step + 1);
    if constexpr (kDefect == PipelineDefect::kWaitTooLittle) {
      np::cp_async_wait<2>();
    } else if constexpr (kDefect != PipelineDefect::kNoWait) {
      np::cp_async_wait<1>();
    }
    if constexpr (kDefect != PipelineDefect::kNoBarrierAfterWait) __syncthreads();
    sum += tiles[step % 2][kTile - 1 - thread];
    if constexpr (kDefect != PipelineDefect::kNoBarrierBeforeRefill) __syncthreads();
  }
  if constexpr (kDefect == PipelineDefect::kNoWait) np::cp_async_wait<0>();
  if constexpr (kDefect == PipelineDefect::kNeverWaited) {
    if (thread == 0) np::cp_async16(tiles[0], in);
  }
  np::cp_async_wait<kDefect == PipelineDefect::kNeverWaited ? 1 : 0>();
  out[thread] = sum;
}

}  // namespace toy
