// Checks of the arguments of snip_column_norms, for every device.

#pragma once

#include <optional>

#include "check.h"

namespace neuropatch {

// Checks the arguments and returns the offsets.
std::vector<int64_t> checked_norms_offsets(
    const torch::stable::Tensor& values,
    const torch::stable::Tensor& offsets,
    const std::optional<torch::stable::Tensor>& weights);

}  // namespace neuropatch
