// Threads that the CPU kernels share.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "workspace.h"

namespace neuropatch::cpu {

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
