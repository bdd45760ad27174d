// The kernels are templates over the vector width, written with GCC's vector types and inlined into
// one function per instruction set. Only those functions carry a target attribute, so the library
// runs on any machine of its architecture.

#include "snip_kernels.h"

#include <algorithm>
#include <cstring>

#define NP_INLINE [[gnu::always_inline]] inline

namespace neuropatch::cpu {

namespace {

NP_INLINE float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

NP_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

struct Float32 {
  using Storage = float;
  NP_INLINE static float load(float value) { return value; }
};

struct BFloat16 {
  using Storage = uint16_t;
  NP_INLINE static float load(uint16_t value) {
    return float_from_bits(static_cast<uint32_t>(value) << 16);
  }
};

// Branch-free, so that the compiler vectorises it. The exponent is moved into float's range by one
// multiplication (infinities and NaN keep an exponent of all ones); a subnormal half becomes the
// fraction of a number in [0.5, 1), from which 0.5 is taken.
struct Float16 {
  using Storage = uint16_t;
  NP_INLINE static float load(uint16_t value) {
    const uint32_t shifted = static_cast<uint32_t>(value) << 16;
    const uint32_t sign = shifted & 0x80000000u;
    const uint32_t magnitude = shifted + shifted;
    const float normal = float_from_bits((magnitude >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const float subnormal = float_from_bits((magnitude >> 17) | (126u << 23)) - 0.5f;
    const bool is_subnormal = magnitude < (1u << 27);
    return float_from_bits(sign | (is_subnormal ? bits_of_float(subnormal) : bits_of_float(normal)));
  }
};

template <typename Element, int kWidth>
NP_INLINE void pack_typed(
    const TokenMatrix& matrix, int64_t first_column, int64_t columns, float* packed) {
  const auto* data = static_cast<const typename Element::Storage*>(matrix.data) +
      matrix.start * matrix.token_stride;
  for (int64_t t = 0; t < matrix.tokens; ++t) {
    // Tokens outside, tiles inside: a row of the matrix is read once, in order.
    for (int64_t first = 0; first < columns; first += kWidth) {
      const auto* source =
          data + t * matrix.token_stride + (first_column + first) * matrix.column_stride;
      float* target = packed + first * matrix.tokens + t * kWidth;
      const int64_t valid = columns - first;
      if (valid >= kWidth && matrix.column_stride == 1) {
        for (int64_t j = 0; j < kWidth; ++j) {
          target[j] = Element::load(source[j]);
        }
      } else {
        for (int64_t j = 0; j < kWidth; ++j) {
          target[j] = j < valid ? Element::load(source[j * matrix.column_stride]) : 0.0f;
        }
      }
    }
  }
}

template <int kWidth>
NP_INLINE void pack(
    const TokenMatrix& matrix, int64_t first_column, int64_t columns, float* packed) {
  switch (matrix.type) {
    case ElementType::kFloat32:
      return pack_typed<Float32, kWidth>(matrix, first_column, columns, packed);
    case ElementType::kBFloat16:
      return pack_typed<BFloat16, kWidth>(matrix, first_column, columns, packed);
    case ElementType::kFloat16:
      return pack_typed<Float16, kWidth>(matrix, first_column, columns, packed);
  }
}

// Vectors of one register width. They may alias float, of which the panels are made.
#define NP_VECTOR(NAME, LANES)                                                  \
  struct NAME {                                                                 \
    static constexpr int kLanes = LANES;                                        \
    typedef float Floats __attribute__((vector_size(LANES * 4), may_alias));    \
    typedef int32_t Bits __attribute__((vector_size(LANES * 4)));               \
  };
NP_VECTOR(Vector128, 4)
NP_VECTOR(Vector256, 8)
NP_VECTOR(Vector512, 16)

// sums[kRows][kVectors vectors] += |G_b^T X_b| of one sample. The sum over tokens lives in
// kRows * kVectors registers; each token costs kVectors loads of X and kRows broadcasts of G.
template <typename Vector, int kRows, int kVectors>
NP_INLINE void accumulate_sample(
    const float* grad, const float* input, int64_t tokens, float* sums) {
  using Floats = typename Vector::Floats;
  using Bits = typename Vector::Bits;
  constexpr int64_t kStep = kPanelColumns / Vector::kLanes;
  const auto* x = reinterpret_cast<const Floats*>(input);
  auto* s = reinterpret_cast<Floats*>(sums);

  Floats sum[kRows][kVectors] = {};
  for (int64_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[i][v] += x[v] * grad[i];
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
template <typename Vector, int kRows, int kVectors>
NP_INLINE void accumulate_tile(
    const float* grad, const float* input, int64_t tokens, int64_t vectors, float* sums) {
  for (int64_t v = 0; v < vectors; v += kVectors) {
    const int64_t column = v * Vector::kLanes;
    const int64_t left = vectors - v;
    if (left >= kVectors) {
      accumulate_sample<Vector, kRows, kVectors>(grad, input + column, tokens, sums + column);
    } else if (kVectors > 2 && left == 2) {
      accumulate_sample<Vector, kRows, 2>(grad, input + column, tokens, sums + column);
    } else {
      accumulate_sample<Vector, kRows, 1>(grad, input + column, tokens, sums + column);
    }
  }
}

template <typename Vector, int kRows, int kVectors>
NP_INLINE void accumulate(const SnipBlock& block) {
  static_assert(kPanelColumns % (kVectors * Vector::kLanes) == 0 && kVectors <= 3);
  const int64_t tiles = (block.rows + kRows - 1) / kRows;
  const int64_t vectors = (block.columns + Vector::kLanes - 1) / Vector::kLanes;

  std::memset(block.sums, 0, tiles * kRows * kPanelColumns * sizeof(float));
  const float* grad = block.grad;
  for (int64_t b = 0; b < block.samples; ++b) {
    const int64_t start = block.offsets[b];
    const int64_t tokens = block.offsets[b + 1] - start;
    for (int64_t i = 0; i < tiles && tokens > 0; ++i) {
      accumulate_tile<Vector, kRows, kVectors>(
          grad, block.input + start * kPanelColumns, tokens, vectors,
          block.sums + i * kRows * kPanelColumns);
      grad += tokens * kRows;
    }
  }
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t c = 0; c < block.columns; ++c) {
      block.score[r * block.score_stride + c] += block.sums[r * kPanelColumns + c];
    }
  }
}

}  // namespace

// Defines the functions of one instruction set and the table that names them.
#define NP_SNIP_KERNEL(NAME, TARGET, VECTOR, ROWS, VECTORS)                                      \
  TARGET static void NAME##_pack_grad(                                                           \
      const TokenMatrix& matrix, int64_t first_column, int64_t columns, float* packed) {         \
    pack<ROWS>(matrix, first_column, columns, packed);                                           \
  }                                                                                              \
  TARGET static void NAME##_pack_input(                                                          \
      const TokenMatrix& matrix, int64_t first_column, int64_t columns, float* packed) {         \
    pack<kPanelColumns>(matrix, first_column, columns, packed);                                  \
  }                                                                                              \
  TARGET static void NAME##_accumulate(const SnipBlock& block) {                                 \
    accumulate<VECTOR, ROWS, VECTORS>(block);                                                    \
  }                                                                                              \
  static_assert(kBlockRows % ROWS == 0, "a block must be made of whole tiles");                  \
  static const SnipKernel NAME##_kernel{                                                         \
      ROWS, NAME##_pack_grad, NAME##_pack_input, NAME##_accumulate};

// 4 x 8: eight of the sixteen 128-bit registers that every 64-bit machine has.
NP_SNIP_KERNEL(portable, , Vector128, 4, 2)

#if defined(__x86_64__)
// 6 x 16: twelve of sixteen registers hold sums.
NP_SNIP_KERNEL(avx2, __attribute__((target("avx2,fma"))), Vector256, 6, 2)
// 8 x 48: twenty-four of thirty-two registers hold sums.
NP_SNIP_KERNEL(
    avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), Vector512, 8, 3)
#endif

const SnipKernel& snip_kernel(Capability capability) {
#if defined(__x86_64__)
  switch (capability) {
    case Capability::kAvx512:
      return avx512_kernel;
    case Capability::kAvx2:
      return avx2_kernel;
    case Capability::kPortable:
      return portable_kernel;
  }
#endif
  return portable_kernel;
}

}  // namespace neuropatch::cpu
