// Exchange between the lanes of a warp.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime.h"

namespace np::emulation {

enum class Shuffle { kIndex, kUp, kDown, kXor };

// The bits of a lane's value come back as those of the lane it reads from.
std::uint64_t shuffle_bits(
    Shuffle kind, const char* operation, unsigned mask, std::uint64_t bits, int argument, int width,
    Place place);

template <typename T>
T shuffle(
    Shuffle kind, const char* operation, unsigned mask, T value, int argument, int width,
    Place place) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle_bits(kind, operation, mask, bits, argument, width, place);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// The lanes of the mask whose predicate is not zero.
unsigned ballot(const char* operation, unsigned mask, int predicate, Place place);

}  // namespace np::emulation
