// Errors of the operators, worded as neuropatch/kernels/_checks.py words them.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace neuropatch {

// STD_TORCH_CHECK would put this file's name and line before the message; a user of the Python
// package needs the message alone.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) {
    std::ostringstream message;
    (message << ... << parts);
    throw std::runtime_error(message.str());
  }
}

// The shape as Python prints a tuple, for error messages.
std::string shape_text(const torch::stable::Tensor& tensor);

// The name of a floating-point or int64 type without "torch.", or "another type".
std::string dtype_text(torch::headeronly::ScalarType dtype);

// Checks the arguments of snip_accumulate_ and returns the offsets. The matrices are on the device of
// the implementation that the dispatcher has chosen by them.
std::vector<int64_t> checked_snip_offsets(
    const torch::stable::Tensor& score,
    const torch::stable::Tensor& grad,
    const torch::stable::Tensor& input,
    const torch::stable::Tensor& offsets);

}  // namespace neuropatch
