// The AMX kernel of snip_accumulate_ over software tiles, for tests that load it with ctypes. Built
// with NEUROPATCH_EMULATE_AMX beside csrc/cpu/snip_kernels_amx.cpp.

#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#include "../cpu/snip_accumulation.h"
#include "amx.h"

namespace {

using namespace neuropatch::cpu;

// Each worker in a thread of its own; the first exception comes out.
template <typename Worker>
void in_threads(int64_t workers, const Worker& worker) {
  std::vector<std::exception_ptr> errors(workers);
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < workers; ++i) {
    threads.emplace_back([&worker, &errors, i] {
      try {
        worker(i);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (const std::exception_ptr& error : errors) {
    if (error) {
      std::rethrow_exception(error);
    }
  }
}

// Runs a function; returns what it threw as text of at most `size` bytes, or nothing.
template <typename Function>
void guarded(char* error, size_t size, const Function& function) {
  error[0] = '\0';
  try {
    function();
  } catch (const std::exception& exception) {
    std::strncpy(error, exception.what(), size - 1);
    error[size - 1] = '\0';
  }
}

}  // namespace

// A matrix of tokens as PyTorch describes it; strides count elements.
struct Matrix {
  const void* data;
  int64_t tokens, columns, token_stride, column_stride;
};

extern "C" void emulated_snip_accumulate(
    float* score, const Matrix* grad, const Matrix* input, bool bfloat16, const int64_t* offsets,
    int64_t samples, int64_t threads, char* error, size_t error_size) {
  const ElementType type = bfloat16 ? ElementType::kBFloat16 : ElementType::kFloat32;
  const auto matrix = [type](const Matrix& m) {
    return TokenMatrix{m.data, type, 0, m.tokens, m.columns, m.token_stride, m.column_stride};
  };
  guarded(error, error_size, [&] {
    SnipAccumulation(
        kTileSnipKernel, score, matrix(*grad), matrix(*input),
        std::vector<int64_t>(offsets, offsets + samples + 1), threads)
        .run([](int64_t workers, const auto& worker) { in_threads(workers, worker); });
  });
}

// One TDPBF16PS of tiles 0, 1 and 2 as `config` (64 bytes) lays them out, with dense rows in memory.
extern "C" void emulated_dot_product(
    const void* config, float* sums, const void* left, const void* right, char* error,
    size_t error_size) {
  guarded(error, error_size, [&] {
    _tile_loadconfig(config);
    const auto stride = [](int tile) {
      return neuropatch::emulation::tile_state().tiles[tile].column_bytes;
    };
    _tile_loadd(0, sums, stride(0));
    _tile_loadd(1, left, stride(1));
    _tile_loadd(2, right, stride(2));
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, sums, stride(0));
    _tile_release();
  });
}
