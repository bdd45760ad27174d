// The one place that declares the operators of neuropatch. Each device folder (cpu/, later cuda/)
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

  // The instruction set of the CPU kernels: what is in use, what this machine offers (best first),
  // and the choice, which is one of those names or "auto".
  m.def("cpu_capability() -> str");
  m.def("cpu_capabilities() -> str[]");
  m.def("set_cpu_capability(str name) -> ()");
}
