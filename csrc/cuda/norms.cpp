// snip_column_norms on CUDA: arguments and memory around the kernel.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <vector>

#include "../common/norms_arguments.h"
#include "binding.h"

namespace neuropatch::cuda {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor snip_column_norms(Tensor values, Tensor offsets, std::optional<Tensor> weights) {
  const std::vector<int64_t> starts = checked_norms_offsets(values, offsets, weights);
  const auto samples = static_cast<int64_t>(starts.size()) - 1;
  Tensor norms = torch::stable::new_empty(values, {samples, values.size(1)}, ScalarType::Float);
  if (norms.numel() == 0) {
    return norms;
  }
  const int32_t device = values.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Tensor aligned = with_aligned_rows(values);
  const Tensor uploaded = upload(starts, device);
  TokenWeights factors{};
  if (weights.has_value()) {
    factors = {static_cast<const float*>(weights->const_data_ptr()), weights->stride(0)};
  }
  check_launch(
      "snip_column_norms",
      launch_column_norms(
          static_cast<float*>(norms.mutable_data_ptr()), token_matrix(aligned),
          element_type(values), factors,
          static_cast<const int64_t*>(uploaded.const_data_ptr()), samples,
          current_stream(device)));
  return norms;
}

}  // namespace

}  // namespace neuropatch::cuda

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CUDA, m) {
  m.impl("snip_column_norms", TORCH_BOX(&neuropatch::cuda::snip_column_norms));
}
