// cp.async. Until a copy has been waited for, its destination holds NaN: nothing may rely on what
// was there before, nor on what is to come.

#pragma once

#include <cstring>

#include "runtime.h"

namespace np::emulation {

inline void start_copy(
    void* destination, const void* source, unsigned bytes, unsigned source_bytes, Place place) {
  check_aligned(destination, bytes, "cp.async into", place);
  check_aligned(source, bytes, "cp.async from", place);
  if (source_bytes > bytes) fail(place, "cp.async has more bytes to read than to write");
  std::memset(destination, 0xFF, bytes);
  announce_copy({destination, source, bytes, source_bytes});
}

inline void wait_for_copies(unsigned pending) {
  AsyncCopy copy;
  while (take_due_copy(pending, copy)) {
    char* destination = static_cast<char*>(copy.destination);
    std::memcpy(destination, copy.source, copy.source_bytes);
    std::memset(destination + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  }
}

}  // namespace np::emulation
