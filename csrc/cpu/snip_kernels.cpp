// The kernels of float32 arithmetic, written with GCC's vector types and inlined into one function per
// instruction set. Only those functions carry a target attribute, so the library runs on any machine
// of its architecture.

#include "snip_kernels_tile.h"

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
      matrix.start * matrix.token_stride + first_column * matrix.column_stride;
  for (int64_t t = 0; t < matrix.tokens; ++t) {
    prefetch_token(data, matrix, t + kPrefetchTokens, columns);
    // Tokens outside, tiles inside: a row of the matrix is read once, in order.
    for (int64_t first = 0; first < columns; first += kWidth) {
      const auto* source = data + t * matrix.token_stride + first * matrix.column_stride;
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
    accumulate<VECTOR, MultiplyAdd, ROWS, VECTORS>(block);                                       \
  }                                                                                              \
  static const SnipKernel NAME##_kernel{                                                         \
      ROWS, 1, 1, NAME##_pack_grad, NAME##_pack_input, NAME##_accumulate};

// 4 x 8: eight of the sixteen 128-bit registers that every 64-bit machine has.
NP_SNIP_KERNEL(portable, , Vector128, 4, 2)

#if defined(__x86_64__)
// 6 x 16: twelve of sixteen registers hold sums.
NP_SNIP_KERNEL(avx2, __attribute__((target("avx2,fma"))), Vector256, 6, 2)
// 8 x 48: twenty-four of thirty-two registers hold sums.
NP_SNIP_KERNEL(
    avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), Vector512, 8, 3)
#endif

const SnipKernel& vector_snip_kernel(Capability capability) {
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
