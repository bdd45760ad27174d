// Sums over a block: through shared memory, through shuffles, and through memory that all share.

#pragma once

#include "portable.cuh"

namespace toy {

enum class SumDefect { kNone, kNoBarrier, kEarlyExit, kDivergentBarrier, kOutOfBounds };

// out[block] = sum of 128 elements, by halving a shared array.
template <SumDefect kDefect>
__global__ void tile_sum(float* out, const float* in) {
  constexpr unsigned kTile = 128;
  __shared__ float tile[kTile];
  const unsigned thread = threadIdx.x;
  tile[thread] = in[blockIdx.x * kTile + thread];
  if constexpr (kDefect != SumDefect::kNoBarrier) __syncthreads();
  for (unsigned half = kTile / 2; half > 0; half /= 2) {
    if constexpr (kDefect == SumDefect::kEarlyExit) {
      if (thread >= half) return;
    }
    if (thread < half) tile[thread] += tile[thread + half];
    if constexpr (kDefect == SumDefect::kDivergentBarrier) {
      if (thread < half) {
        __syncthreads();
      } else {
        __syncthreads();
      }
    } else {
      __syncthreads();
    }
  }
  // One element too far: behind the array lies whatever the linker put there.
  const unsigned last = kDefect == SumDefect::kOutOfBounds ? blockDim.x : 0;
  if (thread == 0) out[blockIdx.x] = tile[0] + 0 * tile[thread + last];
}

enum class WarpDefect { kNone, kLanesLeft, kWrongMask, kOutsideMask, kMissingLane, kTwoPlaces };

// out[warp] = sum of 32 elements.
template <WarpDefect kDefect>
__global__ void warp_sum(float* out, const float* in) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned lane = threadIdx.x % 32;
  float sum = in[thread];
  if constexpr (kDefect == WarpDefect::kLanesLeft) {
    // Lanes that have nothing to add leave, and the others still wait for them.
    if (lane >= 24) return;
  }
  if constexpr (kDefect == WarpDefect::kOutsideMask) {
    if (lane < 16) sum += __shfl_down_sync(0xffffu, sum, 16);
  }
  if constexpr (kDefect == WarpDefect::kMissingLane) {
    if (lane < 16) sum += __shfl_xor_sync(0xffffffffu, sum, 8);
  }
  if constexpr (kDefect == WarpDefect::kTwoPlaces) {
    if (lane < 16) {
      sum += __shfl_xor_sync(0xffffffffu, sum, 0);
    } else {
      sum -= __shfl_xor_sync(0xffffffffu, sum, 0);
    }
  }
  if constexpr (kDefect == WarpDefect::kWrongMask) __syncwarp(0x7fffffffu);
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  if (lane == 0) out[thread / 32] = sum;
}

// out[i] = in[neighbour of i in its warp], through shared memory.
template <bool kBarrier>
__global__ void rotate_warp(float* out, const float* in) {
  NP_DYNAMIC_SHARED(float, tile);
  const unsigned thread = threadIdx.x;
  tile[thread] = in[thread];
  if constexpr (kBarrier) __syncwarp();
  out[thread] = tile[thread / 32 * 32 + (thread + 1) % 32];
}

// The same, with a shuffle in between: that makes the result right, but orders no memory.
__global__ void rotate_warp_by_luck(float* out, const float* in) {
  NP_DYNAMIC_SHARED(float, tile);
  const unsigned thread = threadIdx.x;
  tile[thread] = in[thread];
  const float own = __shfl_sync(0xffffffffu, in[thread], thread);
  out[thread] = tile[thread / 32 * 32 + (thread + 1) % 32] + 0 * own;
}

enum class TotalDefect { kNone, kThreadsRace, kBlocksRace, kOutOfBounds };

// out[0] = sum of all elements.
template <TotalDefect kDefect>
__global__ void total(float* out, const float* in) {
  const unsigned skip = kDefect == TotalDefect::kOutOfBounds ? 1 : 0;
  const float value = in[blockIdx.x * blockDim.x + threadIdx.x + skip];
  if constexpr (kDefect == TotalDefect::kThreadsRace) {
    *out += value;
  } else if constexpr (kDefect == TotalDefect::kBlocksRace) {
    __shared__ float sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, value);
    __syncthreads();
    if (threadIdx.x == 0) *out += sum;
  } else {
    atomicAdd(out, value);
  }
}


// Each kind of shuffle in a row of out[6][32].
__global__ void shuffles(int* out, const int* in) {
  const unsigned lane = threadIdx.x, all = 0xffffffffu;
  const int value = in[lane];
  out[lane] = __shfl_sync(all, value, 7);
  out[32 + lane] = __shfl_down_sync(all, value, 5);
  out[64 + lane] = __shfl_up_sync(all, value, 3);
  out[96 + lane] = __shfl_sync(all, value, lane + 3, 8);
  out[128 + lane] = __shfl_down_sync(all, value, 5, 8);
  out[160 + lane] = __shfl_xor_sync(all, value, 8, 8);
}

// Votes of a warp, and of its halves, in out[4][32].
__global__ void votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  out[lane] = __ballot_sync(0xffffffffu, lane % 2);
  unsigned half, any, all;
  if (lane < 16) {
    half = __ballot_sync(0x0000ffffu, lane % 2);
    any = __any_sync(0x0000ffffu, lane == 3);
    all = __all_sync(0x0000ffffu, lane != 3);
  } else {
    half = __ballot_sync(0xffff0000u, lane % 2);
    any = __any_sync(0xffff0000u, lane == 3);
    all = __all_sync(0xffff0000u, lane != 3);
  }
  out[32 + lane] = half;
  out[64 + lane] = any;
  out[96 + lane] = all;
}

// out = the sum, maximum, minimum and bitwise or of 64 numbers, and their count.
__global__ void atomics(int* out, const int* in) {
  const int value = __ldg(in + threadIdx.x);
  atomicAdd(out, value);
  atomicMax(out + 1, value);
  atomicMin(out + 2, value);
  atomicOr(out + 3, value);
  int seen = 0;
  for (int expected = -1; expected != seen;) {
    expected = seen;
    seen = atomicCAS(out + 4, expected, expected + 1);
  }
}

}  // namespace toy
