// Tiles of registers over packed panels: the loops that the kernels of snip_accumulate_ share, as
// templates over the vector width and the multiplication. A file that uses intrinsics defines NP_TARGET
// first; see elements.h.

#pragma once

#include <cstdint>
#include <cstring>

#include "snip_kernels.h"
#include "vectors.h"

namespace neuropatch::cpu {

namespace {

// Words of float32.
struct MultiplyAdd {
  template <typename Floats>
  NP_INLINE static void step(Floats& sum, const Floats& x, float g) {
    sum += x * g;
  }
};

// Asks for columns of a later token while one is packed: rows of a matrix lie further apart than a
// hardware prefetcher follows.
template <typename Storage>
NP_INLINE void prefetch_token(
    const Storage* data, const TokenMatrix& matrix, int64_t token, int64_t columns) {
  constexpr int64_t kLine = 64 / sizeof(Storage);
  if (matrix.column_stride == 1 && token < matrix.tokens) {
    for (int64_t c = 0; c < columns; c += kLine) {
      __builtin_prefetch(data + token * matrix.token_stride + c);
    }
  }
}

constexpr int64_t kPrefetchTokens = 8;

// sums[kRows][kVectors vectors] += |G_b^T X_b| of one sample. The sum over tokens lives in
// kRows * kVectors registers; each step costs kVectors loads of X and kRows broadcasts of G.
template <typename Vector, typename Arithmetic, int kRows, int kVectors>
NP_INLINE void accumulate_sample(
    const float* grad, const float* input, int64_t steps, float* sums) {
  using Floats = typename Vector::Floats;
  using Bits = typename Vector::Bits;
  constexpr int64_t kStep = kPanelColumns / Vector::kLanes;
  const auto* x = reinterpret_cast<const Floats*>(input);
  auto* s = reinterpret_cast<Floats*>(sums);

  Floats sum[kRows][kVectors] = {};
  for (int64_t t = 0; t < steps; ++t) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        Arithmetic::step(sum[i][v], x[v], grad[i]);
      }
    }
    grad += kRows;
    x += kStep;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      // Clearing the sign bit keeps NaN and infinity.
      s[i * kStep + v] += (Floats)((Bits)sum[i][v] & 0x7fffffff);
    }
  }
}

// One tile of rows over a whole panel, kVectors vectors at a time. Vectors without a valid column
// are left out.
template <typename Vector, typename Arithmetic, int kRows, int kVectors>
NP_INLINE void accumulate_tile(
    const float* grad, const float* input, int64_t steps, int64_t vectors, float* sums) {
  for (int64_t v = 0; v < vectors; v += kVectors) {
    const int64_t column = v * Vector::kLanes;
    const int64_t left = vectors - v;
    if (left >= kVectors) {
      accumulate_sample<Vector, Arithmetic, kRows, kVectors>(
          grad, input + column, steps, sums + column);
    } else if (kVectors > 2 && left == 2) {
      accumulate_sample<Vector, Arithmetic, kRows, 2>(grad, input + column, steps, sums + column);
    } else {
      accumulate_sample<Vector, Arithmetic, kRows, 1>(grad, input + column, steps, sums + column);
    }
  }
}

// Rows of the score lie far apart, which no hardware prefetcher follows: they are asked for while the
// last sample is multiplied.
NP_INLINE void prefetch_score(const SnipBlock& block, int64_t first_row, int64_t rows) {
  constexpr int64_t kLine = 64 / sizeof(float);
  const int64_t last = first_row + rows < block.rows ? first_row + rows : block.rows;
  for (int64_t r = first_row; r < last; ++r) {
    const float* row = block.score + r * block.score_stride;
    for (int64_t c = 0; c < block.columns; c += kLine) {
      __builtin_prefetch(row + c, 1);
    }
    // A row need not begin with a cache line.
    __builtin_prefetch(row + block.columns - 1, 1);
  }
}

NP_INLINE void add_to_score(const SnipBlock& block) {
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t c = 0; c < block.columns; ++c) {
      block.score[r * block.score_stride + c] += block.sums[r * kPanelColumns + c];
    }
  }
}

template <typename Vector, typename Arithmetic, int kRows, int kVectors>
NP_INLINE void accumulate(const SnipBlock& block) {
  static_assert(kPanelColumns % (kVectors * Vector::kLanes) == 0 && kVectors <= 3);
  static_assert(kBlockRows % kRows == 0, "a block must be made of whole tiles");
  const int64_t tiles = (block.rows + kRows - 1) / kRows;
  const int64_t vectors = (block.columns + Vector::kLanes - 1) / Vector::kLanes;

  std::memset(block.sums, 0, tiles * kRows * kPanelColumns * sizeof(float));
  const float* grad = block.grad;
  for (int64_t b = 0; b < block.samples; ++b) {
    const int64_t start = block.steps[b];
    const int64_t steps = block.steps[b + 1] - start;
    for (int64_t i = 0; i < tiles && steps > 0; ++i) {
      if (block.steps[b + 1] == block.steps[block.samples]) {
        prefetch_score(block, i * kRows, kRows);
      }
      accumulate_tile<Vector, Arithmetic, kRows, kVectors>(
          grad, block.input + start * kPanelColumns, steps, vectors,
          block.sums + i * kRows * kPanelColumns);
      grad += steps * kRows;
    }
  }
  add_to_score(block);
}

}  // namespace

}  // namespace neuropatch::cpu
