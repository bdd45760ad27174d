// bfloat16 by the tiles of AMX; float32 activations are rounded to bfloat16 while they are packed.
// With NEUROPATCH_EMULATE_AMX the same source runs on the software tiles of csrc/emulation/amx.h.

#include "capability.h"

#if NEUROPATCH_X86_BFLOAT16 || defined(NEUROPATCH_EMULATE_AMX)

#ifdef NEUROPATCH_EMULATE_AMX
#include "../emulation/amx.h"
#else
#include <immintrin.h>
#define NP_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,amx-tile,amx-bf16,avx2,fma")))
#endif

#include "snip_kernels_pairs.h"
#include "snip_kernels_tile.h"

namespace neuropatch::cpu {

namespace {

// A tile register is 16 rows of 64 bytes: 16 x 16 float32, or 16 rows of 16 words of two tokens.
constexpr int kTileRows = 16;
constexpr int kTileWords = 16;
constexpr int kTileBytes = 64;
constexpr int kSumVectors = kPanelColumns / kTileWords;
static_assert(kSumVectors == 3 && kBlockRows % kTileRows == 0);

// As LDTILECFG reads it: palette 1; tiles 0 to 2 are sums, 3 is G and 4 to 6 are X, all whole.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
constexpr TileConfig kTileConfig;

// [tiles][steps / 16][16 rows][16 words]: the left factor's rows are columns of the matrix.
template <typename Element>
NP_INLINE void pack_rows(
    const TokenMatrix& matrix, int64_t first_column, int64_t columns, int64_t steps,
    float* packed) {
  const auto* data = first_element<Element>(matrix, first_column);
  auto* words = reinterpret_cast<Word*>(packed);
  for (int64_t first = 0; first < columns; first += kTileRows) {
    for (int64_t step = 0; step < steps; step += kTileWords) {
      for (int64_t row = 0; row < kTileRows; ++row) {
        const auto* column = data + (first + row) * matrix.column_stride;
        for (int64_t k = 0; k < kTileWords; ++k) {
          *words++ = first + row < columns
              ? pair<Element>(column, matrix.token_stride, step + k, matrix.tokens)
              : 0u;
        }
      }
    }
  }
}

NP_TARGET void pack_grad(
    const TokenMatrix& matrix, int64_t first_column, int64_t columns, float* packed) {
  const int64_t steps = kTileSnipKernel.steps(matrix.tokens);
  if (matrix.type == ElementType::kBFloat16) {
    pack_rows<BFloat16Bits>(matrix, first_column, columns, steps, packed);
  } else {
    pack_rows<RoundedFloat32>(matrix, first_column, columns, steps, packed);
  }
}

NP_TARGET void pack_input(
    const TokenMatrix& matrix, int64_t first_column, int64_t columns, float* packed) {
  const int64_t steps = kTileSnipKernel.steps(matrix.tokens);
  if (matrix.type == ElementType::kBFloat16) {
    pack_pairs<BFloat16Bits, kPanelColumns>(matrix, first_column, columns, steps, packed);
  } else {
    pack_pairs<RoundedFloat32, kPanelColumns>(matrix, first_column, columns, steps, packed);
  }
}

// products[16][kVectors vectors] = G_b^T X_b of one sample. The intrinsics want literal numbers.
template <int kVectors>
NP_INLINE void multiply_sample(
    const float* grad, const float* input, int64_t steps, float* products) {
  constexpr int64_t kPanelBytes = kPanelColumns * sizeof(float);
  _tile_zero(0);
  if constexpr (kVectors > 1) {
    _tile_zero(1);
  }
  if constexpr (kVectors > 2) {
    _tile_zero(2);
  }
  for (int64_t step = 0; step < steps; step += kTileWords) {
    _tile_loadd(3, grad, kTileBytes);
    _tile_loadd(4, input, kPanelBytes);
    _tile_dpbf16ps(0, 3, 4);
    if constexpr (kVectors > 1) {
      _tile_loadd(5, input + kTileWords, kPanelBytes);
      _tile_dpbf16ps(1, 3, 5);
    }
    if constexpr (kVectors > 2) {
      _tile_loadd(6, input + 2 * kTileWords, kPanelBytes);
      _tile_dpbf16ps(2, 3, 6);
    }
    grad += kTileRows * kTileWords;
    input += kTileWords * kPanelColumns;
  }
  _tile_stored(0, products, kPanelBytes);
  if constexpr (kVectors > 1) {
    _tile_stored(1, products + kTileWords, kPanelBytes);
  }
  if constexpr (kVectors > 2) {
    _tile_stored(2, products + 2 * kTileWords, kPanelBytes);
  }
}

template <int kVectors>
NP_INLINE void accumulate_products(const SnipBlock& block) {
  using Floats = Vector512::Floats;
  using Bits = Vector512::Bits;
  alignas(64) float products[kTileRows * kPanelColumns];
  const auto* p = reinterpret_cast<const Floats*>(products);
  auto* s = reinterpret_cast<Floats*>(block.sums);
  const int64_t tiles = (block.rows + kTileRows - 1) / kTileRows;

  std::memset(block.sums, 0, tiles * kTileRows * kPanelColumns * sizeof(float));
  const float* grad = block.grad;
  for (int64_t b = 0; b < block.samples; ++b) {
    const int64_t start = block.steps[b];
    const int64_t steps = block.steps[b + 1] - start;
    for (int64_t i = 0; i < tiles && steps > 0; ++i) {
      if (block.steps[b + 1] == block.steps[block.samples]) {
        prefetch_score(block, i * kTileRows, kTileRows);
      }
      multiply_sample<kVectors>(grad, block.input + start * kPanelColumns, steps, products);
      for (int64_t r = 0; r < kTileRows; ++r) {
        for (int64_t v = 0; v < kVectors; ++v) {
          s[(i * kTileRows + r) * kSumVectors + v] +=
              (Floats)((Bits)p[r * kSumVectors + v] & 0x7fffffff);
        }
      }
      grad += steps * kTileRows;
    }
  }
  add_to_score(block);
}

NP_TARGET void accumulate_block(const SnipBlock& block) {
  // GCC does not know that tile loads read memory.
  __asm__ volatile("" ::: "memory");
  _tile_loadconfig(&kTileConfig);
  const int64_t vectors = (block.columns + kTileWords - 1) / kTileWords;
  if (vectors == 3) {
    accumulate_products<3>(block);
  } else if (vectors == 2) {
    accumulate_products<2>(block);
  } else {
    accumulate_products<1>(block);
  }
  _tile_release();
}

}  // namespace

const SnipKernel kTileSnipKernel{
    kTileRows, 2, kTileWords, pack_grad, pack_input, accumulate_block};

}  // namespace neuropatch::cpu

#endif
