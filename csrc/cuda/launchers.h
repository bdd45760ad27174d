// The CUDA kernels as their bindings call them: raw device pointers and a stream, without headers of
// torch or CUDA. Every launcher returns 0 or an error code of the CUDA runtime.

#pragma once

#include <cstdint>
#include <vector>

namespace neuropatch::cuda {

enum class ElementType { kFloat32, kBFloat16, kFloat16 };

constexpr int64_t element_bytes(ElementType type) {
  return type == ElementType::kFloat32 ? 4 : 2;
}

// Rows of matrices that kernels read start at multiples of this many bytes, since asynchronous copies
// move that many.
inline constexpr int64_t kRowAlignment = 16;

// A row-major matrix; `pitch` counts elements between rows.
struct TokenMatrix {
  const void* data;
  int64_t columns;
  int64_t pitch;
};

// Consecutive tokens of one sample, as many as a kernel loads at once.
struct TokenChunk {
  int32_t first;
  int16_t tokens;
  int16_t last;  // whether the sample ends with it
};

// The chunks of all samples in their order; empty samples have none.
std::vector<TokenChunk> token_chunks(const std::vector<int64_t>& offsets, ElementType type);

// From this many tiles of 128 x 128 on a score is worked on in such tiles, which read G and X least
// often; smaller ones keep more multiprocessors busy (an A100 has 108 of them, an H100 132).
inline constexpr int64_t kEnoughTiles = 128;

// score[out, in] += sum over samples of |G_b^T X_b|, float32. Every element is summed in the order of
// the tokens of a sample and then of the samples, whatever the device.
int launch_snip_accumulate(
    float* score, TokenMatrix grad, TokenMatrix input, ElementType type, const TokenChunk* chunks,
    int32_t count, void* stream, int64_t enough_tiles = kEnoughTiles);

// Places in a matrix: rows[count] and columns[count], which the caller has checked.
struct Places {
  const int32_t* rows;
  const int32_t* columns;
  int64_t count;
};

// score[c] += the element (rows[c], columns[c]) of that sum, with the bits it has there.
int launch_snip_accumulate_at(
    float* score, TokenMatrix grad, TokenMatrix input, ElementType type, const TokenChunk* chunks,
    int32_t count, Places places, void* stream);

// Factors of tokens; none where data is null.
struct TokenWeights {
  const float* data;
  int64_t stride;
};

// norms[samples, columns] = the norm of each column over the tokens offsets[b] to offsets[b + 1],
// raised as neuropatch/kernels/norms.py says. Without weights, same bits as on the CPU.
int launch_column_norms(
    float* norms, TokenMatrix values, ElementType type, TokenWeights weights,
    const int64_t* offsets, int64_t samples, void* stream);

// A matrix [tokens, units] or [tokens, columns] with any strides, counted in elements.
struct StridedMatrix {
  void* data;
  int64_t row_stride;
  int64_t column_stride;
};

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

struct MaskedUnits {
  StridedMatrix preactivation;
  StridedMatrix up;  // without data where the MLP is not gated
  const float* mask;
  int64_t tokens;
  int64_t units;
  ElementType type;
  Activation activation;
};

// hidden[tokens, units] = act(preactivation) * up * mask, contiguous, rounded once.
int launch_masked_units(void* hidden, const MaskedUnits& arguments, void* stream);

// Floats of scratch that the backward pass takes.
int64_t masked_units_scratch(int64_t tokens, int64_t units);

// Turns preactivation and up into their gradients and writes that of the mask, [units], summed in an
// order that depends on the shape alone.
int launch_masked_units_backward(
    float* grad_mask, float* scratch, const MaskedUnits& arguments, StridedMatrix grad,
    void* stream);

// Changes of single weights, ordered by row; edits of one row are summed in their order.
struct Edits {
  const int32_t* rows;
  const int32_t* columns;
  const float* delta;
  int64_t count;
};

// result[tokens, out] += input D^T for the matrix D of the edits; both matrices begin at the first
// token to change. Places outside of the matrix and rows that descend stop the kernel with an error.
int launch_add_sparse_linear(
    StridedMatrix result, int64_t out, StridedMatrix input, int64_t in, int64_t tokens, Edits edits,
    ElementType type, void* stream);

// |weight| * score / divisor of a matrix, and which of its elements are wanted: the k largest above
// `floor`, of equal ones those with the lowest flat indices, row * columns + column.
struct TopProducts {
  StridedMatrix weight;
  ElementType type;
  StridedMatrix score;  // float32
  int64_t rows;
  int64_t columns;  // rows * columns < 2**32
  float divisor;
  float floor;
  int64_t k;
};

// Bytes of scratch that the search takes.
int64_t top_products_scratch();

// Writes one positive number for each wanted element to order[k], in no particular order; larger ones
// come first in the result. What is not needed of order stays as it is: zeros, for the next step.
int launch_find_top_products(
    const TopProducts& arguments, void* scratch, int64_t* order, void* stream);

// Values and flat indices of order[k], 0 and -1 for a zero.
int launch_list_top_products(
    const TopProducts& arguments, const int64_t* order, float* values, int64_t* indices,
    void* stream);

// What the kernels were built for, such as "sm_80/sm_90/compute_90".
const char* targets();

// The CUDA runtime's words for an error code.
const char* error_text(int code);

}  // namespace neuropatch::cuda
