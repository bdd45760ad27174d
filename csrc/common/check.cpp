#include "check.h"

namespace neuropatch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::string shape_text(const Tensor& tensor) {
  std::ostringstream text;
  text << "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    text << (i == 0 ? "" : ", ") << tensor.size(i);
  }
  text << (tensor.dim() == 1 ? ",)" : ")");
  return text.str();
}

std::string dtype_text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Int:
      return "int32";
    default:
      return "another type";
  }
}

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
  check(offsets.is_cpu(), "snip_accumulate_: offsets must be on the CPU");
  check(offsets.dim() == 1 && offsets.size(0) >= 1,
        "snip_accumulate_: offsets must have shape (samples + 1,), not ", shape_text(offsets));
  check(offsets.scalar_type() == ScalarType::Long,
        "snip_accumulate_: offsets must be int64, not ", dtype_text(offsets.scalar_type()));

  const auto* data = static_cast<const int64_t*>(offsets.const_data_ptr());
  std::vector<int64_t> values(offsets.size(0));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = data[static_cast<int64_t>(i) * offsets.stride(0)];
  }
  const int64_t tokens = grad.size(0);
  check(values.front() == 0 && values.back() == tokens,
        "snip_accumulate_: offsets must run from 0 to the number of tokens, ", tokens,
        ", not from ", values.front(), " to ", values.back());
  for (size_t i = 1; i < values.size(); ++i) {
    check(values[i - 1] <= values[i],
          "snip_accumulate_: offsets must not descend, but offsets[", i, "] = ", values[i],
          " follows ", values[i - 1]);
  }
  return values;
}

}  // namespace neuropatch
