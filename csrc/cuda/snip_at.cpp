// snip_accumulate_at_ on CUDA: arguments and memory around the kernels.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "../common/snip_at_arguments.h"
#include "binding.h"

namespace neuropatch::cuda {

namespace {

using torch::headeronly::DeviceType;
using torch::stable::Tensor;

// A kernel cannot report a bad place without ending the process's use of the device, so the few that
// there are come to main memory first.
void check_on_host(const char* name, const Tensor& places, int64_t size) {
  const Tensor host = torch::stable::to(places, torch::stable::Device(DeviceType::CPU));
  check_places(name, static_cast<const int32_t*>(host.const_data_ptr()), host.numel(), size);
}

void snip_accumulate_at_(
    Tensor score, Tensor grad, Tensor input, Tensor offsets, Tensor rows, Tensor columns) {
  const std::vector<int64_t> starts =
      checked_snip_at_offsets(score, grad, input, offsets, rows, columns);
  check_on_host("rows", rows, grad.size(1));
  check_on_host("columns", columns, input.size(1));
  if (score.numel() == 0 || grad.size(0) == 0) {
    return;
  }
  check_tokens("snip_accumulate_at_", grad.size(0));
  const int32_t device = score.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const ElementType type = element_type(grad);
  const Tensor aligned_grad = with_aligned_rows(grad);
  const Tensor aligned_input = with_aligned_rows(input);
  const std::vector<TokenChunk> chunks = token_chunks(starts, type);
  const Tensor uploaded = upload(chunks, device);
  const Places places{
      static_cast<const int32_t*>(rows.const_data_ptr()),
      static_cast<const int32_t*>(columns.const_data_ptr()), score.numel()};
  check_launch(
      "snip_accumulate_at_",
      launch_snip_accumulate_at(
          static_cast<float*>(score.mutable_data_ptr()), token_matrix(aligned_grad),
          token_matrix(aligned_input), type,
          static_cast<const TokenChunk*>(uploaded.const_data_ptr()),
          static_cast<int32_t>(chunks.size()), places, current_stream(device)));
}

}  // namespace

}  // namespace neuropatch::cuda

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CUDA, m) {
  m.impl("snip_accumulate_at_", TORCH_BOX(&neuropatch::cuda::snip_accumulate_at_));
}
