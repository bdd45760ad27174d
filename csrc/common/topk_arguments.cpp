#include "topk_arguments.h"

#include <cmath>

namespace neuropatch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check_topk_arguments(
    const Tensor& weight, const Tensor& score, double divisor, int64_t k, double floor) {
  check(weight.dim() == 2 && score.dim() == 2 && weight.size(0) == score.size(0) &&
            weight.size(1) == score.size(1),
        "product_topk: weight and score must have one shape (out, in), not ", shape_text(weight),
        " and ", shape_text(score));
  const ScalarType type = weight.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
        "product_topk: the compiled kernel takes a float32, bfloat16 or float16 weight, not ",
        dtype_text(type));
  check(score.scalar_type() == ScalarType::Float,
        "product_topk: the compiled kernel takes a float32 score, not ",
        dtype_text(score.scalar_type()));
  check(std::isfinite(divisor) && divisor > 0,
        "product_topk: divisor must be positive and finite, not ", divisor);
  check(k >= 0, "product_topk: k must not be negative, but is ", k);
  check(std::isfinite(floor) && floor >= 0,
        "product_topk: floor must be finite and not negative, but is ", floor);
}

}  // namespace neuropatch
