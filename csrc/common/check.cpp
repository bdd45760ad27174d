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

std::vector<int64_t> checked_offsets(
    const char* op, const Tensor& offsets, int64_t total, const char* name, const char* what) {
  check(offsets.is_cpu(), op, ": ", name, " must be on the CPU");
  check(offsets.dim() == 1 && offsets.size(0) >= 1,
        op, ": ", name, " must have shape (samples + 1,), not ", shape_text(offsets));
  check(offsets.scalar_type() == ScalarType::Long,
        op, ": ", name, " must be int64, not ", dtype_text(offsets.scalar_type()));

  const auto* data = static_cast<const int64_t*>(offsets.const_data_ptr());
  std::vector<int64_t> values(offsets.size(0));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = data[static_cast<int64_t>(i) * offsets.stride(0)];
  }
  check(values.front() == 0 && values.back() == total,
        op, ": ", name, " must run from 0 to ", what, ", ", total, ", not from ", values.front(),
        " to ", values.back());
  for (size_t i = 1; i < values.size(); ++i) {
    check(values[i - 1] <= values[i],
          op, ": ", name, " must not descend, but ", name, "[", i, "] = ", values[i],
          " follows ", values[i - 1]);
  }
  return values;
}

}  // namespace neuropatch
