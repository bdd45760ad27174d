// Tensors of two dimensions as matrices with any strides, and the reading of their elements.

#pragma once

#include "elements_of.h"

namespace neuropatch::cpu {

// A matrix with any strides, counted in elements.
struct StridedMatrix {
  const void* data;
  ElementType type;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;
};

// A tensor of two dimensions, of float32, bfloat16 or float16.
inline StridedMatrix strided_matrix(const torch::stable::Tensor& tensor) {
  return {tensor.const_data_ptr(), element_type(tensor), tensor.size(0),
          tensor.size(1),          tensor.stride(0),     tensor.stride(1)};
}

namespace {

// Calls function(element) with the reader of a type.
template <typename Function>
NP_INLINE void with_element(ElementType type, const Function& function) {
  switch (type) {
    case ElementType::kFloat32:
      return function(Float32{});
    case ElementType::kBFloat16:
      return function(BFloat16{});
    case ElementType::kFloat16:
      return function(Float16{});
  }
}

}  // namespace

}  // namespace neuropatch::cpu
