// Compiled into each library and program, beside its kernels.

#include "library.h"

namespace np::emulation {

extern "C" __attribute__((visibility("default"))) Library* np_emulation_library() {
  static Library library{{}, &options()};
  return &library;
}

}  // namespace np::emulation
