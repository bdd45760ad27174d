#include "sparse_linear_arguments.h"

namespace neuropatch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

constexpr const char* kOp = "add_sparse_linear";

void check_matrices(const Tensor& output, const Tensor& input) {
  check(output.dim() == 2 && input.dim() == 2,
        kOp, ": output and input must have two dimensions, not shapes ", shape_text(output),
        " and ", shape_text(input));
  check(output.size(0) == input.size(0),
        kOp, ": output has ", output.size(0), " tokens but input has ", input.size(0));
  const ScalarType type = output.scalar_type();
  check(type == input.scalar_type(),
        kOp, ": output is ", dtype_text(type), " but input is ", dtype_text(input.scalar_type()));
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        kOp, ": the compiled kernel takes float32, bfloat16 or float16 activations, not ",
        dtype_text(type));
}

void check_edits(const Tensor& rows, const Tensor& columns, const Tensor& delta) {
  const bool vectors = rows.dim() == 1 && columns.dim() == 1 && delta.dim() == 1;
  check(vectors && rows.size(0) == columns.size(0) && rows.size(0) == delta.size(0),
        kOp, ": rows, columns and delta must have one dimension and one length, not shapes ",
        shape_text(rows), ", ", shape_text(columns), " and ", shape_text(delta));
  check(rows.scalar_type() == ScalarType::Int && columns.scalar_type() == ScalarType::Int,
        kOp, ": rows and columns must be int32, not ", dtype_text(rows.scalar_type()), " and ",
        dtype_text(columns.scalar_type()));
  check(delta.scalar_type() == ScalarType::Float,
        kOp, ": delta must be float32, not ", dtype_text(delta.scalar_type()));
}

}  // namespace

std::vector<ServedRange> checked_served_ranges(
    const Tensor& output, const Tensor& input, const Tensor& rows, const Tensor& columns,
    const Tensor& delta, const Tensor& edit_offsets, const Tensor& token_offsets,
    const Tensor& patches) {
  check_matrices(output, input);
  check_edits(rows, columns, delta);
  const std::vector<int64_t> edits =
      checked_offsets(kOp, edit_offsets, rows.size(0), "edit_offsets", "the number of edits");
  const std::vector<int64_t> tokens =
      checked_offsets(kOp, token_offsets, output.size(0), "token_offsets");

  check(patches.is_cpu() && patches.scalar_type() == ScalarType::Long,
        kOp, ": patches must be int64 on the CPU, not ", dtype_text(patches.scalar_type()));
  const auto count = static_cast<int64_t>(tokens.size()) - 1;
  check(patches.dim() == 1 && patches.size(0) == count,
        kOp, ": patches must have shape (", count, ",), not ", shape_text(patches));
  const auto* patch_data = static_cast<const int64_t*>(patches.const_data_ptr());
  const auto known = static_cast<int64_t>(edits.size()) - 1;

  std::vector<ServedRange> ranges;
  for (int64_t range = 0; range < count; ++range) {
    const int64_t patch = patch_data[range * patches.stride(0)];
    check(patch >= -1 && patch < known,
          kOp, ": patches names patch ", patch, ", but there are ", known);
    if (patch >= 0 && tokens[range] < tokens[range + 1] && edits[patch] < edits[patch + 1]) {
      ranges.push_back({tokens[range], tokens[range + 1], edits[patch], edits[patch + 1]});
    }
  }
  return ranges;
}

}  // namespace neuropatch
