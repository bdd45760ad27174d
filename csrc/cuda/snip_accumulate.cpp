// snip_accumulate_ on CUDA: arguments and memory around the kernels.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <vector>

#include "../common/snip_arguments.h"
#include "binding.h"

namespace neuropatch::cuda {

namespace {

using torch::stable::Tensor;

void snip_accumulate_(Tensor score, Tensor grad, Tensor input, Tensor offsets) {
  const std::vector<int64_t> starts = checked_snip_offsets(score, grad, input, offsets);
  if (score.numel() == 0 || grad.size(0) == 0) {
    return;
  }
  check_tokens("snip_accumulate_", grad.size(0));
  const int32_t device = score.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const ElementType type = element_type(grad);
  const Tensor aligned_grad = with_aligned_rows(grad);
  const Tensor aligned_input = with_aligned_rows(input);
  const std::vector<TokenChunk> chunks = token_chunks(starts, type);
  const Tensor uploaded = upload(chunks, device);
  check_launch(
      "snip_accumulate_",
      launch_snip_accumulate(
          static_cast<float*>(score.mutable_data_ptr()), token_matrix(aligned_grad),
          token_matrix(aligned_input), type,
          static_cast<const TokenChunk*>(uploaded.const_data_ptr()),
          static_cast<int32_t>(chunks.size()), current_stream(device)));
}

}  // namespace

}  // namespace neuropatch::cuda

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CUDA, m) {
  m.impl("snip_accumulate_", TORCH_BOX(&neuropatch::cuda::snip_accumulate_));
}
