// Launches the kernels of units.cuh.

#include "units.cuh"

#include <initializer_list>

namespace neuropatch::cuda {

namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Whether all rows can be read kVector elements at a time.
template <typename Element, int kVector>
bool aligned(const MaskedUnits& arguments, std::initializer_list<StridedMatrix> matrices) {
  for (const StridedMatrix& matrix : matrices) {
    const bool fits = matrix.column_stride == 1 && matrix.row_stride % kVector == 0 &&
        reinterpret_cast<uintptr_t>(matrix.data) % (kVector * sizeof(Element)) == 0;
    if (matrix.data != nullptr && !fits) {
      return false;
    }
  }
  return arguments.units % kVector == 0;
}

template <int kVector>
unsigned blocks(const MaskedUnits& arguments) {
  return static_cast<unsigned>(
      ceil_div(arguments.units, kUnitsThreads * kVector) *
      ceil_div(arguments.tokens, kSlabTokens));
}

}  // namespace

int launch_masked_units(void* hidden, const MaskedUnits& arguments, void* stream) {
  const StridedMatrix result{hidden, arguments.units, 1};
  return with_element(arguments.type, [&](auto element) {
    using Element = decltype(element);
    constexpr int kVector = 16 / sizeof(Element);
    const auto on = static_cast<cudaStream_t>(stream);
    if (aligned<Element, kVector>(arguments, {result, arguments.preactivation, arguments.up})) {
      return np::launch(
          masked_units_kernel<Element, kVector>, blocks<kVector>(arguments), kUnitsThreads, 0, on,
          result, arguments);
    }
    return np::launch(
        masked_units_kernel<Element, 1>, blocks<1>(arguments), kUnitsThreads, 0, on, result,
        arguments);
  });
}

int64_t masked_units_scratch(int64_t tokens, int64_t units) {
  return ceil_div(tokens, kSlabTokens) * units;
}

int launch_masked_units_backward(
    float* grad_mask, float* scratch, const MaskedUnits& arguments, StridedMatrix grad,
    void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const int error = with_element(arguments.type, [&](auto element) {
    using Element = decltype(element);
    constexpr int kVector = 16 / sizeof(Element);
    if (aligned<Element, kVector>(arguments, {arguments.preactivation, arguments.up, grad})) {
      return np::launch(
          masked_units_backward_kernel<Element, kVector>, blocks<kVector>(arguments),
          kUnitsThreads, 0, on, scratch, arguments, grad);
    }
    return np::launch(
        masked_units_backward_kernel<Element, 1>, blocks<1>(arguments), kUnitsThreads, 0, on,
        scratch, arguments, grad);
  });
  if (error != 0) {
    return error;
  }
  return np::launch(
      sum_slabs_kernel<float>, static_cast<unsigned>(ceil_div(arguments.units, kUnitsThreads)),
      kUnitsThreads, 0, on, grad_mask, scratch, ceil_div(arguments.tokens, kSlabTokens),
      arguments.units);
}

}  // namespace neuropatch::cuda
