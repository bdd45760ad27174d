// Launches the kernel of sparse_linear.cuh.

#include "sparse_linear.cuh"

namespace neuropatch::cuda {

int launch_add_sparse_linear(
    StridedMatrix result, int64_t out, StridedMatrix input, int64_t in, int64_t tokens, Edits edits,
    ElementType type, void* stream) {
  const SparseArguments arguments{result, out, input, in, tokens, edits};
  const int64_t blocks = (edits.count + kSparseThreads - 1) / kSparseThreads *
      ((tokens + kSparseTokens - 1) / kSparseTokens);
  return with_element(type, [&](auto element) {
    return np::launch(
        add_sparse_linear_kernel<decltype(element)>, static_cast<unsigned>(blocks), kSparseThreads,
        0, static_cast<cudaStream_t>(stream), arguments);
  });
}

}  // namespace neuropatch::cuda
