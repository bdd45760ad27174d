// snip_accumulate_ on the CPU: arguments and threads around snip_accumulation.h.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "../common/snip_arguments.h"
#include "elements_of.h"
#include "parallel.h"
#include "snip_accumulation.h"
#include "snip_kernels.h"

namespace neuropatch::cpu {

namespace {

using torch::stable::Tensor;

TokenMatrix token_matrix(const Tensor& tensor) {
  TokenMatrix matrix{};
  matrix.data = tensor.const_data_ptr();
  matrix.type = element_type(tensor);
  matrix.tokens = tensor.size(0);
  matrix.columns = tensor.size(1);
  matrix.token_stride = tensor.stride(0);
  matrix.column_stride = tensor.stride(1);
  return matrix;
}

const SnipKernel& snip_kernel(ElementType type) {
#if NEUROPATCH_X86_BFLOAT16
  const BFloat16Unit unit = current_bfloat16_unit();
  if (unit == BFloat16Unit::kDotProducts && type == ElementType::kBFloat16) {
    return kDotProductSnipKernel;
  }
  if (unit == BFloat16Unit::kTiles && type != ElementType::kFloat16) {
    return kTileSnipKernel;
  }
#endif
  return vector_snip_kernel(current_capability());
}

void snip_accumulate_(Tensor score, Tensor grad, Tensor input, Tensor offsets) {
  std::vector<int64_t> starts = checked_snip_offsets(score, grad, input, offsets);
  if (score.numel() == 0 || grad.size(0) == 0) {
    return;
  }
  const TokenMatrix matrix = token_matrix(grad);
  SnipAccumulation(
      snip_kernel(matrix.type), static_cast<float*>(score.mutable_data_ptr()), matrix,
      token_matrix(input), std::move(starts), torch::stable::get_num_threads())
      .run([](int64_t workers, const auto& worker) { for_each_worker(workers, worker); });
}

}  // namespace

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CPU, m) {
  m.impl("snip_accumulate_", TORCH_BOX(&neuropatch::cpu::snip_accumulate_));
}
