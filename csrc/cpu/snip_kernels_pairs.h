// Packing of two tokens of bfloat16 into a word, for the kernels whose instructions multiply pairs.
// NP_TARGET as in snip_kernels_tile.h.

#pragma once

#include <cstdint>
#include <cstring>

#include "snip_kernels_tile.h"

namespace neuropatch::cpu {

namespace {

// The workspace is one of floats.
typedef uint32_t Word __attribute__((may_alias));

struct BFloat16Bits {
  using Storage = uint16_t;
  NP_INLINE static uint32_t load(uint16_t value) { return value; }
};

// Rounds to nearest even; a NaN stays one.
struct RoundedFloat32 {
  using Storage = float;
  NP_INLINE static uint32_t load(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const uint32_t quiet = bits >> 16 | 0x40u;
    return (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
  }
};

// One column, [first, first + tokens) of its tokens apart by `stride`: the word of tokens 2 * step and
// 2 * step + 1, the earlier one in the high half, zero for tokens past the end.
template <typename Element>
NP_INLINE uint32_t pair(
    const typename Element::Storage* column, int64_t stride, int64_t step, int64_t tokens) {
  const int64_t t = 2 * step;
  const uint32_t high = t < tokens ? Element::load(column[t * stride]) : 0u;
  const uint32_t low = t + 1 < tokens ? Element::load(column[(t + 1) * stride]) : 0u;
  return high << 16 | low;
}

template <typename Element>
NP_INLINE const typename Element::Storage* first_element(
    const TokenMatrix& matrix, int64_t first_column) {
  return static_cast<const typename Element::Storage*>(matrix.data) +
      matrix.start * matrix.token_stride + first_column * matrix.column_stride;
}

// Packs columns as tiles or panels of kWidth columns, [steps][kWidth] words each.
template <typename Element, int kWidth>
NP_INLINE void pack_pairs(
    const TokenMatrix& matrix, int64_t first_column, int64_t columns, int64_t steps,
    float* packed) {
  const auto* data = first_element<Element>(matrix, first_column);
  auto* words = reinterpret_cast<Word*>(packed);
  for (int64_t step = 0; step < steps; ++step) {
    const bool whole = 2 * step + 1 < matrix.tokens;
    const auto* row = data + 2 * step * matrix.token_stride;
    prefetch_token(data, matrix, 2 * step + kPrefetchTokens, columns);
    prefetch_token(data, matrix, 2 * step + 1 + kPrefetchTokens, columns);
    for (int64_t first = 0; first < columns; first += kWidth) {
      Word* target = words + first * steps + step * kWidth;
      const int64_t valid = columns - first;
      if (whole && valid >= kWidth && matrix.column_stride == 1) {
        const auto* next = row + matrix.token_stride;
        for (int64_t j = 0; j < kWidth; ++j) {
          target[j] = Element::load(row[first + j]) << 16 | Element::load(next[first + j]);
        }
      } else {
        for (int64_t j = 0; j < kWidth; ++j) {
          target[j] = j < valid
              ? pair<Element>(
                    data + (first + j) * matrix.column_stride, matrix.token_stride, step,
                    matrix.tokens)
              : 0u;
        }
      }
    }
  }
}

}  // namespace

}  // namespace neuropatch::cpu
