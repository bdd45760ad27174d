// The tile instructions of AMX that the kernels use, in software, so that the same kernel source runs
// on a CPU without them. Names and arguments are those of the intrinsics in <immintrin.h>; semantics
// are those of the Intel 64 and IA-32 Software Developer's Manual, volume 2 (LDTILECFG, TILELOADD,
// TILESTORED, TILEZERO, TILERELEASE, TDPBF16PS), for palette 1: eight tiles of 16 rows of 64 bytes.
// What raises #GP or #UD there throws std::logic_error here.
//
// Not modelled: faults and restarts in the middle of a load or store, other palettes, timing.

#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace neuropatch::emulation {

constexpr int kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kRowBytes = 64;

// The 64 bytes that LDTILECFG reads.
struct TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t column_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

struct Tile {
  int rows = 0;
  int column_bytes = 0;
  alignas(64) std::array<std::array<uint8_t, kRowBytes>, kMaxRows> data{};

  uint32_t word(int row, int column) const {
    uint32_t value;
    std::memcpy(&value, data[row].data() + 4 * column, sizeof value);
    return value;
  }

  float real(int row, int column) const {
    const uint32_t bits = word(row, column);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  void set_real(int row, int column, float value) {
    std::memcpy(data[row].data() + 4 * column, &value, sizeof value);
  }
};

// The registers of one thread. Not configured, as after TILERELEASE, until LDTILECFG.
struct TileState {
  bool configured = false;
  std::array<Tile, kTiles> tiles{};
};

inline TileState& tile_state() {
  static thread_local TileState state;
  return state;
}

inline void require(bool condition, const char* fault, const std::string& why) {
  if (!condition) {
    throw std::logic_error(std::string(fault) + ": " + why);
  }
}

inline Tile& configured_tile(const char* instruction, int tile) {
  TileState& state = tile_state();
  require(state.configured, "#UD", std::string(instruction) + " before LDTILECFG");
  require(tile >= 0 && tile < kTiles, "#UD", std::string(instruction) + " of a tile past 7");
  Tile& chosen = state.tiles[tile];
  require(chosen.rows > 0, "#UD",
          std::string(instruction) + " of tile " + std::to_string(tile) + ", which has no rows");
  return chosen;
}

inline void load_config(const void* memory) {
  TileConfig config;
  std::memcpy(&config, memory, sizeof config);
  require(config.palette <= 1, "#GP", "LDTILECFG with a palette past 1");
  TileState state;
  state.configured = config.palette == 1;
  if (state.configured) {
    require(config.start_row == 0, "#GP", "LDTILECFG that resumes in the middle of a tile");
    for (const uint8_t byte : config.reserved) {
      require(byte == 0, "#GP", "LDTILECFG with a reserved byte set");
    }
    for (int t = 0; t < 16; ++t) {
      const int rows = config.rows[t], bytes = config.column_bytes[t];
      require(t < kTiles || (rows == 0 && bytes == 0), "#GP", "LDTILECFG of a tile past 7");
      require(rows <= kMaxRows && bytes <= kRowBytes, "#GP", "LDTILECFG of a tile over 16 x 64");
      require((rows == 0) == (bytes == 0), "#GP", "LDTILECFG of rows without columns");
      if (t < kTiles) {
        state.tiles[t].rows = rows;
        state.tiles[t].column_bytes = bytes;
      }
    }
  }
  tile_state() = state;
}

inline void load_tile(int tile, const void* memory, int64_t stride) {
  Tile& target = configured_tile("TILELOADD", tile);
  target.data = {};
  for (int r = 0; r < target.rows; ++r) {
    std::memcpy(target.data[r].data(), static_cast<const uint8_t*>(memory) + r * stride,
                target.column_bytes);
  }
}

inline void store_tile(int tile, void* memory, int64_t stride) {
  const Tile& source = configured_tile("TILESTORED", tile);
  for (int r = 0; r < source.rows; ++r) {
    std::memcpy(static_cast<uint8_t*>(memory) + r * stride, source.data[r].data(),
                source.column_bytes);
  }
}

// Denormals are zeros.
inline float daz(float value) {
  return std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value;
}

// a * b + c rounded to nearest even, with DAZ and FTZ.
inline float fma_flushed(float a, float b, float c) {
  a = daz(a);
  b = daz(b);
  c = daz(c);
  const float sum = std::fma(a, b, c);
  if (std::fabs(sum) == 0x1p-126f) {
    // Whether a result is tiny is decided after rounding to 24 bits with any exponent, but `sum` was
    // rounded to the coarser grid of subnormals: from 2^-126 - 2^-151 on, 24 bits give 2^-126.
    const double rest = std::fma(
        static_cast<double>(a), static_cast<double>(b),
        c - std::copysign(0x1p-126 - 0x1p-151, static_cast<double>(sum)));
    return (sum > 0 ? rest < 0 : rest > 0) ? std::copysign(0.0f, sum) : sum;
  }
  return daz(sum);
}

// The bfloat16 in one half of a word; the low half has index 0.
inline float half_of(uint32_t word, int half) {
  const uint32_t bits = half == 0 ? word << 16 : word & 0xffff0000u;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void dot_product_bf16(int sums, int left, int right) {
  Tile& c = configured_tile("TDPBF16PS", sums);
  const Tile& a = configured_tile("TDPBF16PS", left);
  const Tile& b = configured_tile("TDPBF16PS", right);
  require(sums != left && sums != right && left != right, "#UD", "TDPBF16PS of one tile twice");
  require(c.column_bytes % 4 == 0 && a.column_bytes % 4 == 0 && b.column_bytes % 4 == 0, "#UD",
          "TDPBF16PS of columns that are no words");
  require(c.rows == a.rows, "#UD", "TDPBF16PS: rows of the sums and the left factor differ");
  require(a.column_bytes / 4 == b.rows, "#UD", "TDPBF16PS: the factors do not fit");
  require(c.column_bytes == b.column_bytes, "#UD",
          "TDPBF16PS: columns of the sums and the right factor differ");
  for (int m = 0; m < c.rows; ++m) {
    for (int n = 0; n < c.column_bytes / 4; ++n) {
      float halves[2] = {0.0f, 0.0f};
      for (int k = 0; k < b.rows; ++k) {
        for (int half = 0; half < 2; ++half) {
          halves[half] =
              fma_flushed(half_of(a.word(m, k), half), half_of(b.word(k, n), half), halves[half]);
        }
      }
      const float both = fma_flushed(1.0f, halves[0], halves[1]);
      c.set_real(m, n, fma_flushed(1.0f, c.real(m, n), both));
    }
  }
}

}  // namespace neuropatch::emulation

inline void _tile_loadconfig(const void* config) {
  neuropatch::emulation::load_config(config);
}

inline void _tile_release() {
  neuropatch::emulation::tile_state() = {};
}

inline void _tile_zero(int tile) {
  neuropatch::emulation::configured_tile("TILEZERO", tile).data = {};
}

inline void _tile_loadd(int tile, const void* memory, int64_t stride) {
  neuropatch::emulation::load_tile(tile, memory, stride);
}

inline void _tile_stored(int tile, void* memory, int64_t stride) {
  neuropatch::emulation::store_tile(tile, memory, stride);
}

inline void _tile_dpbf16ps(int sums, int left, int right) {
  neuropatch::emulation::dot_product_bf16(sums, left, right);
}
