// Checks of the arguments of the operators behind masked MLPs, for every device.

#pragma once

#include <optional>
#include <string>

#include "check.h"

namespace neuropatch {

void check_units(
    const char* op,
    const torch::stable::Tensor& preactivation,
    const std::optional<torch::stable::Tensor>& up,
    const torch::stable::Tensor& mask,
    const std::string& activation);

// Also checks that what is written over has one place for each element.
void check_units_backward(
    const char* op,
    const torch::stable::Tensor& preactivation,
    const std::optional<torch::stable::Tensor>& up,
    const torch::stable::Tensor& mask,
    const torch::stable::Tensor& grad,
    const std::string& activation);

}  // namespace neuropatch
