#include "units_arguments.h"

namespace neuropatch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

bool same_shape(const Tensor& a, const Tensor& b) {
  return a.dim() == 2 && b.dim() == 2 && a.size(0) == b.size(0) && a.size(1) == b.size(1);
}

void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  check(same_shape(tensor, like),
        op, ": ", name, " has shape ", shape_text(tensor), ", not ", shape_text(like));
  check(tensor.scalar_type() == like.scalar_type(),
        op, ": preactivation is ", dtype_text(like.scalar_type()), " but ", name, " is ",
        dtype_text(tensor.scalar_type()));
}

void check_written(const char* op, const char* name, const Tensor& tensor) {
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    check(tensor.stride(i) != 0 || tensor.size(i) <= 1,
          op, ": ", name, " is written over, so it must not be expanded");
  }
}

}  // namespace

void check_units(
    const char* op, const Tensor& preactivation, const std::optional<Tensor>& up,
    const Tensor& mask, const std::string& activation) {
  check(preactivation.dim() == 2,
        op, ": preactivation must have two dimensions, not shape ", shape_text(preactivation));
  const ScalarType type = preactivation.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        op, ": the compiled kernel takes a float32, bfloat16 or float16 preactivation, not ",
        dtype_text(type));
  if (up) {
    check_like(op, "up", *up, preactivation);
  }
  check(mask.dim() == 1 && mask.size(0) == preactivation.size(1),
        op, ": mask has shape ", shape_text(mask), ", not (", preactivation.size(1), ",)");
  check(mask.scalar_type() == ScalarType::Float,
        op, ": mask must be float32, not ", dtype_text(mask.scalar_type()));
  const bool known = activation == "silu" || activation == "gelu" || activation == "gelu_tanh" ||
      activation == "relu";
  check(known, op, ": activation '", activation, "' is none of silu, gelu, gelu_tanh, relu");
}

void check_units_backward(
    const char* op, const Tensor& preactivation, const std::optional<Tensor>& up,
    const Tensor& mask, const Tensor& grad, const std::string& activation) {
  check_units(op, preactivation, up, mask, activation);
  check_like(op, "grad", grad, preactivation);
  check_written(op, "preactivation", preactivation);
  if (up) {
    check_written(op, "up", *up);
  }
}

}  // namespace neuropatch
