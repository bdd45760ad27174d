// snip_column_norms on the CPU.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "../common/norms_arguments.h"
#include "instruction_sets.h"
#include "parallel.h"
#include "strided.h"

namespace neuropatch::cpu {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The sums of a block of columns, 4 KB, stay in the L1 cache while the tokens stream by.
constexpr int64_t kBlockColumns = 512;

// Rows [start, stop) of a block of columns, and the weight of each row or null.
struct NormsBlock {
  const float* weights;
  int64_t weight_stride;
  int64_t start;
  int64_t stop;
  int64_t first_column;
  int64_t columns;
};

template <typename Element>
NP_INLINE void sum_squares(
    const StridedMatrix& values, const NormsBlock& block, double* __restrict sums) {
  const auto* data = static_cast<const typename Element::Storage*>(values.data) +
      block.first_column * values.column_stride;
  for (int64_t t = block.start; t < block.stop; ++t) {
    const auto* row = data + t * values.row_stride;
    const double weight = block.weights == nullptr ? 1 : block.weights[t * block.weight_stride];
    if (values.column_stride == 1) {
      for (int64_t j = 0; j < block.columns; ++j) {
        const double value = weight * Element::load(row[j]);
        sums[j] += value * value;
      }
    } else {
      for (int64_t j = 0; j < block.columns; ++j) {
        const double value = weight * Element::load(row[j * values.column_stride]);
        sums[j] += value * value;
      }
    }
  }
}

// See neuropatch/kernels/norms.py for why this is an upper bound. The square of a float is exact in
// double, so without weights it does not matter whether the compiler fuses the addition.
NP_INLINE void column_norms(const StridedMatrix& values, const NormsBlock& block, float* norms) {
  double sums[kBlockColumns] = {};
  with_element(values.type, [&](auto element) __attribute__((always_inline)) {
    sum_squares<decltype(element)>(values, block, sums);
  });
  const double raise = 1 + static_cast<double>(block.stop - block.start + 4) * 0x1.0p-53;
  for (int64_t j = 0; j < block.columns; ++j) {
    const double norm = std::sqrt(sums[j]) * raise;
    const float nearest = static_cast<float>(norm);
    norms[j] = nearest < norm
        ? std::nextafterf(nearest, std::numeric_limits<float>::infinity())
        : nearest;
  }
}

#define NP_DEFINE(NAME, TARGET)                                               \
  TARGET static void NAME##_norms(                                            \
      const StridedMatrix& values, const NormsBlock& block, float* norms) {   \
    column_norms(values, block, norms);                                       \
  }
NP_EACH_INSTRUCTION_SET(NP_DEFINE)
#undef NP_DEFINE

Tensor snip_column_norms(Tensor values, Tensor offsets, std::optional<Tensor> weights) {
  const std::vector<int64_t> starts = checked_norms_offsets(values, offsets, weights);
  const int64_t samples = static_cast<int64_t>(starts.size()) - 1;
  Tensor norms =
      torch::stable::new_empty(values, {samples, values.size(1)}, ScalarType::Float);
  const StridedMatrix matrix = strided_matrix(values);
  const auto kernel = NP_CHOOSE(current_capability(), norms);
  auto* result = static_cast<float*>(norms.mutable_data_ptr());
  const int64_t blocks = ceil_div(matrix.columns, kBlockColumns);
  const int64_t tasks = samples * blocks;
  std::atomic<int64_t> next{0};
  for_each_worker(std::min<int64_t>(torch::stable::get_num_threads(), tasks), [&](int64_t) {
    for (int64_t task = next++; task < tasks; task = next++) {
      const int64_t sample = task / blocks;
      NormsBlock block{};
      if (weights.has_value()) {
        block.weights = static_cast<const float*>(weights->const_data_ptr());
        block.weight_stride = weights->stride(0);
      }
      block.start = starts[sample];
      block.stop = starts[sample + 1];
      block.first_column = task % blocks * kBlockColumns;
      block.columns = std::min(kBlockColumns, matrix.columns - block.first_column);
      kernel(matrix, block, result + sample * matrix.columns + block.first_column);
    }
  });
  return norms;
}

}  // namespace

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CPU, m) {
  m.impl("snip_column_norms", TORCH_BOX(&neuropatch::cpu::snip_column_norms));
}
