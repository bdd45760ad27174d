#include "capability.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>

#include "../common/check.h"

namespace neuropatch::cpu {

namespace {

bool supports(Capability capability) {
#if defined(__x86_64__)
  // The builtin also asks whether the operating system saves the wide registers.
  switch (capability) {
    case Capability::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    case Capability::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Capability::kPortable:
      return true;
  }
#endif
  return capability == Capability::kPortable;
}

std::atomic<Capability>& chosen() {
  static std::atomic<Capability> capability{available_capabilities().front()};
  return capability;
}

void set_cpu_capability(std::string requested) {
  const std::vector<Capability> available = available_capabilities();
  if (requested == "auto") {
    chosen() = available.front();
    return;
  }
  std::string names = "auto";
  for (const Capability capability : available) {
    if (requested == name(capability)) {
      chosen() = capability;
      return;
    }
    names += std::string(", ") + name(capability);
  }
  check(false, "CPU capability '", requested, "' is not available here; choose one of ", names);
}

std::string cpu_capability() {
  return name(current_capability());
}

std::vector<std::string> cpu_capabilities() {
  std::vector<std::string> names;
  for (const Capability capability : available_capabilities()) {
    names.emplace_back(name(capability));
  }
  return names;
}

}  // namespace

const char* name(Capability capability) {
  switch (capability) {
    case Capability::kAvx512:
      return "avx512";
    case Capability::kAvx2:
      return "avx2";
    case Capability::kPortable:
      break;
  }
  return "portable";
}

std::vector<Capability> available_capabilities() {
  std::vector<Capability> available{
      Capability::kAvx512, Capability::kAvx2, Capability::kPortable};
  available.erase(
      std::remove_if(
          available.begin(), available.end(), [](Capability c) { return !supports(c); }),
      available.end());
  return available;
}

Capability current_capability() {
  return chosen();
}

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&neuropatch::cpu::cpu_capability));
  m.impl("cpu_capabilities", TORCH_BOX(&neuropatch::cpu::cpu_capabilities));
  m.impl("set_cpu_capability", TORCH_BOX(&neuropatch::cpu::set_cpu_capability));
}
