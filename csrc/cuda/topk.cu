// Launches the kernels of topk.cuh.

#include "topk.cuh"

#include <algorithm>

namespace neuropatch::cuda {

int64_t top_products_scratch() {
  return sizeof(TopState);
}

int launch_find_top_products(
    const TopProducts& arguments, void* scratch, int64_t* order, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  auto* state = static_cast<TopState*>(scratch);
  const int64_t segments =
      arguments.rows * ((arguments.columns + kSegmentColumns - 1) / kSegmentColumns);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(segments, kTopBlocks));
  return with_element(arguments.type, [&](auto element) {
    using Element = decltype(element);
    int error = np::launch(
        start_top_kernel<TopState>, 1, kTopThreads, 0, on, state,
        static_cast<long long>(arguments.k));
    for (const Digit& digit : kDigitPlaces) {
      if (error == 0) {
        error = np::launch(
            count_digit_kernel<Element>, blocks, kTopThreads, 0, on, arguments, state, digit);
      }
      if (error == 0) {
        error = np::launch(choose_digit_kernel<TopState>, 1, kTopThreads, 0, on, state, digit);
      }
    }
    if (error == 0) {
      error = np::launch(
          collect_top_kernel<Element>, blocks, kTopThreads, 0, on, arguments, state, order);
    }
    return error;
  });
}

int launch_list_top_products(
    const TopProducts& arguments, const int64_t* order, float* values, int64_t* indices,
    void* stream) {
  const auto blocks = static_cast<unsigned>((arguments.k + kTopThreads - 1) / kTopThreads);
  return with_element(arguments.type, [&](auto element) {
    return np::launch(
        list_top_kernel<decltype(element)>, blocks, kTopThreads, 0,
        static_cast<cudaStream_t>(stream), arguments, order, values, indices);
  });
}

}  // namespace neuropatch::cuda
