// What the bindings of the CUDA kernels share: torch's tensors on one side, raw pointers on the other.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "../common/check.h"
#include "launchers.h"

namespace neuropatch::cuda {

// The kernels' name of float32, bfloat16 or float16, which the arguments have been checked to be.
ElementType element_type(const torch::stable::Tensor& tensor);

// The matrix, or a copy of it where its rows are not contiguous or do not start at multiples of
// kRowAlignment bytes.
torch::stable::Tensor with_aligned_rows(const torch::stable::Tensor& matrix);

TokenMatrix token_matrix(const torch::stable::Tensor& matrix);

StridedMatrix strided_matrix(const torch::stable::Tensor& matrix);

// Chunks count tokens in 32 bits.
void check_tokens(const char* op, int64_t tokens);

// Copies bytes to a device in the order of its current stream, without waiting for it.
torch::stable::Tensor upload(const void* data, int64_t bytes, int32_t device);

template <typename Value>
torch::stable::Tensor upload(const std::vector<Value>& values, int32_t device) {
  return upload(values.data(), static_cast<int64_t>(values.size() * sizeof(Value)), device);
}

// The stream of a device that torch is using.
void* current_stream(int32_t device);

// Stops with the CUDA runtime's words if a launcher failed.
void check_launch(const char* op, int code);

}  // namespace neuropatch::cuda
