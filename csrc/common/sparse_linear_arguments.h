// Checks of the arguments of add_sparse_linear, for every device.

#pragma once

#include "check.h"

namespace neuropatch {

// One patch on one range of tokens: rows [first_token, last_token) take edits
// [first_edit, last_edit).
struct ServedRange {
  int64_t first_token;
  int64_t last_token;
  int64_t first_edit;
  int64_t last_edit;
};

// Checks everything but the values of rows and columns, and returns the ranges that have something
// to do. The matrices and edits are on the device of the implementation that the dispatcher has
// chosen by them; offsets and patches are on the CPU.
std::vector<ServedRange> checked_served_ranges(
    const torch::stable::Tensor& output,
    const torch::stable::Tensor& input,
    const torch::stable::Tensor& rows,
    const torch::stable::Tensor& columns,
    const torch::stable::Tensor& delta,
    const torch::stable::Tensor& edit_offsets,
    const torch::stable::Tensor& token_offsets,
    const torch::stable::Tensor& patches);

}  // namespace neuropatch
