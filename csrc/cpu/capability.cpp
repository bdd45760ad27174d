#include "capability.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "../common/check.h"

#if NEUROPATCH_X86_BFLOAT16
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace neuropatch::cpu {

namespace {

bool has_avx512() {
#if defined(__x86_64__)
  // The builtin also asks whether the operating system saves the wide registers.
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

#if NEUROPATCH_X86_BFLOAT16
struct CpuId {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero where the CPU does not have the leaf.
CpuId cpuid(unsigned leaf, unsigned subleaf) {
  CpuId id;
  __get_cpuid_count(leaf, subleaf, &id.eax, &id.ebx, &id.ecx, &id.edx);
  return id;
}

bool has_dot_products() {
  return has_avx512() && (cpuid(7, 1).eax >> 5 & 1) != 0;
}

bool has_tiles() {
  const unsigned features = cpuid(7, 0).edx;
  const bool amx_bf16 = (features >> 22 & 1) != 0;
  const bool amx_tile = (features >> 24 & 1) != 0;
  const bool osxsave = (cpuid(1, 0).ecx >> 27 & 1) != 0;
  if (!has_avx512() || !amx_bf16 || !amx_tile || !osxsave) {
    return false;
  }
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileConfiguration = 1u << 17, kTileData = 1u << 18;
  if ((low & (kTileConfiguration | kTileData)) != (kTileConfiguration | kTileData)) {
    return false;
  }
  return true;
}

// Linux gives the 8 KB of tile registers only to a process that has asked for them
// (Documentation/arch/x86/xstate.rst). All its threads have them then.
bool request_tiles() {
  constexpr long kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}
#else
bool has_dot_products() {
  return false;
}

bool has_tiles() {
  return false;
}

bool request_tiles() {
  return false;
}
#endif

bool always() {
  return true;
}

struct Choice {
  const char* name;
  Capability vectors;
  BFloat16Unit bfloat16;
  bool (*available)();
};

// Best first, except that AMX is last: it rounds float32 activations to bfloat16, so it is taken only
// when asked for.
constexpr std::array<Choice, 5> kChoices{{
    {"avx512_bf16", Capability::kAvx512, BFloat16Unit::kDotProducts, has_dot_products},
    {"avx512", Capability::kAvx512, BFloat16Unit::kNone, has_avx512},
    {"avx2", Capability::kAvx2, BFloat16Unit::kNone, has_avx2},
    {"portable", Capability::kPortable, BFloat16Unit::kNone, always},
    {"amx", Capability::kAvx512, BFloat16Unit::kTiles, has_tiles},
}};

const std::vector<const Choice*>& available_choices() {
  static const std::vector<const Choice*> available = [] {
    std::vector<const Choice*> choices;
    for (const Choice& choice : kChoices) {
      if (choice.available()) {
        choices.push_back(&choice);
      }
    }
    return choices;
  }();
  return available;
}

std::atomic<const Choice*>& chosen() {
  static std::atomic<const Choice*> choice{available_choices().front()};
  return choice;
}

void set_cpu_capability(std::string requested) {
  if (requested == "auto") {
    chosen() = available_choices().front();
    return;
  }
  std::string names = "auto";
  for (const Choice* choice : available_choices()) {
    if (requested == choice->name) {
      check(choice->bfloat16 != BFloat16Unit::kTiles || request_tiles(),
            "the operating system refuses this process the tile registers of AMX; choose another "
            "CPU capability");
      chosen() = choice;
      return;
    }
    names += std::string(", ") + choice->name;
  }
  check(false, "CPU capability '", requested, "' is not available here; choose one of ", names);
}

std::string cpu_capability() {
  return chosen().load()->name;
}

}  // namespace

Capability current_capability() {
  return chosen().load()->vectors;
}

BFloat16Unit current_bfloat16_unit() {
  return chosen().load()->bfloat16;
}

std::vector<std::string> cpu_capabilities() {
  std::vector<std::string> names;
  for (const Choice* choice : available_choices()) {
    names.emplace_back(choice->name);
  }
  return names;
}

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&neuropatch::cpu::cpu_capability));
  m.impl("cpu_capabilities", TORCH_BOX(&neuropatch::cpu::cpu_capabilities));
  m.impl("set_cpu_capability", TORCH_BOX(&neuropatch::cpu::set_cpu_capability));
}
