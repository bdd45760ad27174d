// score += sum over samples b of |G_b^T X_b|: a GEMM whose inner dimension, the tokens, is cut where
// samples end.
//
// A block of threads owns one tile of the score for all samples of the batch. Each thread holds two
// register tiles, the product of the current sample and the sum of magnitudes so far, so the score is
// read and written once a batch, and the sum costs one FADD (with its free |.|) per element and sample.
// Tiles of G and X travel through a ring of buffers in shared memory, filled by asynchronous copies
// that zero-fill what lies past the end of a sample or of a row. Nothing is added atomically: the order
// of summation is fixed.

#pragma once

#include "elements.cuh"

namespace neuropatch::cuda {

// The columns of both tiles are those of the score tile: rows of it for G, columns for X.
template <typename Element, int kRows_, int kColumns_, int kTokens_, int kPadding_>
struct SnipTile {
  static constexpr int kRows = kRows_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kTokens = kTokens_;      // of a chunk
  static constexpr int kThreads = kRows * kColumns / 64;
  static constexpr int kStages = 4;             // chunks in flight or in use
  static constexpr int kVector = 16 / sizeof(Element);  // elements of one asynchronous copy
  static constexpr int kGradPitch = kRows + kPadding_;
  static constexpr int kInputPitch = kColumns + kPadding_;
  static constexpr int kInputStart = kTokens * kGradPitch;
  static constexpr int kStageElements = kTokens * (kGradPitch + kInputPitch);
  static constexpr int kSharedBytes = kStages * kStageElements * sizeof(Element);
};

// 16-bit elements: a chunk is two steps of the tensor cores. ldmatrix reads eight rows of 16 bytes at
// once; with eight elements of padding they start in different groups of four banks.
template <typename Element, int kRows>
using TensorTile = SnipTile<Element, kRows, 128, 32, 8>;

// float32: threads read runs of four along a row, which need no padding.
template <int kRows>
using FloatTile = SnipTile<float, kRows, 128, 16, 0>;

inline constexpr int kTensorTokens = TensorTile<__half, 64>::kTokens;
inline constexpr int kFloatTokens = FloatTile<64>::kTokens;

// Blocks in flight share what they read of G and X in the L2 cache when they form a compact patch of
// tiles: tiles are counted down columns of this many rows.
inline constexpr int kRasterRows = 8;

struct SnipArguments {
  float* score;
  TokenMatrix grad;
  TokenMatrix input;
  const TokenChunk* chunks;
  int32_t count;
};

struct TileOrigin {
  int64_t row;
  int64_t column;
};

template <typename Tile>
__device__ __forceinline__ TileOrigin tile_origin(int64_t rows, int64_t columns) {
  const int64_t row_tiles = (rows + Tile::kRows - 1) / Tile::kRows;
  const int64_t column_tiles = (columns + Tile::kColumns - 1) / Tile::kColumns;
  const int64_t strip = blockIdx.x / (kRasterRows * column_tiles);
  const int64_t within = blockIdx.x - strip * kRasterRows * column_tiles;
  const int64_t left = row_tiles - strip * kRasterRows;
  const int64_t height = left < kRasterRows ? left : kRasterRows;
  return {
      (strip * kRasterRows + within % height) * Tile::kRows, within / height * Tile::kColumns};
}

// What one thread copies of each chunk: the same 16 bytes of every kStride-th token.
template <typename Tile, typename Element, int kColumns, int kPitch>
struct ChunkCopy {
  static constexpr int kPerRow = kColumns / Tile::kVector;
  static constexpr int kStride = Tile::kThreads / kPerRow;
  static_assert(Tile::kThreads % kPerRow == 0 && Tile::kTokens % kStride == 0);

  const Element* source;
  int64_t pitch;
  unsigned bytes;  // valid ones among the 16, fewer at the end of a row
  int row;
  int target;

  __device__ __forceinline__ ChunkCopy(const TokenMatrix& matrix, int64_t first_column) {
    const int column = static_cast<int>(threadIdx.x) % kPerRow * Tile::kVector;
    const int64_t left = matrix.columns - first_column - column;
    const int valid = left < 0 ? 0 : left < Tile::kVector ? static_cast<int>(left) : Tile::kVector;
    // With nothing to read the address must still be one inside the matrix.
    source = static_cast<const Element*>(matrix.data) + (valid > 0 ? first_column + column : 0);
    pitch = matrix.pitch;
    bytes = static_cast<unsigned>(valid * sizeof(Element));
    row = static_cast<int>(threadIdx.x) / kPerRow;
    target = row * kPitch + column;
  }

  __device__ __forceinline__ void start(Element* stage, const TokenChunk& chunk) const {
#pragma unroll
    for (int i = 0; i < Tile::kTokens; i += kStride) {
      const bool valid = row + i < chunk.tokens;
      const Element* from = source + (chunk.first + (valid ? row + i : 0)) * pitch;
      np::cp_async_zfill<16>(stage + target + i * kPitch, from, valid ? bytes : 0);
    }
  }
};

// The products of one warp on the tensor cores: 64 x 32 elements of the tile, as 4 x 4 results of
// mma.m16n8k16.
template <typename Element, typename Tile>
struct TensorProduct {
  static constexpr int kWarpRows = 64;
  static constexpr int kWarpColumns = 32;
  static constexpr int kStep = 16;  // tokens of one instruction
  static_assert(Tile::kTokens % kStep == 0);
  static_assert(
      Tile::kGradPitch * sizeof(Element) / 16 % 2 == 1 &&
          Tile::kInputPitch * sizeof(Element) / 16 % 2 == 1,
      "the eight rows that ldmatrix reads must lie in different banks");

  float values[4][4][4];
  int grad_start;
  int input_start;
  int first_row;
  int first_column;

  __device__ __forceinline__ TensorProduct() {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    constexpr int kWarps = Tile::kColumns / kWarpColumns;
    const int row = warp / kWarps * kWarpRows;
    const int column = warp % kWarps * kWarpColumns;
    // Tokens run down the rows of both tiles in shared memory, so both operands are read transposed.
    // Lane l gives the address of row l % 8 of matrix l / 8 of four: for G, two tokens halves of two
    // row halves, rows first; for X, two column halves of two token halves, tokens first.
    grad_start = (lane % 8 + lane / 16 * 8) * Tile::kGradPitch + row + lane / 8 % 2 * 8;
    input_start = Tile::kInputStart + (lane % 8 + lane / 8 % 2 * 8) * Tile::kInputPitch + column +
        lane / 16 * 8;
    first_row = row + lane / 4;
    first_column = column + lane % 4 * 2;
  }

  // Where values[i][j][k] is in the tile.
  __device__ __forceinline__ int row(int i, int, int k) const {
    return first_row + i * 16 + k / 2 * 8;
  }
  __device__ __forceinline__ int column(int, int j, int k) const {
    return first_column + j * 8 + k % 2;
  }

  __device__ __forceinline__ void add(const Element* stage, int tokens) {
#pragma unroll
    for (int token = 0; token < Tile::kTokens; token += kStep) {
      if (token < tokens) {
        uint32_t grad[4][4];
        uint32_t input[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          np::ldmatrix_x4_trans(
              grad[i], stage + grad_start + token * Tile::kGradPitch + i * 16);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          np::ldmatrix_x4_trans(
              input[j], stage + input_start + token * Tile::kInputPitch + j * 16);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            np::mma_m16n8k16<Element>(
                values[i][j], grad[i], input[j / 2][j % 2 * 2], input[j / 2][j % 2 * 2 + 1]);
          }
        }
      }
    }
  }
};

// The products of one thread in float32: 8 x 8 elements, as 2 x 2 squares of four, so that the lanes of
// a warp read shared memory in runs of 16 bytes without conflicts.
template <typename Tile>
struct FloatProduct {
  static constexpr int kWarpRows = 32;
  static constexpr int kWarpColumns = 64;

  float values[4][4][4];  // [2 * row square + column square][row][column]
  int first_row;
  int first_column;

  __device__ __forceinline__ FloatProduct() {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    constexpr int kWarps = Tile::kColumns / kWarpColumns;
    first_row = warp / kWarps * kWarpRows + lane / 8 * 4;
    first_column = warp % kWarps * kWarpColumns + lane % 8 * 4;
  }

  __device__ __forceinline__ int row(int i, int j, int) const {
    return first_row + i / 2 * (kWarpRows / 2) + j;
  }
  __device__ __forceinline__ int column(int i, int, int k) const {
    return first_column + i % 2 * (kWarpColumns / 2) + k;
  }

  __device__ __forceinline__ void add(const float* stage, int tokens) {
    constexpr int kUnroll = 4;  // tokens past the end are zeros
    for (int token = 0; token < tokens; token += kUnroll) {
#pragma unroll
      for (int t = 0; t < kUnroll; ++t) {
        add_token(stage, token + t);
      }
    }
  }

  __device__ __forceinline__ void add_token(const float* stage, int token) {
    const float* grad = stage + token * Tile::kGradPitch + first_row;
    const float* input = stage + Tile::kInputStart + token * Tile::kInputPitch + first_column;
    float4 g[2];
    float4 x[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      g[i] = np::load_vector<float4>(grad + i * (kWarpRows / 2));
      x[i] = np::load_vector<float4>(input + i * (kWarpColumns / 2));
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float rows[4] = {g[i / 2].x, g[i / 2].y, g[i / 2].z, g[i / 2].w};
      const float columns[4] = {x[i % 2].x, x[i % 2].y, x[i % 2].z, x[i % 2].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          values[i][j][k] = fmaf(rows[j], columns[k], values[i][j][k]);
        }
      }
    }
  }
};

__device__ __forceinline__ void clear(float (&values)[4][4][4]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    values[i / 16][i / 4 % 4][i % 4] = 0.0f;
  }
}

__device__ __forceinline__ void add_magnitudes(
    float (&sums)[4][4][4], const float (&values)[4][4][4]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    sums[i / 16][i / 4 % 4][i % 4] += fabsf(values[i / 16][i / 4 % 4][i % 4]);
  }
}

// score += sums, inside the score only.
template <typename Product>
__device__ __forceinline__ void add_to_score(
    const SnipArguments& arguments, const TileOrigin& origin, const Product& product,
    const float (&sums)[4][4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int64_t row = origin.row + product.row(i, j, k);
        const int64_t column = origin.column + product.column(i, j, k);
        if (row < arguments.grad.columns && column < arguments.input.columns) {
          arguments.score[row * arguments.input.columns + column] += sums[i][j][k];
        }
      }
    }
  }
}

template <typename Element, typename Tile, typename Product>
__global__ void __launch_bounds__(Tile::kThreads, 256 / Tile::kThreads)
    snip_accumulate_kernel(SnipArguments arguments) {
  NP_DYNAMIC_SHARED(Element, shared);
  const TileOrigin origin = tile_origin<Tile>(arguments.grad.columns, arguments.input.columns);
  const ChunkCopy<Tile, Element, Tile::kRows, Tile::kGradPitch> grad(arguments.grad, origin.row);
  const ChunkCopy<Tile, Element, Tile::kColumns, Tile::kInputPitch> input(
      arguments.input, origin.column);
  const auto chunk_at = [&](int index) {
    return index < arguments.count ? arguments.chunks[index] : TokenChunk{};
  };
  // One group of copies a chunk, empty past the last one, so that waiting counts chunks.
  const auto start = [&](int index, const TokenChunk& chunk) {
    if (index < arguments.count) {
      Element* stage = shared + index % Tile::kStages * Tile::kStageElements;
      grad.start(stage, chunk);
      input.start(stage + Tile::kInputStart, chunk);
    }
    np::cp_async_commit();
  };

  for (int index = 0; index < Tile::kStages - 1; ++index) {
    start(index, chunk_at(index));
  }
  // Read one turn before it is needed, so that no turn waits for it.
  TokenChunk ahead = chunk_at(Tile::kStages - 1);
  Product product;
  float sums[4][4][4] = {};
  clear(product.values);
  for (int index = 0; index < arguments.count; ++index) {
    const TokenChunk chunk = arguments.chunks[index];
    np::cp_async_wait<Tile::kStages - 2>();
    // Every thread's copies of this chunk have landed, and no thread reads the previous chunk any
    // more, whose buffer the next copies fill.
    __syncthreads();
    start(index + Tile::kStages - 1, ahead);
    ahead = chunk_at(index + Tile::kStages);
    product.add(shared + index % Tile::kStages * Tile::kStageElements, chunk.tokens);
    if (chunk.last) {
      add_magnitudes(sums, product.values);
      clear(product.values);
    }
  }
  add_to_score(arguments, origin, product, sums);
}

}  // namespace neuropatch::cuda
