// bfloat16 by the dot products of AVX512_BF16: two tokens an instruction, sums in float32. A product
// of two bfloat16 is exact in float32, and each step is rounded as an FMA is, so the result differs
// from that of widened activations only in subnormals, which the instruction flushes.

#include "capability.h"

#if NEUROPATCH_X86_BFLOAT16

#include <immintrin.h>

#define NP_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")))

#include "snip_kernels_pairs.h"
#include "snip_kernels_tile.h"

namespace neuropatch::cpu {

namespace {

// Words of two tokens, the earlier one in the high half, which the instruction adds first.
struct DotProduct {
  NP_INLINE static void step(Vector512::Floats& sum, const Vector512::Floats& x, float g) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)_mm512_set1_ps(g));
  }
};

constexpr int kTileRows = 8;

NP_TARGET void pack_grad(
    const TokenMatrix& matrix, int64_t first_column, int64_t columns, float* packed) {
  pack_pairs<BFloat16Bits, kTileRows>(
      matrix, first_column, columns, kDotProductSnipKernel.steps(matrix.tokens), packed);
}

NP_TARGET void pack_input(
    const TokenMatrix& matrix, int64_t first_column, int64_t columns, float* packed) {
  pack_pairs<BFloat16Bits, kPanelColumns>(
      matrix, first_column, columns, kDotProductSnipKernel.steps(matrix.tokens), packed);
}

// 8 x 48, as for float32 in AVX-512.
NP_TARGET void accumulate_block(const SnipBlock& block) {
  accumulate<Vector512, DotProduct, kTileRows, 3>(block);
}

}  // namespace

const SnipKernel kDotProductSnipKernel{kTileRows, 2, 1, pack_grad, pack_input, accumulate_block};

}  // namespace neuropatch::cpu

#endif
