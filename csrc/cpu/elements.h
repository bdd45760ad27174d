// Matrices of float32, bfloat16 or float16 with any strides, and the reading of their elements.
//
// The readers are inlined into functions with a target attribute, so that each instruction set gets
// its own code for them.

#pragma once

#include <cstdint>
#include <cstring>

#include "capability.h"

#define NP_INLINE [[gnu::always_inline]] inline

#if defined(__x86_64__)
#define NP_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define NP_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
// Calls DEFINE(name, target attribute) for each instruction set.
#define NP_EACH_INSTRUCTION_SET(DEFINE) \
  DEFINE(portable, )                    \
  DEFINE(avx2, NP_TARGET_AVX2)          \
  DEFINE(avx512, NP_TARGET_AVX512)
// The value for a capability, of values whose names begin with that of an instruction set.
#define NP_CHOOSE(CAPABILITY, NAME)                      \
  ((CAPABILITY) == Capability::kPortable ? portable_##NAME \
       : (CAPABILITY) == Capability::kAvx2 ? avx2_##NAME   \
                                           : avx512_##NAME)
#else
#define NP_EACH_INSTRUCTION_SET(DEFINE) DEFINE(portable, )
#define NP_CHOOSE(CAPABILITY, NAME) (static_cast<void>(CAPABILITY), portable_##NAME)
#endif

namespace neuropatch::cpu {

enum class StoredType { kFloat32, kBFloat16, kFloat16 };

// A matrix with any strides, counted in elements.
struct StridedMatrix {
  const void* data;
  StoredType type;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;
};

NP_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

NP_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

struct Float32Element {
  using Storage = float;
  NP_INLINE static float load(float value) { return value; }
};

struct BFloat16Element {
  using Storage = uint16_t;
  NP_INLINE static float load(uint16_t value) {
    return float_of_bits(static_cast<uint32_t>(value) << 16);
  }
};

// Branch-free, so that the compiler vectorises it. The exponent is moved into float's range by one
// multiplication (infinities and NaN keep an exponent of all ones); a subnormal half becomes the
// fraction of a number in [0.5, 1), from which 0.5 is taken.
struct Float16Element {
  using Storage = uint16_t;
  NP_INLINE static float load(uint16_t value) {
    const uint32_t shifted = static_cast<uint32_t>(value) << 16;
    const uint32_t sign = shifted & 0x80000000u;
    const uint32_t magnitude = shifted + shifted;
    const float normal = float_of_bits((magnitude >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const float subnormal = float_of_bits((magnitude >> 17) | (126u << 23)) - 0.5f;
    const bool is_subnormal = magnitude < (1u << 27);
    return float_of_bits(sign | (is_subnormal ? bits_of(subnormal) : bits_of(normal)));
  }
};

// Calls function(element) with the reader of a type.
template <typename Function>
NP_INLINE void with_element(StoredType type, const Function& function) {
  switch (type) {
    case StoredType::kFloat32:
      return function(Float32Element{});
    case StoredType::kBFloat16:
      return function(BFloat16Element{});
    case StoredType::kFloat16:
      return function(Float16Element{});
  }
}

}  // namespace neuropatch::cpu
