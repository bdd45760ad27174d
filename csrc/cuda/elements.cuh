// The types of matrix elements, chosen at run time.

#pragma once

#include "launchers.h"
#include "portable.cuh"

namespace neuropatch::cuda {

// Calls function(element) with a value of the type.
template <typename Function>
int with_element(ElementType type, const Function& function) {
  switch (type) {
    case ElementType::kFloat32:
      return function(float{});
    case ElementType::kBFloat16:
      return function(__nv_bfloat16{});
    case ElementType::kFloat16:
      break;
  }
  return function(__half{});
}

}  // namespace neuropatch::cuda
