// Launches the kernel of norms.cuh.

#include "norms.cuh"

namespace neuropatch::cuda {

int launch_column_norms(
    float* norms, TokenMatrix values, ElementType type, TokenWeights weights,
    const int64_t* offsets, int64_t samples, void* stream) {
  const int64_t blocks = samples * ((values.columns + kNormsColumns - 1) / kNormsColumns);
  return with_element(type, [&](auto element) {
    return np::launch(
        column_norms_kernel<decltype(element)>, static_cast<unsigned>(blocks), kNormsThreads, 0,
        static_cast<cudaStream_t>(stream), norms, values, weights, offsets);
  });
}

}  // namespace neuropatch::cuda
