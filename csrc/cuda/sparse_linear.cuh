// The part of a linear layer's output that a sparse change of its weights adds.

#pragma once

#include "elements.cuh"

namespace neuropatch::cuda {

inline constexpr int kSparseThreads = 128;
inline constexpr int kSparseTokens = 8;  // that one thread works on at once

struct SparseArguments {
  StridedMatrix result;
  int64_t out;
  StridedMatrix input;
  int64_t in;
  int64_t tokens;
  Edits edits;
};

// The thread of the first edit of a row sums all edits of that row, so every element of the result is
// changed by one thread, and rounded once.
template <typename Element>
__global__ void __launch_bounds__(kSparseThreads) add_sparse_linear_kernel(
    SparseArguments arguments) {
  const Edits& edits = arguments.edits;
  const int64_t blocks = (edits.count + kSparseThreads - 1) / kSparseThreads;
  const int64_t first = blockIdx.x % blocks * kSparseThreads + threadIdx.x;
  const int64_t first_token = blockIdx.x / blocks * kSparseTokens;
  if (first >= edits.count) {
    return;
  }
  const int32_t row = edits.rows[first];
  const int32_t before = first == 0 ? -1 : edits.rows[first - 1];
  if (row < 0 || row >= arguments.out || before > row) {
    np::stop("an edit's row is outside of the matrix, or rows descend");
    return;
  }
  if (before == row) {
    return;
  }
  const auto* input = static_cast<const Element*>(arguments.input.data);
  float sums[kSparseTokens] = {};
  for (int64_t edit = first; edit < edits.count && edits.rows[edit] == row; ++edit) {
    const int32_t column = edits.columns[edit];
    if (column < 0 || column >= arguments.in) {
      np::stop("an edit's column is outside of the matrix");
      return;
    }
    const float delta = edits.delta[edit];
#pragma unroll
    for (int i = 0; i < kSparseTokens; ++i) {
      if (first_token + i < arguments.tokens) {
        const int64_t place = (first_token + i) * arguments.input.row_stride +
            column * arguments.input.column_stride;
        sums[i] = fmaf(static_cast<float>(input[place]), delta, sums[i]);
      }
    }
  }
  auto* result = static_cast<Element*>(arguments.result.data);
#pragma unroll
  for (int i = 0; i < kSparseTokens; ++i) {
    if (first_token + i < arguments.tokens) {
      Element& element = result
          [(first_token + i) * arguments.result.row_stride +
           row * arguments.result.column_stride];
      element = static_cast<Element>(static_cast<float>(element) + sums[i]);
    }
  }
}

}  // namespace neuropatch::cuda
