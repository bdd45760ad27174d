#include "snip_at_arguments.h"

#include <algorithm>

namespace neuropatch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

void check_shapes(
    const Tensor& score, const Tensor& grad, const Tensor& input, const Tensor& rows,
    const Tensor& columns) {
  check(score.dim() == 1 && rows.dim() == 1 && columns.dim() == 1 &&
            rows.size(0) == score.size(0) && columns.size(0) == score.size(0),
        "snip_accumulate_at_: score, rows and columns must have one shape (n,), not ",
        shape_text(score), ", ", shape_text(rows), " and ", shape_text(columns));
  check(grad.dim() == 2 && input.dim() == 2,
        "snip_accumulate_at_: grad and input must have two dimensions, not shapes ",
        shape_text(grad), " and ", shape_text(input));
  check(grad.size(0) == input.size(0),
        "snip_accumulate_at_: grad has ", grad.size(0), " tokens but input has ", input.size(0));
}

void check_types(
    const Tensor& score, const Tensor& grad, const Tensor& input, const Tensor& rows,
    const Tensor& columns) {
  const ScalarType type = grad.scalar_type();
  check(type == input.scalar_type(),
        "snip_accumulate_at_: grad is ", dtype_text(type), " but input is ",
        dtype_text(input.scalar_type()));
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "snip_accumulate_at_: the compiled kernel takes float32, bfloat16 or float16 activations, "
        "not ", dtype_text(type));
  check(score.scalar_type() == ScalarType::Float,
        "snip_accumulate_at_: the compiled kernel takes a float32 score, not ",
        dtype_text(score.scalar_type()));
  check(rows.scalar_type() == ScalarType::Int && columns.scalar_type() == ScalarType::Int,
        "snip_accumulate_at_: rows and columns must be int32, not ",
        dtype_text(rows.scalar_type()), " and ", dtype_text(columns.scalar_type()));
  check(score.is_contiguous() && rows.is_contiguous() && columns.is_contiguous(),
        "snip_accumulate_at_: score, rows and columns must be contiguous");
}

}  // namespace

std::vector<int64_t> checked_snip_at_offsets(
    const Tensor& score, const Tensor& grad, const Tensor& input, const Tensor& offsets,
    const Tensor& rows, const Tensor& columns) {
  check_shapes(score, grad, input, rows, columns);
  check_types(score, grad, input, rows, columns);
  return checked_offsets("snip_accumulate_at_", offsets, grad.size(0));
}

void check_places(const char* name, const int32_t* places, int64_t count, int64_t size) {
  if (count == 0) {
    return;
  }
  const auto [low, high] = std::minmax_element(places, places + count);
  check(*low >= 0 && *high < size,
        "snip_accumulate_at_: ", name, " must be from 0 to ", size - 1, ", not from ", *low, " to ",
        *high);
}

}  // namespace neuropatch
