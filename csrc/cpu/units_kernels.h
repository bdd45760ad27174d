// The arithmetic of masked_units on one thread, free of torch headers.

#pragma once

#include <cstdint>

#include "capability.h"
#include "elements.h"
#include "vector_math.h"

namespace neuropatch::cpu {

// A tile of this size is one task. Its rows are whole cache lines; its partial sum of the mask's
// gradient stays in the L1 cache.
constexpr int64_t kTileTokens = 64;
constexpr int64_t kTileUnits = 512;

// Matrices of the same shape; a tile of them is named by its first token and unit.
struct UnitsTile {
  Elements preactivation;
  Elements up;        // no data for MLPs without a gate
  const float* mask;  // of all units, contiguous
  int64_t first_token;
  int64_t tokens;     // at most kTileTokens
  int64_t first_unit;
  int64_t units;      // at most kTileUnits
};

struct UnitsKernel {
  // hidden = act(preactivation) * up * mask.
  void (*forward)(Activation, const UnitsTile&, const Elements& hidden);
  // Writes the gradients over preactivation and up; the sum over the tile's tokens of the mask's
  // gradient goes to grad_mask, [units] of the tile.
  void (*backward)(Activation, const UnitsTile&, const Elements& grad, float* grad_mask);
};

const UnitsKernel& units_kernel(Capability capability);

}  // namespace neuropatch::cpu
