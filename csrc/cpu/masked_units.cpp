// masked_units and its backward pass on the CPU: arguments, tiles and threads around the kernels of
// units_kernels.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>

#include "../common/units_arguments.h"
#include "elements_of.h"
#include "parallel.h"
#include "units_kernels.h"

namespace neuropatch::cpu {

namespace {

using torch::stable::Tensor;

Activation parse_activation(const std::string& name) {
  if (name == "silu") {
    return Activation::kSilu;
  }
  if (name == "gelu") {
    return Activation::kGelu;
  }
  return name == "gelu_tanh" ? Activation::kGeluTanh : Activation::kRelu;
}

class UnitsTiles {
 public:
  UnitsTiles(const Tensor& preactivation, const std::optional<Tensor>& up, const Tensor& mask)
      : mask_(torch::stable::contiguous(mask)),
        tokens_(preactivation.size(0)),
        units_(preactivation.size(1)),
        columns_(ceil_div(units_, kTileUnits)) {
    whole_.preactivation = elements_of(preactivation);
    whole_.up = up ? elements_of(*up) : Elements{};
    whole_.mask = static_cast<const float*>(mask_.const_data_ptr());
  }

  int64_t token_tiles() const { return ceil_div(tokens_, kTileTokens); }

  // Runs work(tile, index of the tile's tokens) for each tile.
  template <typename Work>
  void for_each(const Work& work) const {
    const int64_t tiles = token_tiles() * columns_;
    const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), tiles);
    std::atomic<int64_t> next{0};
    for_each_worker(workers, [&](int64_t) {
      for (int64_t index = next++; index < tiles; index = next++) {
        UnitsTile tile = whole_;
        tile.first_token = index / columns_ * kTileTokens;
        tile.tokens = std::min(kTileTokens, tokens_ - tile.first_token);
        tile.first_unit = index % columns_ * kTileUnits;
        tile.units = std::min(kTileUnits, units_ - tile.first_unit);
        work(tile, index / columns_);
      }
    });
  }

 private:
  Tensor mask_;
  int64_t tokens_;
  int64_t units_;
  int64_t columns_;
  UnitsTile whole_{};
};

Tensor masked_units(
    Tensor preactivation, std::optional<Tensor> up, Tensor mask, std::string activation,
    bool /*reuse*/) {
  check_units("masked_units", preactivation, up, mask, activation);
  Tensor hidden = torch::stable::new_empty(
      preactivation, {preactivation.size(0), preactivation.size(1)});
  const UnitsKernel& kernel = units_kernel(current_capability());
  const Activation act = parse_activation(activation);
  const Elements result = elements_of(hidden);
  UnitsTiles(preactivation, up, mask).for_each([&](const UnitsTile& tile, int64_t) {
    kernel.forward(act, tile, result);
  });
  return hidden;
}

// The sum over tokens is taken in tiles of a fixed size, then over tiles in their order, so the
// result does not depend on the number of threads.
Tensor masked_units_backward_(
    Tensor preactivation, std::optional<Tensor> up, Tensor mask, Tensor grad,
    std::string activation) {
  check_units_backward("masked_units_backward_", preactivation, up, mask, grad, activation);
  const UnitsTiles tiles(preactivation, up, mask);
  const UnitsKernel& kernel = units_kernel(current_capability());
  const Activation act = parse_activation(activation);
  const Elements source = elements_of(grad);
  const int64_t units = preactivation.size(1);
  const Workspace partial = allocate(tiles.token_tiles() * units);
  tiles.for_each([&](const UnitsTile& tile, int64_t index) {
    kernel.backward(act, tile, source, partial.get() + index * units + tile.first_unit);
  });

  Tensor grad_mask = torch::stable::new_zeros(mask, {units});
  auto* sums = static_cast<float*>(grad_mask.mutable_data_ptr());
  for (int64_t index = 0; index < tiles.token_tiles(); ++index) {
    for (int64_t i = 0; i < units; ++i) {
      sums[i] += partial[index * units + i];
    }
  }
  return grad_mask;
}

}  // namespace

}  // namespace neuropatch::cpu

STABLE_TORCH_LIBRARY_IMPL(neuropatch, CPU, m) {
  m.impl("masked_units", TORCH_BOX(&neuropatch::cpu::masked_units));
  m.impl("masked_units_backward_", TORCH_BOX(&neuropatch::cpu::masked_units_backward_));
}
