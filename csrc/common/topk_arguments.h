// Checks of the arguments of product_topk, for every device.

#pragma once

#include "check.h"

namespace neuropatch {

void check_topk_arguments(
    const torch::stable::Tensor& weight, const torch::stable::Tensor& score, double divisor,
    int64_t k, double floor);

}  // namespace neuropatch
