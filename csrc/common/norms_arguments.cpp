#include "norms_arguments.h"

namespace neuropatch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::vector<int64_t> checked_norms_offsets(
    const Tensor& values, const Tensor& offsets, const std::optional<Tensor>& weights) {
  check(values.dim() == 2,
        "snip_column_norms: values must have two dimensions, not shape ", shape_text(values));
  const ScalarType type = values.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "snip_column_norms: the compiled kernel takes float32, bfloat16 or float16 values, not ",
        dtype_text(type));
  if (weights.has_value()) {
    check(weights->dim() == 1 && weights->size(0) == values.size(0),
          "snip_column_norms: weights must have shape (", values.size(0), ",), not ",
          shape_text(*weights));
    check(weights->scalar_type() == ScalarType::Float,
          "snip_column_norms: weights must be float32, not ", dtype_text(weights->scalar_type()));
  }
  return checked_offsets("snip_column_norms", offsets, values.size(0));
}

}  // namespace neuropatch
