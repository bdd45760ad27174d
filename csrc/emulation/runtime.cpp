// Compiled without sanitizers, as block.cpp is.

#include "runtime.h"

#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "block.h"

namespace np::emulation {
namespace {

// Limits of sm_90.
constexpr unsigned kMaxThreads = 1024;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;

#ifdef NP_EMULATION_TSAN
// Blocks are dealt to several groups, which run one after another. Each has its own operating
// system thread, thus its own __shared__ variables, and its own fibers, and nothing orders its
// accesses to memory before another group's: races between blocks of different groups are seen. All
// groups live until the launch ends, because ThreadSanitizer forgets what a fiber has done when it
// is gone.
constexpr unsigned kGroups = 4;
#else
constexpr unsigned kGroups = 1;
#endif

// __shared__ variables are thread-local (see cuda.h), and the library that holds the kernels has no
// other thread-local variable but this.
thread_local volatile char shared_marker;

struct Memory {
  void* start = nullptr;
  std::size_t bytes = 0;
};

// The library's thread-local memory in the calling operating system thread.
Memory static_shared() {
  Memory memory;
  shared_marker = 0;  // the loader allocates the memory at the first access
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        char* start = static_cast<char*>(info->dlpi_tls_data);
        const auto marker = const_cast<char*>(&shared_marker);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const std::size_t bytes = info->dlpi_phdr[i].p_memsz;
          if (info->dlpi_phdr[i].p_type == PT_TLS && start <= marker && marker < start + bytes) {
            *static_cast<Memory*>(result) = {start, bytes};
          }
        }
        return 0;
      },
      &memory);
  return memory;
}

void* dynamic_memory = nullptr;

// The shared memory of the blocks that run on this operating system thread.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes) : static_(static_shared()), dynamic_{nullptr, bytes} {
    if (posix_memalign(&dynamic_.start, 128, bytes + kGuardBytes)) throw std::bad_alloc();
    dynamic_memory = dynamic_.start;
  }
  ~SharedMemory() { free(dynamic_.start); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void fill() const {
    std::memset(static_.start, 0xFF, static_.bytes);
    std::memset(dynamic_.start, 0xFF, dynamic_.bytes + kGuardBytes);
  }

  void check(uint3 block) const {
    const auto* guard = static_cast<const unsigned char*>(dynamic_.start) + dynamic_.bytes;
    if (std::any_of(guard, guard + kGuardBytes, [](unsigned char byte) { return byte != 0xFF; })) {
      throw Error(
          "the end of the " + std::to_string(dynamic_.bytes) +
          " bytes of dynamic shared memory was written beyond, in block " + text(block));
    }
  }

 private:
#ifdef NP_EMULATION_ASAN
  // AddressSanitizer sees the first byte that is beyond the end.
  static constexpr std::size_t kGuardBytes = 0;
#else
  static constexpr std::size_t kGuardBytes = 1024;
#endif

  Memory static_;
  Memory dynamic_;
};

void check_launch(dim3 grid, dim3 block, std::size_t shared_bytes) {
  const auto check = [](dim3 size, dim3 most, unsigned threads, const char* name) {
    std::ostringstream what;
    what << "the " << name << " of a launch has " << size.x << " x " << size.y << " x " << size.z;
    if (!size.x || !size.y || !size.z) throw Error(what.str());
    if (size.x > most.x || size.y > most.y || size.z > most.z || threads > kMaxThreads) {
      throw Error(what.str() + ", which is too many");
    }
  };
  check(grid, {2147483647, 65535, 65535}, 0, "grid");
  check(block, {kMaxThreads, kMaxThreads, 64}, block.x * block.y * block.z, "block");
  if (shared_bytes > kMaxSharedBytes) {
    throw Error(
        "a launch asks for " + std::to_string(shared_bytes) +
        " bytes of shared memory, and a block can have " + std::to_string(kMaxSharedBytes));
  }
}

std::vector<uint3> blocks_in_order(dim3 grid, std::mt19937_64& random) {
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
    }
  }
  if (options().blocks == Order::kDescending) std::reverse(blocks.begin(), blocks.end());
  if (options().blocks == Order::kShuffled) std::shuffle(blocks.begin(), blocks.end(), random);
  return blocks;
}

// Blocks that run on the same threads, one after another.
struct Group {
  std::vector<uint3> blocks;
  std::unique_ptr<Block> threads;
};

void run_group(
    Group& group, std::size_t shared_bytes, const std::function<void()>& kernel,
    std::mt19937_64& random) {
  const UnwatchedMemory unwatched;
  const SharedMemory shared(shared_bytes);
  group.threads = std::make_unique<Block>(blockDim, kernel, options().threads, random);
  for (const uint3 block : group.blocks) {
    shared.fill();
    group.threads->run(block);
    shared.check(block);
  }
}

}  // namespace

Options& options() {
  static Options options;
  return options;
}

void launch(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  check_launch(grid, block, shared_bytes);
  gridDim = grid;
  blockDim = block;
  std::mt19937_64 random(options().seed);
  Group groups[kGroups];
  for (const uint3 block : blocks_in_order(grid, random)) {
    // Neighbours in any direction are in different groups.
    groups[(block.x + block.y + block.z) % kGroups].blocks.push_back(block);
  }
  std::exception_ptr error;
  for (Group& group : groups) {
    if (group.blocks.empty() || error) continue;
    const auto run = [&] {
      try {
        run_group(group, shared_bytes, kernel, random);
      } catch (...) {
        error = std::current_exception();
      }
    };
    if constexpr (kGroups == 1) {
      run();
    } else {
      std::thread(run).join();
    }
  }
  acquire_memory(&end_of_launch);
  const UnwatchedMemory unwatched;
  for (Group& group : groups) group.threads.reset();
  if (error) std::rethrow_exception(error);
}

void fail(Place place, const char* what) { Block::fail(place, what); }

void check_aligned(const void* pointer, std::size_t alignment, const char* operation, Place place) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0) return;
  std::ostringstream what;
  what << operation << " the address " << pointer << ", which is not a multiple of " << alignment;
  Block::fail(place, what.str());
}

void* dynamic_shared() { return dynamic_memory; }

unsigned lane() { return Block::thread->lane; }

// The memory of the scheduler is its own business: ThreadSanitizer intercepts the functions with
// which standard containers allocate and move it, wherever they are called from.

void sync_block(Place place) {
  const UnwatchedMemory unwatched;
  Block::active->sync_block(place);
}

void sync_warp(
    const char* operation, unsigned mask, void* arguments, Combine combine, Place place) {
  const UnwatchedMemory unwatched;
  Block::active->sync_warp(operation, mask, arguments, combine, place);
}

void sync_warp_memory(unsigned mask, Place place) {
  const UnwatchedMemory unwatched;
  Block::active->sync_warp_memory(mask, place);
}

void fence() {
  static char sync;
  release_memory(&sync);
  acquire_memory(&sync);
}

void announce_copy(const AsyncCopy& copy) {
  const UnwatchedMemory unwatched;
  Block::thread->copies.push(copy);
}

void commit_copies() {
  const UnwatchedMemory unwatched;
  Block::thread->copies.commit();
}

bool take_due_copy(unsigned pending, AsyncCopy& copy) {
  const UnwatchedMemory unwatched;
  return Block::thread->copies.take(pending, copy);
}

}  // namespace np::emulation
