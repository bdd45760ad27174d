// Vectors of one register width, written with GCC's vector types. Functions over them are templates;
// see elements.h for how they come to use an instruction set.

#pragma once

#include <cstdint>

#include "elements.h"
#include "instruction_sets.h"

// A warning about passing wide vectors between functions that were compiled for different
// instruction sets. None is passed: every function that takes or returns one is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace neuropatch::cpu {

namespace {

// They may alias float, of which the arrays in memory are made; Unaligned may lie anywhere there.
#define NP_VECTOR(NAME, LANES)                                                               \
  struct NAME {                                                                              \
    static constexpr int kLanes = LANES;                                                     \
    typedef float Floats __attribute__((vector_size(LANES * 4), may_alias));                 \
    typedef float Unaligned __attribute__((vector_size(LANES * 4), may_alias, aligned(4)));  \
    typedef int32_t Bits __attribute__((vector_size(LANES * 4)));                            \
  };
NP_VECTOR(Vector128, 4)
NP_VECTOR(Vector256, 8)
NP_VECTOR(Vector512, 16)
#undef NP_VECTOR

}  // namespace

}  // namespace neuropatch::cpu
