// Matrix instructions of a warp: fragments are laid out as the Parallel Thread Execution ISA says.

#pragma once

#include <cstdint>
#include <cstring>

#include "runtime.h"

namespace np::emulation {

// PTX ISA, "Warp-level matrix load instruction: ldmatrix". Lane 8 m + r gives the address of row r
// of matrix m, eight 16-bit elements; in a x2 (x1) load the addresses of the lanes from 16 (8) on
// are not used. Register m of lane l receives elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of
// matrix m; when transposed, elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
void exchange_matrices(
    std::uint32_t* registers, int matrices, bool transposed, const std::uint16_t (&row)[8],
    Place place);

template <int kMatrices>
void load_matrices(
    std::uint32_t (&registers)[kMatrices], bool transposed, const void* row, Place place) {
  std::uint16_t elements[8] = {};
  if (lane() < 8 * kMatrices) {
    check_aligned(row, 16, "ldmatrix from", place);
    // Read here, where a sanitizer sees it, and before the other lanes have come: ldmatrix does not
    // order accesses to memory.
    std::memcpy(elements, row, sizeof elements);
  }
  exchange_matrices(registers, kMatrices, transposed, elements, place);
}

enum class Element { kBFloat16, kFloat16, kTensorFloat32 };

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "... mma.m16n8k8". With
// g = lane / 4 and t = lane % 4, two 16-bit elements a register, the lower half first:
//   m16n8k16: a0 = A[g][2t..2t+1], a1 = A[g+8][2t..], a2 = A[g][2t+8..], a3 = A[g+8][2t+8..];
//             b0 = B[2t..2t+1][g], b1 = B[2t+8..2t+9][g];
//   m16n8k8 (tf32): a0 = A[g][t], a1 = A[g+8][t], a2 = A[g][t+4], a3 = A[g+8][t+4];
//             b0 = B[t][g], b1 = B[t+4][g];
//   both:     d0 = D[g][2t], d1 = D[g][2t+1], d2 = D[g+8][2t], d3 = D[g+8][2t+1].
// D += A B in float32; the order of the sum is by ascending k.
void multiply_accumulate(
    Element element, float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
    Place place);

}  // namespace np::emulation
