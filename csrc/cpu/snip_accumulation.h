// The partition of snip_accumulate_ into panels, blocks and threads, around a kernel of
// snip_kernels.h; free of torch headers.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

#include "snip_kernels.h"
#include "workspace.h"

namespace neuropatch::cpu {

// Every element of the score is summed by one thread in the order of the samples, whatever the
// partition, so the result does not depend on the number of threads.
class SnipAccumulation {
 public:
  // `offsets` are those of the samples in tokens. There is at least one token, row and column.
  SnipAccumulation(
      const SnipKernel& kernel, float* score, TokenMatrix grad, TokenMatrix input,
      std::vector<int64_t> offsets, int64_t threads)
      : kernel_(kernel),
        score_(score),
        grad_(grad),
        input_(input),
        offsets_(std::move(offsets)),
        steps_(packed_steps(kernel, offsets_)),
        threads_(threads),
        blocks_(ceil_div(grad.columns, kBlockRows)),
        panels_(ceil_div(input.columns, kPanelColumns)) {
    // Each thread packs the panels of X it works on, so X needs no copy of its own size. It takes as
    // many neighbours at once as its cache holds beside a block of G, which is then read from there
    // for all of them. Where there are too few panels to keep all threads busy the rows are split as
    // well, and the same panels are packed by more than one thread.
    const int64_t tasks = kTasksPerThread * threads_;
    const int64_t cached = kCachedElements / (steps_.back() * kPanelColumns);
    group_ = std::max<int64_t>(1, std::min({cached, kMaxGroup, panels_ / tasks}));
    groups_ = ceil_div(panels_, group_);
    const int64_t splits = std::min(blocks_, ceil_div(tasks, groups_));
    blocks_per_split_ = ceil_div(blocks_, splits);
    splits_ = ceil_div(blocks_, blocks_per_split_);
  }

  // `for_each(n, worker)` calls worker(i) once for each i below n, from any thread.
  template <typename ForEach>
  void run(const ForEach& for_each) {
    pack_grad(for_each);
    const int64_t tasks = groups_ * splits_;
    const int64_t workers = std::min(threads_, tasks);
    const int64_t packed_size = group_ * panel_size();
    const int64_t scratch_size = packed_size + kBlockRows * kPanelColumns;
    // Allocated here, because an exception must not leave a worker.
    const Workspace scratch = allocate(workers * scratch_size);
    std::atomic<int64_t> next{0};
    for_each(workers, [&](int64_t worker) {
      float* packed = scratch.get() + worker * scratch_size;
      int64_t packed_group = -1;
      for (int64_t task = next++; task < tasks; task = next++) {
        const int64_t group = task / splits_;
        if (group != packed_group) {
          pack_input(group, packed);
          packed_group = group;
        }
        accumulate(group, task % splits_, packed, packed + packed_size);
      }
    });
  }

 private:
  // Enough tasks that the last ones to finish leave little idle time.
  static constexpr int64_t kTasksPerThread = 6;

  // Half of a second-level cache of 1 MB, and the most panels that are any use.
  static constexpr int64_t kCachedElements = (512 << 10) / sizeof(float);
  static constexpr int64_t kMaxGroup = 4;

  static std::vector<int64_t> packed_steps(
      const SnipKernel& kernel, const std::vector<int64_t>& offsets) {
    std::vector<int64_t> steps{0};
    for (size_t b = 1; b < offsets.size(); ++b) {
      steps.push_back(steps.back() + kernel.steps(offsets[b] - offsets[b - 1]));
    }
    return steps;
  }

  int64_t samples() const { return static_cast<int64_t>(offsets_.size()) - 1; }

  TokenMatrix sample_of(TokenMatrix matrix, int64_t sample) const {
    matrix.start = offsets_[sample];
    matrix.tokens = offsets_[sample + 1] - matrix.start;
    return matrix;
  }

  int64_t block_rows(int64_t block) const {
    return std::min(kBlockRows, grad_.columns - block * kBlockRows);
  }

  int64_t panel_columns(int64_t panel) const {
    return std::min(kPanelColumns, input_.columns - panel * kPanelColumns);
  }

  int64_t panel_size() const { return steps_.back() * kPanelColumns; }

  int64_t end_of_group(int64_t group) const { return std::min(panels_, (group + 1) * group_); }

  // Rows of the block with the last tile filled up.
  int64_t packed_rows(int64_t block) const {
    return ceil_div(block_rows(block), kernel_.tile_rows) * kernel_.tile_rows;
  }

  float* packed_block(int64_t block) const {
    return packed_grad_.get() + block * kBlockRows * steps_.back();
  }

  template <typename ForEach>
  void pack_grad(const ForEach& for_each) {
    packed_grad_ = allocate(
        ((blocks_ - 1) * kBlockRows + packed_rows(blocks_ - 1)) * steps_.back());
    const int64_t tasks = samples() * blocks_;
    std::atomic<int64_t> next{0};
    for_each(std::min(threads_, tasks), [&](int64_t) {
      for (int64_t task = next++; task < tasks; task = next++) {
        const int64_t sample = task / blocks_;
        const int64_t block = task % blocks_;
        kernel_.pack_grad(
            sample_of(grad_, sample), block * kBlockRows, block_rows(block),
            packed_block(block) + steps_[sample] * packed_rows(block));
      }
    });
  }

  void pack_input(int64_t group, float* packed) const {
    for (int64_t panel = group * group_; panel < end_of_group(group); ++panel) {
      for (int64_t sample = 0; sample < samples(); ++sample) {
        kernel_.pack_input(
            sample_of(input_, sample), panel * kPanelColumns, panel_columns(panel),
            packed + steps_[sample] * kPanelColumns);
      }
      packed += panel_size();
    }
  }

  void accumulate(int64_t group, int64_t split, const float* packed, float* sums) const {
    const int64_t first_panel = group * group_;
    const int64_t last_block = std::min(blocks_, (split + 1) * blocks_per_split_);
    for (int64_t block = split * blocks_per_split_; block < last_block; ++block) {
      for (int64_t panel = first_panel; panel < end_of_group(group); ++panel) {
        SnipBlock work{};
        work.grad = packed_block(block);
        work.input = packed + (panel - first_panel) * panel_size();
        work.steps = steps_.data();
        work.samples = samples();
        work.rows = block_rows(block);
        work.columns = panel_columns(panel);
        work.sums = sums;
        work.score = score_ + block * kBlockRows * input_.columns + panel * kPanelColumns;
        work.score_stride = input_.columns;
        kernel_.accumulate(work);
      }
    }
  }

  const SnipKernel& kernel_;
  float* score_;
  TokenMatrix grad_;
  TokenMatrix input_;
  std::vector<int64_t> offsets_;
  std::vector<int64_t> steps_;  // offsets of the samples in the packed factors
  int64_t threads_;
  int64_t blocks_;
  int64_t panels_;
  int64_t group_;  // panels of a task
  int64_t groups_;
  int64_t blocks_per_split_;
  int64_t splits_;
  Workspace packed_grad_;
};

}  // namespace neuropatch::cpu
