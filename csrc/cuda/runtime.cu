// What the bindings ask of the CUDA runtime, and what this build is for.

#include "launchers.h"
#include "portable.cuh"

#define NP_TEXT_OF(value) #value
#define NP_TEXT(macro) NP_TEXT_OF(macro)

namespace neuropatch::cuda {

const char* targets() {
  return NP_TEXT(NEUROPATCH_CUDA_TARGETS);
}

const char* error_text(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

}  // namespace neuropatch::cuda
