// The types of activations, and conversions between them and float.

#pragma once

#include <cstdint>
#include <cstring>

// Everything small is inlined into one function per instruction set, and only those functions need a
// target attribute, so the library runs on any machine of its architecture. A file that uses
// intrinsics defines NP_TARGET as theirs, because an intrinsic is inlined into nothing less.
#ifndef NP_TARGET
#define NP_TARGET
#endif
#define NP_INLINE NP_TARGET __attribute__((always_inline)) inline

namespace neuropatch::cpu {

enum class ElementType { kFloat32, kBFloat16, kFloat16 };

// A matrix [tokens, columns] of any strides, counted in elements.
struct Elements {
  void* data;
  ElementType type;
  int64_t token_stride;
  int64_t column_stride;
};

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

// Every conversion is branch-free, so that the compiler vectorises loops of them, and rounds to the
// nearest, ties to even. A NaN stays one.
struct Float32 {
  using Storage = float;
  NP_INLINE static float load(float value) { return value; }
  NP_INLINE static float store(float value) { return value; }
};

struct BFloat16 {
  using Storage = uint16_t;
  NP_INLINE static float load(uint16_t value) {
    return float_from_bits(static_cast<uint32_t>(value) << 16);
  }
  NP_INLINE static uint16_t store(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded);
  }
};

struct Float16 {
  using Storage = uint16_t;
  // The exponent is moved into float's range by one multiplication (infinities and NaN keep an
  // exponent of all ones); a subnormal half becomes the fraction of a number in [0.5, 1), from which
  // 0.5 is taken.
  NP_INLINE static float load(uint16_t value) {
    const uint32_t shifted = static_cast<uint32_t>(value) << 16;
    const uint32_t sign = shifted & 0x80000000u;
    const uint32_t magnitude = shifted + shifted;
    const float normal = float_from_bits((magnitude >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const float subnormal = float_from_bits((magnitude >> 17) | (126u << 23)) - 0.5f;
    const bool is_subnormal = magnitude < (1u << 27);
    return float_from_bits(sign | (is_subnormal ? bits_of_float(subnormal) : bits_of_float(normal)));
  }
  // Adding a number whose last bit is the last bit of the half rounds the magnitude there; what
  // exceeds the range of halves was scaled to infinity before.
  NP_INLINE static uint16_t store(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const float scaled = (float_from_bits(magnitude) * 0x1.0p112f) * 0x1.0p-110f;
    const uint32_t exponent = magnitude & 0x7f800000u;
    const uint32_t floor = exponent < 0x38800000u ? 0x38800000u : exponent;
    const uint32_t sum = bits_of_float(float_from_bits(floor + 0x07800000u) + scaled);
    const uint32_t half = ((sum >> 13) & 0x7c00u) + (sum & 0x0fffu);
    return static_cast<uint16_t>(
        ((bits >> 16) & 0x8000u) | (magnitude > 0x7f800000u ? 0x7e00u : half));
  }
};

}  // namespace

}  // namespace neuropatch::cpu
