// Errors of the operators, worded as neuropatch/kernels/_arguments.py words them.

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

// Reads offsets of samples or ranges, [n + 1] int64 on the CPU, and checks that they run from 0 to
// `total`, which is `what`, and never descend. `op` begins the message, `name` is the argument.
std::vector<int64_t> checked_offsets(
    const char* op,
    const torch::stable::Tensor& offsets,
    int64_t total,
    const char* name = "offsets",
    const char* what = "the number of tokens");

}  // namespace neuropatch
