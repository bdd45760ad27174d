// product_topk on CUDA: arguments, memory, and the sort of what the kernels have found.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>

#include "../common/topk_arguments.h"
#include "binding.h"

namespace neuropatch::cuda {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// torch.sort(values, descending=True).values
Tensor sorted_descending(const Tensor& values) {
  std::array<StableIValue, 3> stack{
      torch::stable::detail::from(values), torch::stable::detail::from(static_cast<int64_t>(-1)),
      torch::stable::detail::from(true)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "", stack.data(), TORCH_ABI_VERSION));
  // Takes over the indices, too, so that they are freed.
  torch::stable::detail::to<Tensor>(stack[1]);
  return torch::stable::detail::to<Tensor>(stack[0]);
}

std::tuple<Tensor, Tensor> product_topk(
    Tensor weight, Tensor score, double divisor, int64_t k, double floor) {
  check_topk_arguments(weight, score, divisor, k, floor);
  const int64_t places = std::min(k, score.numel());
  Tensor values = torch::stable::new_empty(score, {places}, ScalarType::Float);
  Tensor indices = torch::stable::new_empty(score, {places}, ScalarType::Long);
  if (places == 0) {
    return {values, indices};
  }
  check(score.numel() <= std::numeric_limits<uint32_t>::max(),
        "product_topk: the CUDA kernel takes fewer than 2**32 weights, not ", score.numel());
  const int32_t device = score.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const TopProducts arguments{
      strided_matrix(weight), element_type(weight), strided_matrix(score), score.size(0),
      score.size(1), static_cast<float>(divisor), static_cast<float>(floor), places};
  const Tensor scratch =
      torch::stable::new_empty(score, {top_products_scratch()}, ScalarType::Byte);
  Tensor order = torch::stable::new_zeros(score, {places}, ScalarType::Long);
  void* stream = current_stream(device);
  check_launch(
      "product_topk",
      launch_find_top_products(
          arguments, scratch.mutable_data_ptr(), static_cast<int64_t*>(order.mutable_data_ptr()),
          stream));
  const Tensor sorted = sorted_descending(order);
  check_launch(
      "product_topk",
      launch_list_top_products(
          arguments, static_cast<const int64_t*>(sorted.const_data_ptr()),
          static_cast<float*>(values.mutable_data_ptr()),
          static_cast<int64_t*>(indices.mutable_data_ptr()), stream));
  return {values, indices};
}

}  // namespace

}  // namespace neuropatch::cuda

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CUDA, m) {
  m.impl("product_topk", TORCH_BOX(&neuropatch::cuda::product_topk));
}
