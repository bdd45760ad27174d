// The one place that declares the operators of neuropatch. Each device folder (cpu/, later cuda/)
// registers its implementation for these schemas; the modules of neuropatch/kernels repeat the text
// for installations without this extension, and a test holds the two together.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(neuropatch, m) {
  m.def("snip_accumulate_(Tensor(a!) score, Tensor grad, Tensor input, Tensor offsets) -> ()");

  // The instruction set of the CPU kernels: what is in use, what this machine offers (best first),
  // and the choice, which is one of those names or "auto".
  m.def("cpu_capability() -> str");
  m.def("cpu_capabilities() -> str[]");
  m.def("set_cpu_capability(str name) -> ()");
}
