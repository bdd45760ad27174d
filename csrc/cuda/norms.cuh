// Norms of the columns of each sample, never below the exact ones.

#pragma once

#include "elements.cuh"

namespace neuropatch::cuda {

inline constexpr int kNormsThreads = 128;
inline constexpr int kNormsColumns = 2 * kNormsThreads;  // of a block: two a thread

template <typename Element>
struct __align__(2 * sizeof(Element)) Pair {
  Element first;
  Element second;
};

// Of a sum of squares over `tokens`, at or above the exact root, as neuropatch/kernels/norms.py
// explains.
__device__ __forceinline__ float raised_root(double sum, int64_t tokens) {
  const double norm = sqrt(sum) * (1.0 + static_cast<double>(tokens + 4) * 0x1.0p-53);
  const float nearest = static_cast<float>(norm);
  return nearest < norm ? nextafterf(nearest, __int_as_float(0x7f800000)) : nearest;
}

// A thread sums two columns of one sample, token by token. The square of a float is exact in double,
// so without weights fused and separate operations agree; a product of two floats is exact as well.
template <typename Element>
__global__ void __launch_bounds__(kNormsThreads) column_norms_kernel(
    float* norms, TokenMatrix values, TokenWeights weights, const int64_t* offsets) {
  const int64_t blocks = (values.columns + kNormsColumns - 1) / kNormsColumns;
  const int64_t sample = blockIdx.x / blocks;
  const int64_t column = blockIdx.x % blocks * kNormsColumns + 2 * threadIdx.x;
  if (column >= values.columns) {
    return;
  }
  const bool both = column + 1 < values.columns;
  const int64_t start = offsets[sample];
  const int64_t tokens = offsets[sample + 1] - start;
  const Element* data =
      static_cast<const Element*>(values.data) + start * values.pitch + column;
  double sums[2] = {};
#pragma unroll 4
  for (int64_t t = 0; t < tokens; ++t, data += values.pitch) {
    // The last column of an odd number of them has no partner to be read.
    const Pair<Element> pair = both ? np::load_vector<Pair<Element>>(data)
                                    : Pair<Element>{*data, static_cast<Element>(0.0f)};
    const double weight =
        weights.data == nullptr ? 1.0 : weights.data[(start + t) * weights.stride];
    const double first = weight * static_cast<float>(pair.first);
    const double second = weight * static_cast<float>(pair.second);
    sums[0] += first * first;
    sums[1] += second * second;
  }
  float* result = norms + sample * values.columns + column;
  result[0] = raised_root(sums[0], tokens);
  if (both) {
    result[1] = raised_root(sums[1], tokens);
  }
}

}  // namespace neuropatch::cuda
