// add_sparse_linear on CUDA: arguments, and one launch for each range of tokens.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../common/sparse_linear_arguments.h"
#include "binding.h"

namespace neuropatch::cuda {

namespace {

using torch::stable::Tensor;

StridedMatrix from_token(const Tensor& matrix, int64_t token) {
  StridedMatrix rows = strided_matrix(matrix);
  rows.data = static_cast<char*>(rows.data) +
      token * rows.row_stride * element_bytes(element_type(matrix));
  return rows;
}

Tensor add_sparse_linear(
    Tensor output, Tensor input, Tensor rows, Tensor columns, Tensor delta, Tensor edit_offsets,
    Tensor token_offsets, Tensor patches) {
  const std::vector<ServedRange> ranges = checked_served_ranges(
      output, input, rows, columns, delta, edit_offsets, token_offsets, patches);
  const int32_t device = output.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  rows = torch::stable::contiguous(rows);
  columns = torch::stable::contiguous(columns);
  delta = torch::stable::contiguous(delta);
  Tensor result = torch::stable::new_empty(output, {output.size(0), output.size(1)});
  torch::stable::copy_(result, output);
  for (const ServedRange& range : ranges) {
    const Edits edits{
        static_cast<const int32_t*>(rows.const_data_ptr()) + range.first_edit,
        static_cast<const int32_t*>(columns.const_data_ptr()) + range.first_edit,
        static_cast<const float*>(delta.const_data_ptr()) + range.first_edit,
        range.last_edit - range.first_edit};
    check_launch(
        "add_sparse_linear",
        launch_add_sparse_linear(
            from_token(result, range.first_token), output.size(1),
            from_token(input, range.first_token), input.size(1),
            range.last_token - range.first_token, edits, element_type(output),
            current_stream(device)));
  }
  return result;
}

}  // namespace

}  // namespace neuropatch::cuda

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CUDA, m) {
  m.impl("add_sparse_linear", TORCH_BOX(&neuropatch::cuda::add_sparse_linear));
}
