// Tensors as the kernels see them.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include "elements.h"

namespace neuropatch::cpu {

inline ElementType element_type(const torch::stable::Tensor& tensor) {
  using torch::headeronly::ScalarType;
  const ScalarType dtype = tensor.scalar_type();
  return dtype == ScalarType::Float ? ElementType::kFloat32
      : dtype == ScalarType::BFloat16 ? ElementType::kBFloat16
                                      : ElementType::kFloat16;
}

// A matrix of one of the types that the kernels take. Whether it may be written is for its user to
// know: const_data_ptr() because reading must not ask torch for a copy of its own.
inline Elements elements_of(const torch::stable::Tensor& tensor) {
  return {
      const_cast<void*>(tensor.const_data_ptr()), element_type(tensor), tensor.stride(0),
      tensor.stride(1)};
}

}  // namespace neuropatch::cpu
