// CUDA's execution model on one CPU core: what the kernels' side of the emulation needs.
//
// The threads of a block are fibers that a scheduler runs one at a time; a thread runs until it has
// to wait for others (a barrier, a shuffle, a matrix instruction) or ends. The order in which
// waiting threads go on, and the order of blocks, can be chosen, so that a result that depends on
// luck changes. The scheduler is strict: what CUDA leaves undefined is an Error that names the
// place.
//
// Not modelled: the rounding inside tensor cores, bank conflicts, memory ordering between blocks,
// inline PTX, and instructions of later architectures such as wgmma and TMA.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>

#include <vector_types.h>

// What CUDA predefines. The scheduler sets them whenever it goes from one thread to another.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace np::emulation {

// A mistake of a kernel or of its launch; thrown by launch().
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where a kernel calls something. As a default argument, here() is the place of that call.
struct Place {
  const char* file;
  int line;

  static constexpr Place here(
      const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

enum class Order { kAscending, kDescending, kShuffled };

// Of the launches to come. The seed counts for shuffled orders only.
struct Options {
  Order threads = Order::kAscending;
  Order blocks = Order::kAscending;
  std::uint64_t seed = 0;
};
Options& options();

// Runs the kernel for every block and thread; one launch at a time in the whole process.
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel);

// Ends the kernel with an Error at this place that names the calling thread.
[[noreturn]] void fail(Place place, const char* what);

// Fails unless the pointer is a multiple of `alignment` bytes.
void check_aligned(const void* pointer, std::size_t alignment, const char* operation, Place place);

// The dynamic shared memory of the block, all bytes 0xFF (a NaN in every floating-point type) when
// the block starts.
void* dynamic_shared();

// The position of the calling thread in its warp.
unsigned lane();

// Waits for all threads of the block, all of which have to wait at this place.
void sync_block(Place place);

// Waits until all lanes of the mask have called the same operation with this mask from this place.
// The last one calls `combine`, which sees the arguments of each lane of the mask.
using Combine = void (*)(void* const (&arguments)[warpSize], unsigned mask, Place place);
void sync_warp(
    const char* operation, unsigned mask, void* arguments, Combine combine, Place place);

// The same for __syncwarp, which also orders the lanes' accesses to memory.
void sync_warp_memory(unsigned mask, Place place);

// __threadfence: orders memory against the fences of other threads.
void fence();

// A copy that cp.async has announced; of `bytes`, those from `source_bytes` on become zero.
struct AsyncCopy {
  void* destination;
  const void* source;
  unsigned bytes;
  unsigned source_bytes;
};
void announce_copy(const AsyncCopy& copy);
void commit_copies();
// Takes the oldest copy of the calling thread that is due when `pending` groups may stay open.
bool take_due_copy(unsigned pending, AsyncCopy& copy);

}  // namespace np::emulation
