// The kernels of float32 arithmetic, written with GCC's vector types and inlined into one function per
// instruction set. Only those functions carry a target attribute, so the library runs on any machine
// of its architecture.

#include "snip_kernels_tile.h"

namespace neuropatch::cpu {

namespace {

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
NP_SNIP_KERNEL(avx2, NP_AVX2, Vector256, 6, 2)
// 8 x 48: twenty-four of thirty-two registers hold sums.
NP_SNIP_KERNEL(avx512, NP_AVX512, Vector512, 8, 3)
#endif

const SnipKernel& vector_snip_kernel(Capability capability) {
  return NP_CHOOSE(capability, kernel);
}

}  // namespace neuropatch::cpu
