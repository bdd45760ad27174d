// Launches the kernels of snip_accumulate.cuh.

#include "snip_accumulate.cuh"

#include <algorithm>

namespace neuropatch::cuda {

namespace {

int64_t tiles(int64_t rows, int64_t columns, int64_t tile_rows, int64_t tile_columns) {
  return (rows + tile_rows - 1) / tile_rows * ((columns + tile_columns - 1) / tile_columns);
}

template <typename Element, typename Tile, typename Product>
int launch(const SnipArguments& arguments, void* stream) {
  const int64_t blocks =
      tiles(arguments.grad.columns, arguments.input.columns, Tile::kRows, Tile::kColumns);
  return np::launch(
      snip_accumulate_kernel<Element, Tile, Product>, static_cast<unsigned>(blocks),
      Tile::kThreads, Tile::kSharedBytes, static_cast<cudaStream_t>(stream), arguments);
}

template <typename Element, int kRows>
int launch_type(const SnipArguments& arguments, void* stream) {
  if constexpr (sizeof(Element) == 4) {
    using Tile = FloatTile<kRows>;
    return launch<Element, Tile, FloatProduct<Tile>>(arguments, stream);
  } else {
    using Tile = TensorTile<Element, kRows>;
    return launch<Element, Tile, TensorProduct<Element, Tile>>(arguments, stream);
  }
}

template <typename Element>
int launch_size(const SnipArguments& arguments, int64_t enough_tiles, void* stream) {
  return tiles(arguments.grad.columns, arguments.input.columns, 128, 128) >= enough_tiles
      ? launch_type<Element, 128>(arguments, stream)
      : launch_type<Element, 64>(arguments, stream);
}

}  // namespace

int launch_snip_accumulate(
    float* score, TokenMatrix grad, TokenMatrix input, ElementType type, const TokenChunk* chunks,
    int32_t count, void* stream, int64_t enough_tiles) {
  const SnipArguments arguments{score, grad, input, chunks, count};
  return with_element(type, [&](auto element) {
    return launch_size<decltype(element)>(arguments, enough_tiles, stream);
  });
}

std::vector<TokenChunk> token_chunks(const std::vector<int64_t>& offsets, ElementType type) {
  const int64_t size = type == ElementType::kFloat32 ? kFloatTokens : kTensorTokens;
  std::vector<TokenChunk> chunks;
  for (size_t b = 1; b < offsets.size(); ++b) {
    for (int64_t first = offsets[b - 1]; first < offsets[b]; first += size) {
      const int64_t tokens = std::min(size, offsets[b] - first);
      chunks.push_back(
          {static_cast<int32_t>(first), static_cast<int16_t>(tokens),
           static_cast<int16_t>(first + tokens == offsets[b])});
    }
  }
  return chunks;
}

}  // namespace neuropatch::cuda
