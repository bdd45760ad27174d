// The instruction set that the CPU kernels use, chosen at run time.

#pragma once

#include <string>
#include <vector>

namespace neuropatch::cpu {

enum class Capability { kPortable, kAvx2, kAvx512 };

const char* name(Capability capability);

// What this machine offers, best first; never empty.
std::vector<Capability> available_capabilities();

// The chosen one, or the best one when none was chosen.
Capability current_capability();

}  // namespace neuropatch::cpu
