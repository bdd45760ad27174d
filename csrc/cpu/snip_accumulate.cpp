// snip_accumulate_ on the CPU: arguments, workspace and threads around the kernels of
// snip_kernels.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "../common/snip_arguments.h"
#include "parallel.h"
#include "snip_kernels.h"

namespace neuropatch::cpu {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

TokenMatrix token_matrix(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  const ElementType type = dtype == ScalarType::Float ? ElementType::kFloat32
      : dtype == ScalarType::BFloat16                 ? ElementType::kBFloat16
                                                      : ElementType::kFloat16;
  TokenMatrix matrix{};
  matrix.data = tensor.const_data_ptr();
  matrix.type = type;
  matrix.tokens = tensor.size(0);
  matrix.columns = tensor.size(1);
  matrix.token_stride = tensor.stride(0);
  matrix.column_stride = tensor.stride(1);
  return matrix;
}

class SnipAccumulation {
 public:
  SnipAccumulation(
      const SnipKernel& kernel, float* score, TokenMatrix grad, TokenMatrix input,
      std::vector<int64_t> offsets)
      : kernel_(kernel),
        score_(score),
        grad_(grad),
        input_(input),
        offsets_(std::move(offsets)),
        threads_(torch::stable::get_num_threads()),
        blocks_(ceil_div(grad.columns, kBlockRows)),
        panels_(ceil_div(input.columns, kPanelColumns)) {
    // Each thread packs the panel of X it works on, so X needs no copy of its own size. Where there
    // are too few panels to keep all threads busy the rows are split as well, and the same panel is
    // packed by more than one thread.
    const int64_t splits = std::min(blocks_, ceil_div(kTasksPerThread * threads_, panels_));
    blocks_per_split_ = ceil_div(blocks_, splits);
    splits_ = ceil_div(blocks_, blocks_per_split_);
  }

  void run() {
    pack_grad();
    const int64_t tasks = panels_ * splits_;
    const int64_t workers = std::min(threads_, tasks);
    const int64_t panel_size = grad_.tokens * kPanelColumns;
    const int64_t scratch_size = panel_size + kBlockRows * kPanelColumns;
    // Allocated here, because an exception must not leave a worker.
    const Workspace scratch = allocate(workers * scratch_size);
    std::atomic<int64_t> next{0};
    for_each_worker(workers, [&](int64_t worker) {
      float* packed = scratch.get() + worker * scratch_size;
      int64_t packed_panel = -1;
      for (int64_t task = next++; task < tasks; task = next++) {
        const int64_t panel = task / splits_;
        if (panel != packed_panel) {
          const int64_t column = panel * kPanelColumns;
          kernel_.pack_input(input_, column, panel_columns(panel), packed);
          packed_panel = panel;
        }
        accumulate(panel, task % splits_, packed, packed + panel_size);
      }
    });
  }

 private:
  // Enough tasks that the last ones to finish leave little idle time.
  static constexpr int64_t kTasksPerThread = 6;

  int64_t samples() const { return static_cast<int64_t>(offsets_.size()) - 1; }

  int64_t block_rows(int64_t block) const {
    return std::min(kBlockRows, grad_.columns - block * kBlockRows);
  }

  int64_t panel_columns(int64_t panel) const {
    return std::min(kPanelColumns, input_.columns - panel * kPanelColumns);
  }

  // Rows of the block with the last tile filled up.
  int64_t packed_rows(int64_t block) const {
    return ceil_div(block_rows(block), kernel_.tile_rows) * kernel_.tile_rows;
  }

  void pack_grad() {
    packed_grad_ = allocate(
        ((blocks_ - 1) * kBlockRows + packed_rows(blocks_ - 1)) * grad_.tokens);
    const int64_t tasks = samples() * blocks_;
    std::atomic<int64_t> next{0};
    for_each_worker(std::min(threads_, tasks), [&](int64_t) {
      for (int64_t task = next++; task < tasks; task = next++) {
        const int64_t start = offsets_[task / blocks_];
        const int64_t block = task % blocks_;
        TokenMatrix sample = grad_;
        sample.start = start;
        sample.tokens = offsets_[task / blocks_ + 1] - start;
        kernel_.pack_grad(
            sample, block * kBlockRows, block_rows(block),
            packed_grad_.get() + block * kBlockRows * grad_.tokens + start * packed_rows(block));
      }
    });
  }

  void accumulate(int64_t panel, int64_t split, const float* packed, float* sums) const {
    const int64_t last = std::min(blocks_, (split + 1) * blocks_per_split_);
    for (int64_t block = split * blocks_per_split_; block < last; ++block) {
      SnipBlock work{};
      work.grad = packed_grad_.get() + block * kBlockRows * grad_.tokens;
      work.input = packed;
      work.offsets = offsets_.data();
      work.samples = samples();
      work.rows = block_rows(block);
      work.columns = panel_columns(panel);
      work.sums = sums;
      work.score = score_ + block * kBlockRows * input_.columns + panel * kPanelColumns;
      work.score_stride = input_.columns;
      kernel_.accumulate(work);
    }
  }

  const SnipKernel& kernel_;
  float* score_;
  TokenMatrix grad_;
  TokenMatrix input_;
  std::vector<int64_t> offsets_;
  int64_t threads_;
  int64_t blocks_;
  int64_t panels_;
  int64_t blocks_per_split_;
  int64_t splits_;
  Workspace packed_grad_;
};

// Every element of the score is summed by one thread in the order of the samples, whatever the
// partition, so the result does not depend on the number of threads.
void snip_accumulate_(Tensor score, Tensor grad, Tensor input, Tensor offsets) {
  std::vector<int64_t> starts = checked_snip_offsets(score, grad, input, offsets);
  if (score.numel() == 0 || grad.size(0) == 0) {
    return;
  }
  SnipAccumulation(
      snip_kernel(current_capability()), static_cast<float*>(score.mutable_data_ptr()),
      token_matrix(grad), token_matrix(input), std::move(starts))
      .run();
}

}  // namespace

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CPU, m) {
  m.impl("snip_accumulate_", TORCH_BOX(&neuropatch::cpu::snip_accumulate_));
}
