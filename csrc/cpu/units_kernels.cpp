#include "units_kernels.h"

#include <cstring>

#include "vectors.h"

namespace neuropatch::cpu {

namespace {

// One row of a tile as contiguous floats. Rows of float32 are used where they lie; others are
// converted into a buffer, and back.
class Row {
 public:
  NP_INLINE Row(const Elements& matrix, int64_t token, const UnitsTile& tile)
      : matrix_(matrix), units_(tile.units) {
    const int64_t size = matrix.type == ElementType::kFloat32 ? 4 : 2;
    const int64_t offset = (tile.first_token + token) * matrix.token_stride +
        tile.first_unit * matrix.column_stride;
    place_ = static_cast<char*>(matrix.data) + offset * size;
    direct_ = matrix.type == ElementType::kFloat32 && matrix.column_stride == 1;
    floats_ = direct_ ? reinterpret_cast<float*>(place_) : buffer_;
  }

  NP_INLINE float* floats() { return floats_; }

  NP_INLINE void load() {
    if (direct_) {
      return;
    }
    switch (matrix_.type) {
      case ElementType::kFloat32:
        return load_as<Float32>();
      case ElementType::kBFloat16:
        return load_as<BFloat16>();
      case ElementType::kFloat16:
        return load_as<Float16>();
    }
  }

  NP_INLINE void store() {
    if (direct_) {
      return;
    }
    switch (matrix_.type) {
      case ElementType::kFloat32:
        return store_as<Float32>();
      case ElementType::kBFloat16:
        return store_as<BFloat16>();
      case ElementType::kFloat16:
        return store_as<Float16>();
    }
  }

 private:
  template <typename Element>
  NP_INLINE void load_as() {
    const auto* source = reinterpret_cast<const typename Element::Storage*>(place_);
    // The compiler vectorises the first loop only.
    if (matrix_.column_stride == 1) {
      for (int64_t i = 0; i < units_; ++i) {
        buffer_[i] = Element::load(source[i]);
      }
    } else {
      for (int64_t i = 0; i < units_; ++i) {
        buffer_[i] = Element::load(source[i * matrix_.column_stride]);
      }
    }
  }

  template <typename Element>
  NP_INLINE void store_as() {
    auto* target = reinterpret_cast<typename Element::Storage*>(place_);
    if (matrix_.column_stride == 1) {
      for (int64_t i = 0; i < units_; ++i) {
        target[i] = Element::store(buffer_[i]);
      }
    } else {
      for (int64_t i = 0; i < units_; ++i) {
        target[i * matrix_.column_stride] = Element::store(buffer_[i]);
      }
    }
  }

  const Elements& matrix_;
  int64_t units_;
  char* place_;
  bool direct_;
  float* floats_;
  alignas(64) float buffer_[kTileUnits];
};

// A vector at floats, of which `count` elements exist; the others are 0.
template <typename Vector>
NP_INLINE typename Vector::Floats load_vector(const float* floats, int64_t count) {
  typename Vector::Floats vector = {};
  if (count >= Vector::kLanes) {
    vector = *reinterpret_cast<const typename Vector::Unaligned*>(floats);
  } else {
    std::memcpy(&vector, floats, count * sizeof(float));
  }
  return vector;
}

template <typename Vector>
NP_INLINE void store_vector(typename Vector::Floats vector, float* floats, int64_t count) {
  if (count >= Vector::kLanes) {
    *reinterpret_cast<typename Vector::Unaligned*>(floats) = vector;
  } else {
    std::memcpy(floats, &vector, count * sizeof(float));
  }
}

template <typename Vector, Activation kActivation, bool kGated>
NP_INLINE void forward_tile(const UnitsTile& tile, const Elements& hidden) {
  using Floats = typename Vector::Floats;
  const float* mask = tile.mask + tile.first_unit;
  for (int64_t t = 0; t < tile.tokens; ++t) {
    Row z_row(tile.preactivation, t, tile);
    Row up_row(kGated ? tile.up : tile.preactivation, t, tile);
    Row hidden_row(hidden, t, tile);
    z_row.load();
    if (kGated) {
      up_row.load();
    }
    for (int64_t i = 0; i < tile.units; i += Vector::kLanes) {
      const int64_t left = tile.units - i;
      const Floats z = load_vector<Vector>(z_row.floats() + i, left);
      Floats result = activate<Vector, kActivation>(z).value;
      if (kGated) {
        result *= load_vector<Vector>(up_row.floats() + i, left);
      }
      result *= load_vector<Vector>(mask + i, left);
      store_vector<Vector>(result, hidden_row.floats() + i, left);
    }
    hidden_row.store();
  }
}

template <typename Vector, Activation kActivation, bool kGated>
NP_INLINE void backward_tile(const UnitsTile& tile, const Elements& grad, float* grad_mask) {
  using Floats = typename Vector::Floats;
  const float* mask = tile.mask + tile.first_unit;
  std::memset(grad_mask, 0, tile.units * sizeof(float));
  for (int64_t t = 0; t < tile.tokens; ++t) {
    Row z_row(tile.preactivation, t, tile);
    Row up_row(kGated ? tile.up : tile.preactivation, t, tile);
    Row grad_row(grad, t, tile);
    z_row.load();
    grad_row.load();
    if (kGated) {
      up_row.load();
    }
    for (int64_t i = 0; i < tile.units; i += Vector::kLanes) {
      const int64_t left = tile.units - i;
      const Floats g = load_vector<Vector>(grad_row.floats() + i, left);
      const Floats grad_hidden = g * load_vector<Vector>(mask + i, left);
      const Activated<Vector> active =
          activate<Vector, kActivation>(load_vector<Vector>(z_row.floats() + i, left));
      Floats of_mask = g * active.value;
      Floats of_z = grad_hidden;
      if (kGated) {
        const Floats up = load_vector<Vector>(up_row.floats() + i, left);
        of_mask *= up;
        of_z *= up;
        store_vector<Vector>(grad_hidden * active.value, up_row.floats() + i, left);
      }
      store_vector<Vector>(of_z * active.slope, z_row.floats() + i, left);
      store_vector<Vector>(
          load_vector<Vector>(grad_mask + i, left) + of_mask, grad_mask + i, left);
    }
    z_row.store();
    if (kGated) {
      up_row.store();
    }
  }
}

template <typename Vector, Activation kActivation>
NP_INLINE void forward_of(const UnitsTile& tile, const Elements& hidden) {
  tile.up.data ? forward_tile<Vector, kActivation, true>(tile, hidden)
               : forward_tile<Vector, kActivation, false>(tile, hidden);
}

template <typename Vector, Activation kActivation>
NP_INLINE void backward_of(const UnitsTile& tile, const Elements& grad, float* grad_mask) {
  tile.up.data ? backward_tile<Vector, kActivation, true>(tile, grad, grad_mask)
               : backward_tile<Vector, kActivation, false>(tile, grad, grad_mask);
}

}  // namespace

// Defines the functions of one instruction set and the table that names them.
#define NP_UNITS_KERNEL(NAME, TARGET, VECTOR)                                                      \
  TARGET static void NAME##_forward(                                                               \
      Activation activation, const UnitsTile& tile, const Elements& hidden) {                      \
    switch (activation) {                                                                          \
      case Activation::kSilu:                                                                      \
        return forward_of<VECTOR, Activation::kSilu>(tile, hidden);                                \
      case Activation::kGelu:                                                                      \
        return forward_of<VECTOR, Activation::kGelu>(tile, hidden);                                \
      case Activation::kGeluTanh:                                                                  \
        return forward_of<VECTOR, Activation::kGeluTanh>(tile, hidden);                            \
      case Activation::kRelu:                                                                      \
        return forward_of<VECTOR, Activation::kRelu>(tile, hidden);                                \
    }                                                                                              \
  }                                                                                                \
  TARGET static void NAME##_backward(                                                              \
      Activation activation, const UnitsTile& tile, const Elements& grad, float* grad_mask) {      \
    switch (activation) {                                                                          \
      case Activation::kSilu:                                                                      \
        return backward_of<VECTOR, Activation::kSilu>(tile, grad, grad_mask);                      \
      case Activation::kGelu:                                                                      \
        return backward_of<VECTOR, Activation::kGelu>(tile, grad, grad_mask);                      \
      case Activation::kGeluTanh:                                                                  \
        return backward_of<VECTOR, Activation::kGeluTanh>(tile, grad, grad_mask);                  \
      case Activation::kRelu:                                                                      \
        return backward_of<VECTOR, Activation::kRelu>(tile, grad, grad_mask);                      \
    }                                                                                              \
  }                                                                                                \
  static const UnitsKernel NAME##_kernel{NAME##_forward, NAME##_backward};

NP_UNITS_KERNEL(portable, , Vector128)

#if defined(__x86_64__)
NP_UNITS_KERNEL(avx2, NP_AVX2, Vector256)
NP_UNITS_KERNEL(avx512, NP_AVX512, Vector512)
#endif

const UnitsKernel& units_kernel(Capability capability) {
  return NP_CHOOSE(capability, kernel);
}

}  // namespace neuropatch::cpu
