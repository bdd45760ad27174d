// The arithmetic of snip_accumulate_ on one thread, free of torch headers.
//
// Both factors are packed first, sample by sample, into words of 32 bits in the order in which they
// are read. A word holds one token of a column as float32, or two tokens as bfloat16, the earlier
// one in the high half; `steps` words hold a column of a sample:
//  * X = input into panels of kPanelColumns columns, [steps][kPanelColumns];
//  * G = grad into blocks of kBlockRows columns (rows of the score), and each block into tiles,
//    [tiles][steps][tile_rows] (AMX: [tiles][steps / 16][tile_rows][16], as its registers want it).
// Panels and tiles are filled up with zeros in width, and with tokens of zeros in both factors, never
// in one, so a NaN of a real column cannot reach another one.
//
// The order of summation is part of the contract: other operators compute single elements and have
// to meet them bit for bit. For each element
//
//   total = 0
//   for each sample:  s = 0;  for each token, in order:  s = fma(g, x, s);  then  total += |s|
//   score += total
//
// with one rounding to float32 at each fma and each addition. What the kernels make of it:
//  * avx512, avx2: exactly that, for every type of activations.
//  * portable: the compiler's contraction of s + x * g for the baseline of the architecture, which on
//    x86-64 rounds the product and the sum.
//  * avx512_bf16, for bfloat16 activations: VDPBF16PS, which multiplies and adds the high halves and
//    then the low halves, each with one rounding to nearest even: the order above. It takes
//    subnormal factors and sums for zeros and returns zeros for subnormals; nothing else differs.
//  * amx, for bfloat16 and rounded float32 activations: TDPBF16PS sums the earlier and the later
//    halves of 32 tokens apart, adds the two, and adds that to s, with the same treatment of
//    subnormals. Not the order above.

#pragma once

#include <cstdint>

#include "capability.h"
#include "elements.h"

namespace neuropatch::cpu {

// Rows [start, start + tokens) of a matrix with any strides, counted in elements.
struct TokenMatrix {
  const void* data;
  ElementType type;
  int64_t start;
  int64_t tokens;
  int64_t columns;
  int64_t token_stride;
  int64_t column_stride;
};

// With 48 columns and 96 rows, a sample of 76 tokens has 15 KB of float32 X and the sums over samples
// take 18 KB: together they stay near the core while 29 KB of G stream by.
constexpr int64_t kPanelColumns = 48;
constexpr int64_t kBlockRows = 96;

// One panel of X against one block of G.
struct SnipBlock {
  const float* grad;      // the packed block
  const float* input;     // the packed panel
  const int64_t* steps;   // [samples + 1], where each sample starts in the packed factors
  int64_t samples;
  int64_t rows;           // valid rows of the block, at most kBlockRows
  int64_t columns;        // valid columns of the panel, at most kPanelColumns
  float* sums;            // scratch, [kBlockRows][kPanelColumns], aligned to vectors
  float* score;           // the score at the first row and column of the block
  int64_t score_stride;   // elements between rows of the score
};

struct SnipKernel {
  int64_t tile_rows;
  int64_t tokens_per_step;
  int64_t step_multiple;  // the steps of a sample are filled up to a multiple of this
  // Packs columns [first_column, first_column + columns) of one sample as tiles of tile_rows columns,
  // or as one panel.
  void (*pack_grad)(
      const TokenMatrix&, int64_t first_column, int64_t columns, float* packed);
  void (*pack_input)(
      const TokenMatrix&, int64_t first_column, int64_t columns, float* packed);
  // score += sum over samples of |G_b^T X_b| for one block.
  void (*accumulate)(const SnipBlock&);

  int64_t steps(int64_t tokens) const {
    const int64_t multiple = tokens_per_step * step_multiple;
    return (tokens + multiple - 1) / multiple * step_multiple;
  }
};

// Kernels of float32 arithmetic, for every type.
const SnipKernel& vector_snip_kernel(Capability capability);

// VDPBF16PS, for bfloat16. This one and the next are defined where the compiler knows them.
extern const SnipKernel kDotProductSnipKernel;

// AMX, for bfloat16 and for float32, which it rounds to bfloat16.
extern const SnipKernel kTileSnipKernel;

}  // namespace neuropatch::cpu
