// From torch's tensors to the matrices of elements.h.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include "elements.h"

namespace neuropatch::cpu {

// A tensor of two dimensions, of float32, bfloat16 or float16.
inline StridedMatrix strided_matrix(const torch::stable::Tensor& tensor) {
  using torch::headeronly::ScalarType;
  const ScalarType dtype = tensor.scalar_type();
  const StoredType type = dtype == ScalarType::Float ? StoredType::kFloat32
      : dtype == ScalarType::BFloat16                ? StoredType::kBFloat16
                                                     : StoredType::kFloat16;
  return {tensor.const_data_ptr(), type,           tensor.size(0),
          tensor.size(1),          tensor.stride(0), tensor.stride(1)};
}

}  // namespace neuropatch::cpu
