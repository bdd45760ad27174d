// Elements of the sum of snip_accumulate.cuh at some places, with the bits they have in the whole
// matrix: the same operations in the same order, so tensor cores for 16-bit activations as well.

#pragma once

#include "elements.cuh"

namespace neuropatch::cuda {

inline constexpr int kAtThreads = 128;
inline constexpr int kAtWarpPlaces = 16;  // of a warp on the tensor cores
inline constexpr int kAtTensorPlaces = kAtThreads / 32 * kAtWarpPlaces;  // of a block

struct SnipAtArguments {
  float* score;
  TokenMatrix grad;
  TokenMatrix input;
  const TokenChunk* chunks;
  int32_t count;
  Places places;
};

// A warp sums 16 places. They are the rows of A and, in two halves, the columns of B, so that the
// diagonals of the two products are the elements asked for. Every fragment register is loaded straight
// from where it is in global memory; each element is read once.
template <typename Element>
struct DiagonalProduct {
  const Element* grad[2];   // columns of G at rows lane / 4 and lane / 4 + 8 of A
  const Element* input[2];  // columns of X at column lane / 4 of B, for either half
  int64_t grad_pitch;
  int64_t input_pitch;
  int first_token;          // of the lane among the 16 of a step
  float values[2][4];

  __device__ __forceinline__ explicit DiagonalProduct(
      const SnipAtArguments& arguments, int64_t first_place) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    first_token = lane % 4 * 2;
    grad_pitch = arguments.grad.pitch;
    input_pitch = arguments.input.pitch;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t wanted = first_place + half * 8 + lane / 4;
      // Lanes past the end repeat the last place, and are dropped.
      const int64_t place = wanted < arguments.places.count ? wanted : arguments.places.count - 1;
      grad[half] =
          static_cast<const Element*>(arguments.grad.data) + arguments.places.rows[place];
      input[half] =
          static_cast<const Element*>(arguments.input.data) + arguments.places.columns[place];
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      values[i / 4][i % 4] = 0.0f;
    }
  }

  // Two tokens of a column, zero from token `tokens` of the chunk on.
  static __device__ __forceinline__ uint32_t load(
      const Element* column, int64_t pitch, const TokenChunk& chunk, int token) {
    Element pair[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      pair[i] = token + i < chunk.tokens ? column[(chunk.first + token + i) * pitch]
                                         : static_cast<Element>(0.0f);
    }
    uint32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return bits;
  }

  // The 16 tokens of the chunk from `token` on.
  __device__ __forceinline__ void add(const TokenChunk& chunk, int token) {
    const int early = token + first_token;
    const int late = early + 8;
    const uint32_t a[4] = {
        load(grad[0], grad_pitch, chunk, early), load(grad[1], grad_pitch, chunk, early),
        load(grad[0], grad_pitch, chunk, late), load(grad[1], grad_pitch, chunk, late)};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      np::mma_m16n8k16<Element>(
          values[half], a, load(input[half], input_pitch, chunk, early),
          load(input[half], input_pitch, chunk, late));
    }
  }
};

template <typename Element>
__global__ void __launch_bounds__(kAtThreads) snip_at_tensor_kernel(SnipAtArguments arguments) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first_place =
      static_cast<int64_t>(blockIdx.x) * kAtTensorPlaces + warp * kAtWarpPlaces;
  if (first_place >= arguments.places.count) {
    return;
  }
  DiagonalProduct<Element> product(arguments, first_place);
  float sums[2] = {};
  // The lane that holds element (r, r) of an 8 x 8 result has lane / 4 = r and lane % 4 = r / 2; the
  // first half of the places is in rows 0 to 7 of the first product, the second in 8 to 15 of the other.
  const bool holds = lane / 4 / 2 == lane % 4;
  const bool odd = lane / 4 % 2 == 1;
  product.clear();
  for (int32_t index = 0; index < arguments.count; ++index) {
    const TokenChunk chunk = arguments.chunks[index];
    for (int token = 0; token < chunk.tokens; token += 16) {
      product.add(chunk, token);
    }
    if (chunk.last) {
      sums[0] += fabsf(odd ? product.values[0][1] : product.values[0][0]);
      sums[1] += fabsf(odd ? product.values[1][3] : product.values[1][2]);
      product.clear();
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t place = first_place + half * 8 + lane / 4;
    if (holds && place < arguments.places.count) {
      arguments.score[place] += sums[half];
    }
  }
}

// A thread sums one place in float32. A template, so that several sources may include it.
template <typename Element>
__global__ void __launch_bounds__(kAtThreads) snip_at_float_kernel(
    SnipAtArguments arguments) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kAtThreads + threadIdx.x;
  if (place >= arguments.places.count) {
    return;
  }
  const Element* grad =
      static_cast<const Element*>(arguments.grad.data) + arguments.places.rows[place];
  const Element* input =
      static_cast<const Element*>(arguments.input.data) + arguments.places.columns[place];
  float sum = 0.0f;
  float value = 0.0f;
  for (int32_t index = 0; index < arguments.count; ++index) {
    const TokenChunk chunk = arguments.chunks[index];
#pragma unroll 4
    for (int t = 0; t < chunk.tokens; ++t) {
      const int64_t token = chunk.first + t;
      value = fmaf(
          grad[token * arguments.grad.pitch], input[token * arguments.input.pitch], value);
    }
    if (chunk.last) {
      sum += fabsf(value);
      value = 0.0f;
    }
  }
  arguments.score[place] += sum;
}

}  // namespace neuropatch::cuda
