// Checks of the arguments of snip_accumulate_at_, for every device.

#pragma once

#include "check.h"

namespace neuropatch {

// Checks all but the values of rows and columns, which lie on the device, and returns the offsets.
std::vector<int64_t> checked_snip_at_offsets(
    const torch::stable::Tensor& score,
    const torch::stable::Tensor& grad,
    const torch::stable::Tensor& input,
    const torch::stable::Tensor& offsets,
    const torch::stable::Tensor& rows,
    const torch::stable::Tensor& columns);

// Checks that places in a matrix, int32 in main memory, are from 0 to `size` - 1.
void check_places(const char* name, const int32_t* places, int64_t count, int64_t size);

}  // namespace neuropatch
