// Compiled without sanitizers, as runtime.cpp is: one lane computes for all lanes of its warp.

#include "tensor_core.h"

#include <bit>
#include <cstring>

namespace np::emulation {
namespace {

constexpr unsigned kFullMask = 0xffffffffu;

struct LoadArguments {
  int matrices;
  bool transposed;
  std::uint16_t row[8];
  std::uint32_t registers[4];
};

void combine_load(void* const (&arguments)[warpSize], unsigned, Place) {
  const auto lane_of = [&](int lane) -> LoadArguments& {
    return *static_cast<LoadArguments*>(arguments[lane]);
  };
  for (int lane = 0; lane < warpSize; ++lane) {
    LoadArguments& own = lane_of(lane);
    const int major = lane / 4;
    const int minor = lane % 4 * 2;
    for (int matrix = 0; matrix < own.matrices; ++matrix) {
      const auto element = [&](int row, int column) -> std::uint32_t {
        return lane_of(matrix * 8 + row).row[column];
      };
      own.registers[matrix] =
          own.transposed ? element(minor, major) | element(minor + 1, major) << 16
                         : element(major, minor) | element(major, minor + 1) << 16;
    }
  }
}

// The exponent is moved from float16's bias to float32's by a multiplication, which is exact, also
// for subnormal numbers; infinities and NaN get their exponent afterwards.
float from_float16(std::uint32_t half) {
  const float scaled = std::bit_cast<float>((half & 0x7fffu) << 13) * 0x1p112f;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(scaled);
  if ((half & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
  return std::bit_cast<float>(bits | (half & 0x8000u) << 16);
}

float from_bfloat16(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }

// Tensor cores read the upper 19 bits of a tf32 operand.
float from_tensor_float32(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }

struct MultiplyArguments {
  Element element;
  float* d;
  const std::uint32_t* a;
  std::uint32_t b[2];
};

using Row = float __attribute__((vector_size(32)));  // of D and B: 8 columns

// Elements k, k + 1, ... of a register, for kPerRegister elements in each.
template <Element kElement>
void unpack(std::uint32_t bits, float* values) {
  if constexpr (kElement == Element::kTensorFloat32) {
    values[0] = from_tensor_float32(bits);
  } else {
    constexpr auto convert = kElement == Element::kBFloat16 ? from_bfloat16 : from_float16;
    values[0] = convert(bits & 0xffffu);
    values[1] = convert(bits >> 16);
  }
}

template <Element kElement>
void multiply(void* const (&arguments)[warpSize]) {
  constexpr int kPerRegister = kElement == Element::kTensorFloat32 ? 1 : 2;
  constexpr int kDepth = 8 * kPerRegister;
  float a[16][kDepth];
  Row b[kDepth];
  Row d[16];
  for (int lane = 0; lane < warpSize; ++lane) {
    const auto& own = *static_cast<const MultiplyArguments*>(arguments[lane]);
    const int group = lane / 4;
    const int first = lane % 4 * kPerRegister;
    for (int i = 0; i < 4; ++i) {
      unpack<kElement>(own.a[i], &a[group + i % 2 * 8][first + i / 2 * 4 * kPerRegister]);
      d[group + i / 2 * 8][lane % 4 * 2 + i % 2] = own.d[i];
    }
    for (int i = 0; i < 2; ++i) {
      float values[kPerRegister];
      unpack<kElement>(own.b[i], values);
      for (int j = 0; j < kPerRegister; ++j) {
        b[first + i * 4 * kPerRegister + j][group] = values[j];
      }
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) d[row] += a[row][k] * b[k];
  }
  for (int lane = 0; lane < warpSize; ++lane) {
    const auto& own = *static_cast<const MultiplyArguments*>(arguments[lane]);
    for (int i = 0; i < 4; ++i) own.d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

void combine_multiply(void* const (&arguments)[warpSize], unsigned, Place) {
  switch (static_cast<const MultiplyArguments*>(arguments[0])->element) {
    case Element::kBFloat16:
      return multiply<Element::kBFloat16>(arguments);
    case Element::kFloat16:
      return multiply<Element::kFloat16>(arguments);
    case Element::kTensorFloat32:
      return multiply<Element::kTensorFloat32>(arguments);
  }
}

}  // namespace

void exchange_matrices(
    std::uint32_t* registers, int matrices, bool transposed, const std::uint16_t (&row)[8],
    Place place) {
  LoadArguments arguments{matrices, transposed, {}, {}};
  std::memcpy(arguments.row, row, sizeof row);
  sync_warp("ldmatrix", kFullMask, &arguments, combine_load, place);
  std::memcpy(registers, arguments.registers, sizeof(std::uint32_t) * matrices);
}

void multiply_accumulate(
    Element element, float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
    Place place) {
  MultiplyArguments arguments{element, d, a, {b0, b1}};
  sync_warp("mma", kFullMask, &arguments, combine_multiply, place);
}

}  // namespace np::emulation
