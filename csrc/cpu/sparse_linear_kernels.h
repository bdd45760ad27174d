// The arithmetic of add_sparse_linear on one thread, free of torch headers.

#pragma once

#include <cstdint>

#include "capability.h"
#include "elements.h"

namespace neuropatch::cpu {

// Tokens that are corrected together: one cache line of floats, and one AVX-512 register.
constexpr int64_t kBlockTokens = 16;

// Some edits of one patch, [edits], sorted by row, on a block of tokens.
struct SparseBlock {
  const int32_t* rows;
  const int32_t* columns;
  const float* delta;
  int64_t edits;
  Elements input;   // at the block's first token
  Elements result;  // the same; holds the output of the layer before
  int64_t tokens;   // at most kBlockTokens
  int64_t in;       // columns of the input
  float* scratch;   // [in][kBlockTokens], aligned to vectors
};

using SparseLinearKernel = void (*)(const SparseBlock&);

SparseLinearKernel sparse_linear_kernel(Capability capability);

}  // namespace neuropatch::cpu
