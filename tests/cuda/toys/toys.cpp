// The launchers of the toys, by name.

#include "bindings.h"
#include "matrices.cuh"
#include "sums.cuh"
#include "tiles.cuh"

namespace {

template <toy::SumDefect kDefect>
void tile_sum(float* out, const float* in, int blocks) {
  np::launch(toy::tile_sum<kDefect>, dim3(blocks), dim3(128), 0, nullptr, out, in);
}
NP_BIND("tile_sum", tile_sum<toy::SumDefect::kNone>);
NP_BIND("tile_sum without a barrier", tile_sum<toy::SumDefect::kNoBarrier>);
NP_BIND("tile_sum with an early exit", tile_sum<toy::SumDefect::kEarlyExit>);
NP_BIND("tile_sum with a divergent barrier", tile_sum<toy::SumDefect::kDivergentBarrier>);
NP_BIND("tile_sum out of bounds", tile_sum<toy::SumDefect::kOutOfBounds>);

template <toy::WarpDefect kDefect>
void warp_sum(float* out, const float* in, int blocks) {
  np::launch(toy::warp_sum<kDefect>, dim3(blocks), dim3(64), 0, nullptr, out, in);
}
NP_BIND("warp_sum", warp_sum<toy::WarpDefect::kNone>);
NP_BIND("warp_sum with lanes that left", warp_sum<toy::WarpDefect::kLanesLeft>);
NP_BIND("warp_sum with a wrong mask", warp_sum<toy::WarpDefect::kWrongMask>);
NP_BIND("warp_sum from outside the mask", warp_sum<toy::WarpDefect::kOutsideMask>);
NP_BIND("warp_sum with a missing lane", warp_sum<toy::WarpDefect::kMissingLane>);
NP_BIND("warp_sum at two places", warp_sum<toy::WarpDefect::kTwoPlaces>);

template <auto kKernel>
void rotate_warp(float* out, const float* in, int threads) {
  np::launch(kKernel, dim3(1), dim3(threads), threads * sizeof(float), nullptr, out, in);
}
NP_BIND("rotate_warp", rotate_warp<toy::rotate_warp<true>>);
NP_BIND("rotate_warp without a barrier", rotate_warp<toy::rotate_warp<false>>);
NP_BIND("rotate_warp by luck", rotate_warp<toy::rotate_warp_by_luck>);

template <toy::TotalDefect kDefect>
void total(float* out, const float* in, int blocks, int threads) {
  np::launch(toy::total<kDefect>, dim3(blocks), dim3(threads), 0, nullptr, out, in);
}
NP_BIND("total", total<toy::TotalDefect::kNone>);
NP_BIND("total with racing threads", total<toy::TotalDefect::kThreadsRace>);
NP_BIND("total beyond its input", total<toy::TotalDefect::kOutOfBounds>);
NP_BIND("total with racing blocks", total<toy::TotalDefect::kBlocksRace>);

NP_BIND("shuffles", +[](int* out, const int* in) {
  np::launch(toy::shuffles, dim3(1), dim3(32), 0, nullptr, out, in);
});
NP_BIND("votes", +[](unsigned* out) {
  np::launch(toy::votes, dim3(1), dim3(32), 0, nullptr, out);
});
NP_BIND("atomics", +[](int* out, const int* in) {
  np::launch(toy::atomics, dim3(1), dim3(64), 0, nullptr, out, in);
});
NP_BIND("untouched", +[](float* from_static, float* from_dynamic) {
  np::launch(toy::untouched, dim3(2), dim3(32), 32, nullptr, from_static, from_dynamic);
});
NP_BIND("order", +[](int* out) {
  int next[3] = {};
  np::launch(toy::order, dim3(3), dim3(4), 0, nullptr, out, next);
});
NP_BIND("indices", +[](int* seen) {
  np::launch(toy::indices, dim3(2, 2, 3), dim3(5, 2, 2), 0, nullptr, seen);
});

template <toy::TransposeDefect kDefect>
void transpose(float* out, const float* in, int rows, int columns) {
  np::launch(
      toy::transpose<kDefect>, dim3((columns + 31) / 32, (rows + 31) / 32), dim3(32, 8),
      32 * 33 * sizeof(float), nullptr, out, in, rows, columns);
}
NP_BIND("transpose", transpose<toy::TransposeDefect::kNone>);
NP_BIND("transpose without a barrier", transpose<toy::TransposeDefect::kNoBarrier>);
NP_BIND("transpose out of bounds", transpose<toy::TransposeDefect::kOutOfBounds>);

template <toy::PipelineDefect kDefect>
void pipeline(float* out, const float* in, int count) {
  np::launch(toy::pipeline<kDefect>, dim3(1), dim3(128), 0, nullptr, out, in, count);
}
NP_BIND("pipeline", pipeline<toy::PipelineDefect::kNone>);
NP_BIND("pipeline without a wait", pipeline<toy::PipelineDefect::kNoWait>);
NP_BIND("pipeline that waits too little", pipeline<toy::PipelineDefect::kWaitTooLittle>);
NP_BIND("pipeline without a barrier after", pipeline<toy::PipelineDefect::kNoBarrierAfterWait>);
NP_BIND("pipeline without a barrier before", pipeline<toy::PipelineDefect::kNoBarrierBeforeRefill>);
NP_BIND("pipeline misaligned", pipeline<toy::PipelineDefect::kMisaligned>);
NP_BIND("pipeline never waited for", pipeline<toy::PipelineDefect::kNeverWaited>);

template <typename T, toy::ProductDefect kDefect>
void product(float* c, const T* a, const T* b, int m, int n, int k) {
  const std::size_t bytes = (2 * 32 * 72 + 2 * 128 * 40) * sizeof(T);
  np::launch(
      toy::product<T, kDefect>, dim3(n / 64, m / 128), dim3(256), bytes, nullptr, c, a, b, n, k);
}
NP_BIND("product bfloat16", product<__nv_bfloat16, toy::ProductDefect::kNone>);
NP_BIND("product float16", product<__half, toy::ProductDefect::kNone>);
NP_BIND("product misaligned", product<__half, toy::ProductDefect::kMisaligned>);

template <int kMatrices, bool kTransposed>
void load(std::uint32_t* registers, const std::uint16_t* matrices) {
  np::launch(
      toy::load<kMatrices, kTransposed>, dim3(1), dim3(32), 128 * kMatrices, nullptr, registers,
      matrices);
}
NP_BIND("ldmatrix_x2", load<2, false>);
NP_BIND("ldmatrix_x2_trans", load<2, true>);
NP_BIND("ldmatrix_x4", load<4, false>);
NP_BIND("ldmatrix_x4_trans", load<4, true>);

template <typename T>
void multiply(float* d, const std::uint32_t* a, const std::uint32_t* b) {
  np::launch(toy::multiply<T>, dim3(1), dim3(32), 0, nullptr, d, a, b);
}
NP_BIND("mma bfloat16", multiply<__nv_bfloat16>);
NP_BIND("mma float16", multiply<__half>);
NP_BIND("mma tf32", multiply<float>);
// What launchers take, and launches that do nothing.
enum class Choice : std::int16_t { kFirst = 1 };
NP_BIND("scalars", +[](double* out, float a, double b, std::int64_t c, bool d, Choice e,
                       cudaStream_t stream, std::uint8_t f, const void* optional) {
  const double values[] = {
      a, b, double(c % 1000), double(d), double(e), double(f), double(stream == nullptr),
      double(optional == nullptr)};
  std::copy(std::begin(values), std::end(values), out);
});
NP_BIND("launch", +[](int grid_x, int grid_y, int block_x, int block_y, int block_z, int shared) {
  np::launch(
      +[]() {}, dim3(grid_x, grid_y), dim3(block_x, block_y, block_z), shared, nullptr);
});

NP_BIND("to_tf32", +[](void* out, const float* in, int count) {
  np::launch(
      toy::round_to_tf32, dim3(1), dim3(count), 0, nullptr, static_cast<std::uint32_t*>(out), in);
});

}  // namespace
