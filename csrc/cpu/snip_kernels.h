// The arithmetic of snip_accumulate_ on one thread, free of torch headers.
//
// Both factors are packed first, as float32, into the order in which they are read:
//  * X = input into panels of kPanelColumns columns, [tokens][kPanelColumns];
//  * G = grad into blocks of kBlockRows columns (rows of the score), and each block by samples into
//    tiles, [samples][tiles][tokens of the sample][tile_rows].
// Panels and tiles are filled up with zeros in width only, never in tokens, so a NaN of a real
// column cannot reach another one.

#pragma once

#include <cstdint>

#include "capability.h"

namespace neuropatch::cpu {

enum class ElementType { kFloat32, kBFloat16, kFloat16 };

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

// With 48 columns and 192 rows, a sample of 76 tokens has 15 KB of X, which stay in the L1 cache
// while 58 KB of G stream by; the sums over samples take 36 KB.
constexpr int64_t kPanelColumns = 48;
constexpr int64_t kBlockRows = 192;

// One panel of X against one block of G.
struct SnipBlock {
  const float* grad;       // the packed block
  const float* input;      // the packed panel
  const int64_t* offsets;  // [samples + 1]
  int64_t samples;
  int64_t rows;            // valid rows of the block, at most kBlockRows
  int64_t columns;         // valid columns of the panel, at most kPanelColumns
  float* sums;             // scratch, [kBlockRows][kPanelColumns], aligned to vectors
  float* score;            // the score at the first row and column of the block
  int64_t score_stride;    // elements between rows of the score
};

struct SnipKernel {
  int64_t tile_rows;
  // Packs columns [first_column, first_column + columns) of a matrix as tiles of tile_rows columns,
  // or as panels of kPanelColumns columns, one after another.
  void (*pack_grad)(
      const TokenMatrix&, int64_t first_column, int64_t columns, float* packed);
  void (*pack_input)(
      const TokenMatrix&, int64_t first_column, int64_t columns, float* packed);
  // score += sum over samples of |G_b^T X_b| for one block.
  void (*accumulate)(const SnipBlock&);
};

const SnipKernel& snip_kernel(Capability capability);

}  // namespace neuropatch::cpu
