// add_sparse_linear on the CPU: arguments, tasks and threads around the kernels of
// sparse_linear_kernels.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "../common/sparse_linear_arguments.h"
#include "elements_of.h"
#include "parallel.h"
#include "sparse_linear_kernels.h"

namespace neuropatch::cpu {

namespace {

using torch::stable::Tensor;

// Below this number of edits another thread is not worth waking.
constexpr int64_t kEditsOfTask = 4096;

void check_indices(
    const int32_t* rows, const int32_t* columns, const Tensor& edit_offsets, int64_t out,
    int64_t in) {
  const auto* offsets = static_cast<const int64_t*>(edit_offsets.const_data_ptr());
  const int64_t stride = edit_offsets.stride(0);
  for (int64_t patch = 0; patch + 1 < edit_offsets.size(0); ++patch) {
    int32_t previous = 0;
    for (int64_t e = offsets[patch * stride]; e < offsets[(patch + 1) * stride]; ++e) {
      check(rows[e] >= 0 && rows[e] < out,
            "add_sparse_linear: rows must lie in 0 to ", out - 1);
      check(columns[e] >= 0 && columns[e] < in,
            "add_sparse_linear: columns must lie in 0 to ", in - 1);
      check(rows[e] >= previous, "add_sparse_linear: rows must not descend within a patch");
      previous = rows[e];
    }
  }
}

// Blocks of tokens, and where these are fewer than threads also runs of edits. No row of the weight
// matrix is divided, so its sum is the same however the work is.
std::vector<ServedRange> divide(
    const std::vector<ServedRange>& ranges, const int32_t* rows, int64_t threads) {
  int64_t blocks = 0;
  for (const ServedRange& range : ranges) {
    blocks += ceil_div(range.last_token - range.first_token, kBlockTokens);
  }
  std::vector<ServedRange> tasks;
  for (const ServedRange& range : ranges) {
    const int64_t edits = range.last_edit - range.first_edit;
    const int64_t wanted = blocks >= threads ? 1 : ceil_div(2 * threads, blocks);
    const int64_t parts = std::min(wanted, ceil_div(edits, kEditsOfTask));
    for (int64_t first = range.first_edit; first < range.last_edit;) {
      int64_t last = std::min(range.last_edit, first + ceil_div(edits, parts));
      while (last < range.last_edit && rows[last] == rows[last - 1]) {
        ++last;
      }
      for (int64_t t = range.first_token; t < range.last_token; t += kBlockTokens) {
        tasks.push_back({t, std::min(range.last_token, t + kBlockTokens), first, last});
      }
      first = last;
    }
  }
  return tasks;
}

void* at_token(const Elements& matrix, int64_t token) {
  const int64_t size = matrix.type == ElementType::kFloat32 ? 4 : 2;
  return static_cast<char*>(matrix.data) + token * matrix.token_stride * size;
}

Tensor add_sparse_linear(
    Tensor output, Tensor input, Tensor rows, Tensor columns, Tensor delta, Tensor edit_offsets,
    Tensor token_offsets, Tensor patches) {
  const std::vector<ServedRange> ranges = checked_served_ranges(
      output, input, rows, columns, delta, edit_offsets, token_offsets, patches);
  rows = torch::stable::contiguous(rows);
  columns = torch::stable::contiguous(columns);
  delta = torch::stable::contiguous(delta);
  const auto* row_data = static_cast<const int32_t*>(rows.const_data_ptr());
  const auto* column_data = static_cast<const int32_t*>(columns.const_data_ptr());
  const auto* delta_data = static_cast<const float*>(delta.const_data_ptr());
  check_indices(row_data, column_data, edit_offsets, output.size(1), input.size(1));

  Tensor result = torch::stable::new_empty(output, {output.size(0), output.size(1)});
  torch::stable::copy_(result, output);
  const int64_t threads = torch::stable::get_num_threads();
  const std::vector<ServedRange> tasks = divide(ranges, row_data, threads);
  const auto count = static_cast<int64_t>(tasks.size());
  const int64_t workers = std::min(threads, count);
  const SparseLinearKernel kernel = sparse_linear_kernel(current_capability());
  const int64_t scratch_size = input.size(1) * kBlockTokens;
  const Workspace scratch = allocate(workers * scratch_size);
  const Elements source = elements_of(input);
  const Elements target = elements_of(result);

  std::atomic<int64_t> next{0};
  for_each_worker(workers, [&](int64_t worker) {
    for (int64_t index = next++; index < count; index = next++) {
      const ServedRange& task = tasks[index];
      SparseBlock block{};
      block.rows = row_data + task.first_edit;
      block.columns = column_data + task.first_edit;
      block.delta = delta_data + task.first_edit;
      block.edits = task.last_edit - task.first_edit;
      block.input = source;
      block.input.data = at_token(source, task.first_token);
      block.result = target;
      block.result.data = at_token(target, task.first_token);
      block.tokens = task.last_token - task.first_token;
      block.in = input.size(1);
      block.scratch = scratch.get() + worker * scratch_size;
      kernel(block);
    }
  });
  return result;
}

}  // namespace

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CPU, m) {
  m.impl("add_sparse_linear", TORCH_BOX(&neuropatch::cpu::add_sparse_linear));
}
