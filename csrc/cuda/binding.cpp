#include "binding.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cstring>
#include <limits>

namespace neuropatch::cuda {

using torch::headeronly::DeviceType;
using torch::headeronly::Layout;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

ElementType element_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::BFloat16:
      return ElementType::kBFloat16;
    case ScalarType::Half:
      return ElementType::kFloat16;
    default:
      return ElementType::kFloat32;
  }
}

Tensor with_aligned_rows(const Tensor& matrix) {
  const int64_t vector = kRowAlignment / element_bytes(element_type(matrix));
  const auto address = reinterpret_cast<uintptr_t>(matrix.const_data_ptr());
  if (matrix.stride(1) == 1 && matrix.stride(0) % vector == 0 && address % kRowAlignment == 0) {
    return matrix;
  }
  const int64_t columns = matrix.size(1);
  const std::array<int64_t, 2> shape{matrix.size(0), (columns + vector - 1) / vector * vector};
  Tensor padded = torch::stable::new_empty(matrix, shape);
  Tensor copy = torch::stable::narrow(padded, 1, 0, columns);
  torch::stable::copy_(copy, matrix);
  return copy;
}

TokenMatrix token_matrix(const Tensor& matrix) {
  return {matrix.const_data_ptr(), matrix.size(1), matrix.stride(0)};
}

StridedMatrix strided_matrix(const Tensor& matrix) {
  // Kernels write to the matrices that their schemas say they change, and to no others.
  return {const_cast<void*>(matrix.const_data_ptr()), matrix.stride(0), matrix.stride(1)};
}

void check_tokens(const char* op, int64_t tokens) {
  check(tokens <= std::numeric_limits<int32_t>::max(),
        op, ": the CUDA kernel takes fewer than 2**31 tokens, not ", tokens);
}

Tensor upload(const void* data, int64_t bytes, int32_t device) {
  // From pinned memory the copy is asynchronous, and torch keeps that memory until it is done.
  const std::array<int64_t, 1> shape{bytes};
  Tensor host = torch::stable::empty(
      shape, ScalarType::Byte, Layout::Strided, torch::stable::Device(DeviceType::CPU), true);
  std::memcpy(host.mutable_data_ptr(), data, bytes);
  return torch::stable::to(host, torch::stable::Device(DeviceType::CUDA, device), true);
}

void* current_stream(int32_t device) {
  return torch::stable::accelerator::getCurrentStream(device).nativeHandle();
}

void check_launch(const char* op, int code) {
  check(code == 0, op, ": the CUDA kernel could not be started: ", error_text(code));
}

}  // namespace neuropatch::cuda
