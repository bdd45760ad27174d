// The instruction set that the CPU kernels use, chosen at run time.

#pragma once

#include <string>
#include <vector>

// Compilers that know the bfloat16 instructions of x86-64 bring this header (GCC 11, Clang 11).
#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define NEUROPATCH_X86_BFLOAT16 1
#else
#define NEUROPATCH_X86_BFLOAT16 0
#endif

namespace neuropatch::cpu {

// The vectors of float32 arithmetic.
enum class Capability { kPortable, kAvx2, kAvx512 };

// What multiplies bfloat16: nothing (it is widened to float32), the dot products of AVX512_BF16, or
// the tiles of AMX. Both come with AVX-512.
enum class BFloat16Unit { kNone, kDotProducts, kTiles };

// Of the choice that set_cpu_capability made, or of the best one when none was made.
Capability current_capability();
BFloat16Unit current_bfloat16_unit();

// The names to choose from on this machine, best first and those that are only taken when asked for
// last; never empty.
std::vector<std::string> cpu_capabilities();

}  // namespace neuropatch::cpu
