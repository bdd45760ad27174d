// Says for which GPU architectures the extension has kernels, in every build.

#include <torch/csrc/stable/library.h>

#include <sstream>
#include <string>
#include <vector>

#if defined(WITH_CUDA)
#include "../cuda/launchers.h"
#endif

namespace neuropatch {

namespace {

std::vector<std::string> cuda_targets() {
  std::vector<std::string> names;
#if defined(WITH_CUDA)
  std::istringstream all(cuda::targets());
  for (std::string name; std::getline(all, name, '/');) {
    names.push_back(name);
  }
#endif
  return names;
}

}  // namespace

}  // namespace neuropatch

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CompositeExplicitAutograd, m) {
  m.impl("cuda_targets", TORCH_BOX(&neuropatch::cuda_targets));
}
