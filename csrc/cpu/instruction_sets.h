// One function per instruction set from one inlined template, and the choice among them.

#pragma once

#include "capability.h"

#if defined(__x86_64__)
#define NP_AVX2 __attribute__((target("avx2,fma")))
#define NP_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
// Calls DEFINE(name, target attribute) for each instruction set.
#define NP_EACH_INSTRUCTION_SET(DEFINE) \
  DEFINE(portable, )                    \
  DEFINE(avx2, NP_AVX2)                 \
  DEFINE(avx512, NP_AVX512)
// The value for a capability, of values whose names begin with that of an instruction set.
#define NP_CHOOSE(CAPABILITY, NAME)                      \
  ((CAPABILITY) == Capability::kPortable ? portable_##NAME \
       : (CAPABILITY) == Capability::kAvx2 ? avx2_##NAME   \
                                           : avx512_##NAME)
#else
#define NP_EACH_INSTRUCTION_SET(DEFINE) DEFINE(portable, )
#define NP_CHOOSE(CAPABILITY, NAME) (static_cast<void>(CAPABILITY), portable_##NAME)
#endif
