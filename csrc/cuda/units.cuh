// The units of a masked MLP between its matrix products: activation, gate and mask in one pass over
// memory, and their derivatives in another.

#pragma once

#include "elements.cuh"

namespace neuropatch::cuda {

inline constexpr int kUnitsThreads = 128;
// A thread goes through this many tokens of its units, in order.
inline constexpr int kSlabTokens = 32;

struct Activated {
  float value;
  float slope;
};

__device__ __forceinline__ Activated activate(Activation activation, float z) {
  switch (activation) {
    case Activation::kSilu: {
      const float base = 1.0f + expf(-z);
      const float sigmoid = 1.0f / base;
      return {z / base, sigmoid * (1.0f + z * (1.0f - sigmoid))};
    }
    case Activation::kGelu: {
      const float below = 0.5f * (1.0f + erff(z * 0.70710678118654752f));
      const float density = 0.39894228040143268f * expf(-0.5f * z * z);
      return {z * below, below + z * density};
    }
    case Activation::kGeluTanh: {
      constexpr float kScale = 0.79788456080286536f;  // sqrt(2 / pi)
      constexpr float kCubic = 0.044715f;
      const float tanh = tanhf(kScale * (z + kCubic * z * z * z));
      const float inner = kScale * (1.0f + 3.0f * kCubic * z * z);
      return {
          0.5f * z * (1.0f + tanh),
          0.5f * (1.0f + tanh) + 0.5f * z * (1.0f - tanh * tanh) * inner};
    }
    case Activation::kRelu:
      break;
  }
  // NaN is neither below zero nor lost.
  return {z < 0.0f ? 0.0f : z, z <= 0.0f ? 0.0f : 1.0f};
}

template <typename Element, int kVector>
struct __align__(kVector * sizeof(Element)) Elements {
  Element values[kVector];
};

template <typename Element, int kVector>
__device__ __forceinline__ Elements<Element, kVector> load_units(
    const StridedMatrix& matrix, int64_t token, int64_t unit) {
  return np::load_vector<Elements<Element, kVector>>(
      static_cast<const Element*>(matrix.data) + token * matrix.row_stride +
      unit * matrix.column_stride);
}

template <typename Element, int kVector>
__device__ __forceinline__ void store_units(
    const StridedMatrix& matrix, int64_t token, int64_t unit,
    const Elements<Element, kVector>& elements) {
  np::store_vector(
      static_cast<Element*>(matrix.data) + token * matrix.row_stride + unit * matrix.column_stride,
      elements);
}

// The units and tokens of the calling thread. kVector adjacent units are read at once.
template <int kVector>
struct UnitsShare {
  int64_t unit;
  int64_t first_token;
  int64_t last_token;
  int64_t slab;

  __device__ __forceinline__ explicit UnitsShare(const MaskedUnits& arguments) {
    constexpr int64_t kStrip = kUnitsThreads * kVector;
    const int64_t strips = (arguments.units + kStrip - 1) / kStrip;
    unit = blockIdx.x % strips * kStrip + static_cast<int64_t>(threadIdx.x) * kVector;
    slab = blockIdx.x / strips;
    first_token = slab * kSlabTokens;
    const int64_t end = first_token + kSlabTokens;
    last_token = end < arguments.tokens ? end : arguments.tokens;
  }
};

template <typename Element, int kVector>
__global__ void __launch_bounds__(kUnitsThreads) masked_units_kernel(
    StridedMatrix hidden, MaskedUnits arguments) {
  const UnitsShare<kVector> share(arguments);
  if (share.unit >= arguments.units) {
    return;
  }
  float mask[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    mask[i] = arguments.mask[share.unit + i];
  }
  for (int64_t token = share.first_token; token < share.last_token; ++token) {
    const auto z = load_units<Element, kVector>(arguments.preactivation, token, share.unit);
    Elements<Element, kVector> up = {};
    if (arguments.up.data != nullptr) {
      up = load_units<Element, kVector>(arguments.up, token, share.unit);
    }
    Elements<Element, kVector> result;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      float value = activate(arguments.activation, static_cast<float>(z.values[i])).value;
      if (arguments.up.data != nullptr) {
        value *= static_cast<float>(up.values[i]);
      }
      result.values[i] = static_cast<Element>(value * mask[i]);
    }
    store_units(hidden, token, share.unit, result);
  }
}

// Writes the sums over a slab's tokens for the gradient of the mask to scratch[slab][unit].
template <typename Element, int kVector>
__global__ void __launch_bounds__(kUnitsThreads) masked_units_backward_kernel(
    float* scratch, MaskedUnits arguments, StridedMatrix grads) {
  const UnitsShare<kVector> share(arguments);
  if (share.unit >= arguments.units) {
    return;
  }
  const bool gated = arguments.up.data != nullptr;
  float mask[kVector];
  float sums[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    mask[i] = arguments.mask[share.unit + i];
    sums[i] = 0.0f;
  }
  for (int64_t token = share.first_token; token < share.last_token; ++token) {
    const auto grad = load_units<Element, kVector>(grads, token, share.unit);
    auto z = load_units<Element, kVector>(arguments.preactivation, token, share.unit);
    Elements<Element, kVector> up = {};
    if (gated) {
      up = load_units<Element, kVector>(arguments.up, token, share.unit);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float g = static_cast<float>(grad.values[i]);
      const float u = gated ? static_cast<float>(up.values[i]) : 1.0f;
      const Activated active =
          activate(arguments.activation, static_cast<float>(z.values[i]));
      sums[i] += g * active.value * u;
      const float hidden = g * mask[i];
      z.values[i] = static_cast<Element>(hidden * u * active.slope);
      up.values[i] = static_cast<Element>(hidden * active.value);
    }
    store_units(arguments.preactivation, token, share.unit, z);
    if (gated) {
      store_units(arguments.up, token, share.unit, up);
    }
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    scratch[share.slab * arguments.units + share.unit + i] = sums[i];
  }
}

// grad_mask = the sum of the slabs, in order.
template <typename Sum>
__global__ void __launch_bounds__(kUnitsThreads) sum_slabs_kernel(
    Sum* grad_mask, const Sum* scratch, int64_t slabs, int64_t units) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * kUnitsThreads + threadIdx.x;
  if (unit >= units) {
    return;
  }
  Sum sum = 0;
  for (int64_t slab = 0; slab < slabs; ++slab) {
    sum += scratch[slab * units + unit];
  }
  grad_mask[unit] = sum;
}

}  // namespace neuropatch::cuda
