// The one place that declares the operators of neuropatch. Each device folder (cpu/, cuda/)
// registers its implementation for these schemas; the modules of neuropatch/kernels repeat the text
// for installations without this extension, and a test holds the two together.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(neuropatch, m) {
  m.def("snip_accumulate_(Tensor(a!) score, Tensor grad, Tensor input, Tensor offsets) -> ()");
  m.def(
      "snip_accumulate_at_(Tensor(a!) score, Tensor grad, Tensor input, Tensor offsets, "
      "Tensor rows, Tensor columns) -> ()");
  m.def("snip_column_norms(Tensor values, Tensor offsets, Tensor? weights=None) -> Tensor");
  m.def(
      "product_topk(Tensor weight, Tensor score, float divisor, int k, float floor) -> "
      "(Tensor values, Tensor indices)");

  m.def(
      "masked_units(Tensor preactivation, Tensor? up, Tensor mask, str activation, "
      "bool reuse=False) -> Tensor");
  m.def(
      "masked_units_backward_(Tensor(a!) preactivation, Tensor(b!)? up, Tensor mask, Tensor grad, "
      "str activation) -> Tensor");

  m.def(
      "add_sparse_linear(Tensor output, Tensor input, Tensor rows, Tensor columns, Tensor delta, "
      "Tensor edit_offsets, Tensor token_offsets, Tensor patches) -> Tensor");

  // The instruction set of the CPU kernels: what is in use, what this machine offers (best first),
  // and the choice, which is one of those names or "auto".
  m.def("cpu_capability() -> str");
  m.def("cpu_capabilities() -> str[]");
  m.def("set_cpu_capability(str name) -> ()");

  // What the CUDA kernels were built for: machine code ("sm_80") and portable code ("compute_90").
  // Empty without CUDA kernels.
  m.def("cuda_targets() -> str[]");
}
