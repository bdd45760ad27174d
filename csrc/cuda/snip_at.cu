// Launches the kernels of snip_at.cuh.

#include "snip_at.cuh"

#include <type_traits>

namespace neuropatch::cuda {

int launch_snip_accumulate_at(
    float* score, TokenMatrix grad, TokenMatrix input, ElementType type, const TokenChunk* chunks,
    int32_t count, Places places, void* stream) {
  const SnipAtArguments arguments{score, grad, input, chunks, count, places};
  return with_element(type, [&](auto element) {
    using Element = decltype(element);
    constexpr bool kTensor = !std::is_same_v<Element, float>;
    constexpr int64_t kPlaces = kTensor ? kAtTensorPlaces : kAtThreads;
    const auto blocks = static_cast<unsigned>((places.count + kPlaces - 1) / kPlaces);
    const auto on = static_cast<cudaStream_t>(stream);
    if constexpr (kTensor) {
      return np::launch(snip_at_tensor_kernel<Element>, blocks, kAtThreads, 0, on, arguments);
    } else {
      return np::launch(snip_at_float_kernel<Element>, blocks, kAtThreads, 0, on, arguments);
    }
  });
}

}  // namespace neuropatch::cuda
