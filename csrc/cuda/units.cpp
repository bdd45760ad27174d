// masked_units and its backward pass on CUDA: arguments and memory around the kernels.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>

#include "../common/units_arguments.h"
#include "binding.h"

namespace neuropatch::cuda {

namespace {

using torch::stable::Tensor;

// The name has been checked.
Activation parse_activation(const std::string& name) {
  if (name == "silu") {
    return Activation::kSilu;
  }
  if (name == "gelu") {
    return Activation::kGelu;
  }
  return name == "gelu_tanh" ? Activation::kGeluTanh : Activation::kRelu;
}

// `mask` is contiguous and outlives the launch.
MaskedUnits masked(
    const Tensor& preactivation, const std::optional<Tensor>& up, const Tensor& mask,
    const std::string& activation) {
  MaskedUnits arguments{};
  arguments.preactivation = strided_matrix(preactivation);
  if (up.has_value()) {
    arguments.up = strided_matrix(*up);
  }
  arguments.mask = static_cast<const float*>(mask.const_data_ptr());
  arguments.tokens = preactivation.size(0);
  arguments.units = preactivation.size(1);
  arguments.type = element_type(preactivation);
  arguments.activation = parse_activation(activation);
  return arguments;
}

Tensor masked_units(
    Tensor preactivation, std::optional<Tensor> up, Tensor mask, std::string activation,
    bool /*reuse*/) {
  check_units("masked_units", preactivation, up, mask, activation);
  Tensor hidden = torch::stable::new_empty(
      preactivation, {preactivation.size(0), preactivation.size(1)});
  if (hidden.numel() == 0) {
    return hidden;
  }
  const int32_t device = preactivation.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Tensor row = torch::stable::contiguous(mask);
  check_launch(
      "masked_units",
      launch_masked_units(
          hidden.mutable_data_ptr(), masked(preactivation, up, row, activation),
          current_stream(device)));
  return hidden;
}

Tensor masked_units_backward_(
    Tensor preactivation, std::optional<Tensor> up, Tensor mask, Tensor grad,
    std::string activation) {
  check_units_backward("masked_units_backward_", preactivation, up, mask, grad, activation);
  const int64_t tokens = preactivation.size(0);
  const int64_t units = preactivation.size(1);
  Tensor grad_mask = torch::stable::new_zeros(mask, {units});
  if (preactivation.numel() == 0) {
    return grad_mask;
  }
  const int32_t device = preactivation.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const Tensor row = torch::stable::contiguous(mask);
  const Tensor scratch = torch::stable::new_empty(mask, {masked_units_scratch(tokens, units)});
  check_launch(
      "masked_units_backward_",
      launch_masked_units_backward(
          static_cast<float*>(grad_mask.mutable_data_ptr()),
          static_cast<float*>(scratch.mutable_data_ptr()),
          masked(preactivation, up, row, activation), strided_matrix(grad),
          current_stream(device)));
  return grad_mask;
}

}  // namespace

}  // namespace neuropatch::cuda

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CUDA, m) {
  m.impl("masked_units", TORCH_BOX(&neuropatch::cuda::masked_units));
  m.impl("masked_units_backward_", TORCH_BOX(&neuropatch::cuda::masked_units_backward_));
}
