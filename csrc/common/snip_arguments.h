// Checks of the arguments of the operators behind SNIP scores, for every device.

#pragma once

#include "check.h"

namespace neuropatch {

// Checks the arguments of snip_accumulate_ and returns the offsets. The matrices are on the device of
// the implementation that the dispatcher has chosen by them.
std::vector<int64_t> checked_snip_offsets(
    const torch::stable::Tensor& score,
    const torch::stable::Tensor& grad,
    const torch::stable::Tensor& input,
    const torch::stable::Tensor& offsets);

}  // namespace neuropatch
