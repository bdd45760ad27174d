// Memory that the CPU kernels share; free of torch headers.

#pragma once

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

}  // namespace neuropatch::cpu
