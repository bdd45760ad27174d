// Memory and threads that the CPU kernels share.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <memory>
#include <new>

namespace neuropatch::cpu {

inline constexpr std::align_val_t kAlignment{64};

struct AlignedDelete {
  void operator()(float* data) const { ::operator delete(data, kAlignment); }
};
using Workspace = std::unique_ptr<float[], AlignedDelete>;

inline Workspace allocate(int64_t elements) {
  return Workspace(static_cast<float*>(::operator new(elements * sizeof(float), kAlignment)));
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Runs worker(index) for each index below `workers`, one after another in each thread that torch
// lends. A worker draws its tasks from a shared counter, so a slow core does not hold up the rest.
template <typename Worker>
void for_each_worker(int64_t workers, const Worker& worker) {
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      worker(index);
    }
  });
}

}  // namespace neuropatch::cpu
