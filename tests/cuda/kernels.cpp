// The launchers of csrc/cuda by name, for tests: matrices as pointers, shapes and strides.

#include <stdexcept>

#include "bindings.h"
#include "launchers.h"

using namespace neuropatch::cuda;

namespace {

void check(int code) {
  if (code != 0) throw std::runtime_error("the launch failed");
}

std::vector<TokenChunk> chunks_of(const int64_t* offsets, int64_t samples, int type) {
  return token_chunks({offsets, offsets + samples + 1}, static_cast<ElementType>(type));
}

void accumulate(
    float* score, const void* grad, int64_t out, int64_t grad_pitch, const void* input, int64_t in,
    int64_t input_pitch, int type, const int64_t* offsets, int64_t samples, int64_t enough_tiles) {
  const auto chunks = chunks_of(offsets, samples, type);
  check(launch_snip_accumulate(
      score, {grad, out, grad_pitch}, {input, in, input_pitch}, static_cast<ElementType>(type),
      chunks.data(), static_cast<int32_t>(chunks.size()), nullptr, enough_tiles));
}
NP_BIND("snip_accumulate", accumulate);

void accumulate_at(
    float* score, const void* grad, int64_t out, int64_t grad_pitch, const void* input, int64_t in,
    int64_t input_pitch, int type, const int64_t* offsets, int64_t samples, const int32_t* rows,
    const int32_t* columns, int64_t count) {
  const auto chunks = chunks_of(offsets, samples, type);
  check(launch_snip_accumulate_at(
      score, {grad, out, grad_pitch}, {input, in, input_pitch}, static_cast<ElementType>(type),
      chunks.data(), static_cast<int32_t>(chunks.size()), {rows, columns, count}, nullptr));
}
NP_BIND("snip_accumulate_at", accumulate_at);

void column_norms(
    float* norms, const void* values, int64_t columns, int64_t pitch, int type,
    const float* weights, int64_t stride, const int64_t* offsets, int64_t samples) {
  check(launch_column_norms(
      norms, {values, columns, pitch}, static_cast<ElementType>(type), {weights, stride}, offsets,
      samples, nullptr));
}
NP_BIND("column_norms", column_norms);

TopProducts top_products(
    const void* weight, int64_t weight_row, int64_t weight_column, int type, const float* score,
    int64_t score_row, int64_t score_column, int64_t rows, int64_t columns, float divisor,
    float floor, int64_t k) {
  return {{const_cast<void*>(weight), weight_row, weight_column},
          static_cast<ElementType>(type),
          {const_cast<float*>(score), score_row, score_column},
          rows, columns, divisor, floor, k};
}

void find_top(
    int64_t* order, const void* weight, int64_t weight_row, int64_t weight_column, int type,
    const float* score, int64_t score_row, int64_t score_column, int64_t rows, int64_t columns,
    float divisor, float floor, int64_t k) {
  std::vector<char> scratch(top_products_scratch());
  check(launch_find_top_products(
      top_products(weight, weight_row, weight_column, type, score, score_row, score_column, rows,
                   columns, divisor, floor, k),
      scratch.data(), order, nullptr));
}
NP_BIND("find_top_products", find_top);

void list_top(
    float* values, int64_t* indices, const int64_t* order, const void* weight, int64_t weight_row,
    int64_t weight_column, int type, const float* score, int64_t score_row, int64_t score_column,
    int64_t rows, int64_t columns, float divisor, float floor, int64_t k) {
  check(launch_list_top_products(
      top_products(weight, weight_row, weight_column, type, score, score_row, score_column, rows,
                   columns, divisor, floor, k),
      order, values, indices, nullptr));
}
NP_BIND("list_top_products", list_top);

MaskedUnits masked(
    void* preactivation, int64_t z_row, int64_t z_column, void* up, int64_t up_row,
    int64_t up_column, const float* mask, int64_t tokens, int64_t units, int type,
    int activation) {
  return {{preactivation, z_row, z_column}, {up, up_row, up_column}, mask, tokens, units,
          static_cast<ElementType>(type), static_cast<Activation>(activation)};
}

void units(
    void* hidden, const void* preactivation, int64_t z_row, int64_t z_column, const void* up,
    int64_t up_row, int64_t up_column, const float* mask, int64_t tokens, int64_t units, int type,
    int activation) {
  check(launch_masked_units(
      hidden,
      masked(const_cast<void*>(preactivation), z_row, z_column, const_cast<void*>(up), up_row,
             up_column, mask, tokens, units, type, activation),
      nullptr));
}
NP_BIND("masked_units", units);

void units_backward(
    float* grad_mask, void* preactivation, int64_t z_row, int64_t z_column, void* up,
    int64_t up_row, int64_t up_column, const void* grad, int64_t grad_row, int64_t grad_column,
    const float* mask, int64_t tokens, int64_t units, int type, int activation) {
  std::vector<float> scratch(masked_units_scratch(tokens, units));
  check(launch_masked_units_backward(
      grad_mask, scratch.data(),
      masked(preactivation, z_row, z_column, up, up_row, up_column, mask, tokens, units, type,
             activation),
      {const_cast<void*>(grad), grad_row, grad_column}, nullptr));
}
NP_BIND("masked_units_backward", units_backward);

void sparse_linear(
    void* result, int64_t out, int64_t result_row, int64_t result_column, const void* input,
    int64_t in, int64_t input_row, int64_t input_column, int64_t tokens, const int32_t* rows,
    const int32_t* columns, const float* delta, int64_t count, int type) {
  check(launch_add_sparse_linear(
      {result, result_row, result_column}, out,
      {const_cast<void*>(input), input_row, input_column}, in, tokens,
      {rows, columns, delta, count}, static_cast<ElementType>(type), nullptr));
}
NP_BIND("add_sparse_linear", sparse_linear);

}  // namespace
