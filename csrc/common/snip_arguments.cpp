#include "snip_arguments.h"

namespace neuropatch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

void check_matrices(const Tensor& score, const Tensor& grad, const Tensor& input) {
  check(score.dim() == 2 && grad.dim() == 2 && input.dim() == 2,
        "snip_accumulate_: score, grad and input must have two dimensions, not shapes ",
        shape_text(score), ", ", shape_text(grad), " and ", shape_text(input));
  check(grad.size(0) == input.size(0),
        "snip_accumulate_: grad has ", grad.size(0), " tokens but input has ", input.size(0));
  check(score.size(0) == grad.size(1) && score.size(1) == input.size(1),
        "snip_accumulate_: score has shape ", shape_text(score),
        " but grad and input need (", grad.size(1), ", ", input.size(1), ")");
  const ScalarType type = grad.scalar_type();
  check(type == input.scalar_type(),
        "snip_accumulate_: grad is ", dtype_text(type), " but input is ",
        dtype_text(input.scalar_type()));
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "snip_accumulate_: the compiled kernel takes float32, bfloat16 or float16 activations, not ",
        dtype_text(type));
  check(score.scalar_type() == ScalarType::Float,
        "snip_accumulate_: the compiled kernel takes a float32 score, not ",
        dtype_text(score.scalar_type()));
  check(score.is_contiguous(), "snip_accumulate_: score must be contiguous");
}

}  // namespace

std::vector<int64_t> checked_snip_offsets(
    const Tensor& score, const Tensor& grad, const Tensor& input, const Tensor& offsets) {
  check_matrices(score, grad, input);
  return checked_offsets("snip_accumulate_", offsets, grad.size(0));
}

}  // namespace neuropatch
