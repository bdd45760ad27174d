// The scheduler. This file is compiled without sanitizers, also where the kernels have them, so that
// its own reads and writes of the threads' data are not taken for the kernels'.

#include "runtime.h"

#include <link.h>

#include <algorithm>
#include <cstring>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace np::emulation {
namespace {

char launch_sync;  // what stands for the end of a launch towards ThreadSanitizer
void* dynamic_memory = nullptr;

// Limits of sm_90.
constexpr unsigned kMaxThreads = 1024;
constexpr std::size_t kMaxSharedBytes = 227 * 1024;

enum class State { kNew, kRunning, kInBlock, kInWarp, kEnded };

// Thrown through a thread that waits when another one has failed, so that its destructors run.
struct Abandoned {};

// The asynchronous copies of a thread.
class CopyQueue {
 public:
  CopyQueue() {
    copies_.reserve(kKept);
    ends_.reserve(kKept);
  }
  void clear() {
    copies_.clear();
    ends_.clear();
    done_ = 0;
  }
  bool empty() const { return done_ == copies_.size(); }
  void push(const AsyncCopy& copy) {
    copies_.push_back(copy);
  }
  void commit() {
    ends_.push_back(copies_.size());
  }
  // Takes the oldest copy that is due when `pending` groups may stay open.
  bool take(unsigned pending, AsyncCopy& copy) {
    const std::size_t due = ends_.size() > pending ? ends_[ends_.size() - pending - 1] : 0;
    if (done_ < due) {
      copy = copies_[done_++];
      return true;
    }
    if (ends_.size() > pending) forget_done();
    return false;
  }

 private:
  static constexpr std::size_t kKept = 64;

  void forget_done() {
    ends_.erase(ends_.begin(), std::upper_bound(ends_.begin(), ends_.end(), done_));
    copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(done_));
    for (auto& end : ends_) end -= done_;
    done_ = 0;
  }

  std::vector<AsyncCopy> copies_;  // the first done_ of them are done
  std::vector<std::size_t> ends_;  // of the committed groups, in copies_
  std::size_t done_ = 0;
};

void run_thread();

struct Thread {
  Fiber fiber{run_thread};
  uint3 index;
  unsigned number;
  State state;
  // Where a thread waits, and for what.
  const char* operation;
  Place place;
  unsigned mask;
  CopyQueue copies;
};

// What stands for a barrier towards ThreadSanitizer. Two addresses take turns, because a thread may
// reach the next barrier before another one has run on from this one.
struct BarrierSync {
  char addresses[2];
  unsigned turn = 0;
};

struct Warp {
  unsigned waiting;  // the lanes in sync_warp
  void* arguments[warpSize];
  std::map<unsigned, BarrierSync> sync;  // of __syncwarp, by mask
};

std::string text(uint3 index) {
  std::ostringstream out;
  out << '(' << index.x << ',' << index.y << ',' << index.z << ')';
  return out.str();
}

std::string text(Place place) {
  return std::string(place.file) + ':' + std::to_string(place.line);
}

std::string mask_text(unsigned mask) {
  std::ostringstream out;
  out << "the mask 0x" << std::hex << mask;
  return out.str();
}

bool same(Place a, Place b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// The lanes of a mask as a list, "3, 5, 7".
std::string lanes_text(unsigned mask) {
  std::string list;
  for (unsigned lane = 0; lane < warpSize; ++lane) {
    if (mask >> lane & 1) list += (list.empty() ? "" : ", ") + std::to_string(lane);
  }
  return list;
}

// __shared__ variables are thread-local (see cuda.h), and this library has no other ones but this.
thread_local char shared_marker;

// Their memory: the thread-local block of this library.
struct StaticShared {
  void* start = nullptr;
  std::size_t bytes = 0;

  StaticShared() {
    // The loader allocates the block at the first access.
    static_cast<volatile char&>(shared_marker) = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* self) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            auto* start = static_cast<char*>(info->dlpi_tls_data);
            if (header.p_type == PT_TLS && start <= &shared_marker &&
                &shared_marker < start + header.p_memsz) {
              *static_cast<StaticShared*>(self) = StaticShared(start, header.p_memsz);
            }
          }
          return 0;
        },
        this);
  }
  StaticShared(void* start, std::size_t bytes) : start(start), bytes(bytes) {}
};

class Block;
Block* block = nullptr;     // the one that runs
Thread* current = nullptr;  // the thread of it that runs

// Runs one block after another on the same fibers.
class Block {
 public:
  Block(dim3 shape, const std::function<void()>& kernel, Order order, std::mt19937_64& random)
      : kernel_(kernel), order_(order), random_(random), warps_((size(shape) + 31) / 32) {
    for (unsigned i = 0; i < size(shape); ++i) {
      threads_.push_back(std::make_unique<Thread>());
      threads_[i]->number = i;
      threads_[i]->index = {i % shape.x, i / shape.x % shape.y, i / shape.x / shape.y};
      all_.push_back(i);
    }
    if (order_ == Order::kAscending) std::reverse(all_.begin(), all_.end());
  }

  static unsigned size(dim3 shape) { return shape.x * shape.y * shape.z; }

  // Runs the kernel in all threads; returns the first error.
  std::exception_ptr run() {
    block = this;
    arrived_ = ended_ = 0;
    for (auto& warp : warps_) warp.waiting = 0;
    for (auto& thread : threads_) {
      thread->state = State::kNew;
      thread->copies.clear();
    }
    ready_ = all_;
    go_on(host_);
    if (!error_ && ended_ < threads_.size()) {
      error_ = std::make_exception_ptr(Error(stuck()));
    }
    if (error_) abandon();
    return error_;
  }

  // The body of a thread's fiber, once for each block.
  void run_thread() {
    Thread& thread = *current;
    try {
      kernel_();
      if (!thread.copies.empty()) {
        throw Error(
            "a thread ends with asynchronous copies that it has not waited for: " + who());
      }
    } catch (const Abandoned&) {
    } catch (...) {
      if (!error_) error_ = std::current_exception();
    }
    release_memory(&launch_sync);
    thread.state = State::kEnded;
    ++ended_;
    if (error_) ready_.clear();
    go_on(thread.fiber);
  }

  void sync_block(Place place) {
    Thread& thread = *current;
    wait(State::kInBlock, "__syncthreads", 0, place);
    void* sync = &sync_.addresses[sync_.turn % 2];
    release_memory(sync);
    if (++arrived_ == threads_.size()) {
      check_same_place(place);
      arrived_ = 0;
      ++sync_.turn;
      ready_ = all_;
    }
    suspend(thread);
    acquire_memory(sync);
  }

  void sync_warp(
      const char* operation, unsigned mask, void* arguments, Combine combine, Place place) {
    Thread& thread = *current;
    Warp& warp = warps_[thread.number / warpSize];
    const unsigned lane = thread.number % warpSize;
    if (!(mask >> lane & 1)) {
      fail(place, std::string(operation) + " with " + mask_text(mask) +
                      ", which does not name the calling lane " + std::to_string(lane));
    }
    wait(State::kInWarp, operation, mask, place);
    warp.arguments[lane] = arguments;
    warp.waiting |= 1u << lane;
    if ((warp.waiting & mask) == mask && all_have_mask(thread)) {
      check_same_call(thread);
      if (combine) combine(warp.arguments, mask, place);
      warp.waiting &= ~mask;
      release_lanes(thread.number / warpSize * warpSize, mask);
    }
    suspend(thread);
  }

  void sync_warp_memory(unsigned mask, Place place) {
    BarrierSync& barrier = warps_[current->number / warpSize].sync[mask];
    void* sync = &barrier.addresses[barrier.turn % 2];
    release_memory(sync);
    // The first lane to go on passes the turn to the next barrier.
    const unsigned turn = barrier.turn;
    sync_warp("__syncwarp", mask, nullptr, nullptr, place);
    barrier.turn = turn + 1;
    acquire_memory(sync);
  }

  [[noreturn]] static void fail(Place place, const std::string& what) {
    throw Error(text(place) + ": " + what + "; " + who());
  }

 private:
  static std::string who() {
    return "thread " + text(current->index) + " of block " + text(blockIdx);
  }

  static void wait(State state, const char* operation, unsigned mask, Place place) {
    current->state = state;
    current->operation = operation;
    current->mask = mask;
    current->place = place;
  }

  // Lets others run until the turn of the thread comes after its wait has ended.
  void suspend(Thread& thread) {
    go_on(thread.fiber);
    if (error_) throw Abandoned();
  }

  // Goes to the next thread that can run, or to the host where there is none.
  void go_on(Fiber& from) {
    if (ready_.empty()) {
      if (&from != &host_) Fiber::go(from, host_);
      return;
    }
    if (order_ == Order::kShuffled) {
      std::swap(ready_[random_() % ready_.size()], ready_.back());
    }
    Thread& next = *threads_[ready_.back()];
    ready_.pop_back();
    resume(next, from);
  }

  void resume(Thread& next, Fiber& from) {
    current = &next;
    threadIdx = next.index;
    next.state = State::kRunning;
    if (&next.fiber != &from) Fiber::go(from, next.fiber);
  }

  // Unwinds the stacks of the threads that wait.
  void abandon() {
    for (auto& thread : threads_) {
      if (thread->state != State::kNew && thread->state != State::kEnded) resume(*thread, host_);
    }
  }

  template <typename Function>
  void for_lanes(unsigned warp, unsigned mask, Function function) const {
    for (; mask; mask &= mask - 1) function(*threads_[warp * warpSize + __builtin_ctz(mask)]);
  }

  bool all_have_mask(const Thread& thread) const {
    bool all = true;
    for_lanes(thread.number / warpSize, thread.mask, [&](const Thread& other) {
      all &= other.mask == thread.mask;
    });
    return all;
  }

  void check_same_call(const Thread& thread) const {
    for_lanes(thread.number / warpSize, thread.mask, [&](const Thread& other) {
      if (other.operation != thread.operation || !same(other.place, thread.place)) {
        fail(thread.place, std::string("divergent warp: ") + thread.operation + " here, " +
                               other.operation + " at " + text(other.place) + " in thread " +
                               text(other.index));
      }
    });
  }

  void check_same_place(Place place) const {
    for (auto& other : threads_) {
      if (!same(other->place, place)) {
        fail(place, "divergent barrier: __syncthreads here, and at " + text(other->place) +
                        " in thread " + text(other->index));
      }
    }
  }

  // The last one in the stack runs first.
  void release_lanes(unsigned first, unsigned mask) {
    for (unsigned i = 0; i < warpSize; ++i) {
      const unsigned lane = order_ == Order::kAscending ? warpSize - 1 - i : i;
      if (mask >> lane & 1) ready_.push_back(first + lane);
    }
  }

  // Who waits where, when no thread can run and not all have ended.
  std::string stuck() const;

  const std::function<void()>& kernel_;
  const Order order_;
  std::mt19937_64& random_;
  Fiber host_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::vector<unsigned> all_;    // the numbers of all threads, the first to run last
  std::vector<unsigned> ready_;  // a stack
  std::exception_ptr error_;
  std::size_t arrived_ = 0;
  std::size_t ended_ = 0;
  BarrierSync sync_;
};

std::string Block::stuck() const {
  const Thread* first_waiting = nullptr;
  std::vector<bool> told(threads_.size());
  std::string story;
  for (auto& thread : threads_) {
    if (told[thread->number]) continue;
    const bool ended = thread->state == State::kEnded;
    unsigned similar = 0;
    for (auto& other : threads_) {
      if (other->state == thread->state &&
          (ended || (other->mask == thread->mask && same(other->place, thread->place)))) {
        told[other->number] = true;
        ++similar;
      }
    }
    story += "; " + std::to_string(similar) + " of " + std::to_string(threads_.size()) +
             " threads, the first is " + text(thread->index) + ", ";
    if (ended) {
      story += "have ended";
      continue;
    }
    if (!first_waiting) first_waiting = thread.get();
    story += std::string("are in ") + thread->operation + " at " + text(thread->place);
    if (thread->state == State::kInWarp) {
      const unsigned missing = thread->mask & ~warps_[thread->number / warpSize].waiting;
      story += " with " + mask_text(thread->mask);
      if (missing) story += ", and the lanes " + lanes_text(missing) + " do not come";
    }
  }
  return text(first_waiting->place) + ": " + first_waiting->operation +
         " waits for threads that do not come, in block " + text(blockIdx) + story;
}

void run_thread() { block->run_thread(); }

void check_launch(dim3 grid, dim3 shape, std::size_t shared_bytes) {
  const auto fits = [](dim3 size, unsigned x, unsigned y, unsigned z) {
    return size.x >= 1 && size.y >= 1 && size.z >= 1 && size.x <= x && size.y <= y && size.z <= z;
  };
  if (!fits(grid, 2147483647u, 65535u, 65535u)) {
    throw Error("the grid of a launch is " + text({grid.x, grid.y, grid.z}));
  }
  if (!fits(shape, kMaxThreads, kMaxThreads, 64) || Block::size(shape) > kMaxThreads) {
    throw Error("the block of a launch is " + text({shape.x, shape.y, shape.z}));
  }
  if (shared_bytes > kMaxSharedBytes) {
    throw Error(
        "a launch asks for " + std::to_string(shared_bytes) +
        " bytes of shared memory; a block can have " + std::to_string(kMaxSharedBytes));
  }
}

// The shared memory of the block that is about to run on this operating system thread.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes) : bytes_(bytes) {
    // Exactly this many, so that AddressSanitizer sees the first byte behind them.
    if (posix_memalign(&dynamic_, 128, bytes)) throw std::bad_alloc();
    dynamic_memory = dynamic_;
    fill();
  }
  ~SharedMemory() {
    dynamic_memory = nullptr;
    free(dynamic_);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void fill() const {
    std::memset(dynamic_, 0xFF, bytes_);
    std::memset(static_.start, 0xFF, static_.bytes);
  }

 private:
  void* dynamic_ = nullptr;
  std::size_t bytes_;
  StaticShared static_;
};

std::vector<uint3> block_indices(dim3 grid, Order order, std::mt19937_64& random) {
  std::vector<uint3> indices;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) indices.push_back({x, y, z});
    }
  }
  if (order == Order::kDescending) std::reverse(indices.begin(), indices.end());
  if (order == Order::kShuffled) std::shuffle(indices.begin(), indices.end(), random);
  return indices;
}

}  // namespace

Options& options() {
  static Options options;
  return options;
}

void launch(dim3 grid, dim3 shape, std::size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  check_launch(grid, shape, shared_bytes);
  std::mt19937_64 random(options().seed);
  gridDim = grid;
  blockDim = shape;
  const auto indices = block_indices(grid, options().blocks, random);
#ifdef NP_EMULATION_TSAN
  // Every block gets a new operating system thread (with its own __shared__ variables) and new
  // fibers, which nothing orders after those of other blocks: races between blocks are seen too.
  for (const uint3 index : indices) {
    std::exception_ptr error;
    std::thread([&] {
      const UnwatchedMemory unwatched;
      blockIdx = index;
      const SharedMemory shared(shared_bytes);
      error = std::make_unique<Block>(shape, kernel, options().threads, random)->run();
    }).join();
    if (error) std::rethrow_exception(error);
  }
#else
  const SharedMemory shared(shared_bytes);
  Block threads(shape, kernel, options().threads, random);
  for (const uint3 index : indices) {
    blockIdx = index;
    shared.fill();
    if (const auto error = threads.run()) std::rethrow_exception(error);
  }
#endif
  acquire_memory(&launch_sync);
}

void fail(Place place, const char* what) { Block::fail(place, what); }

void check_aligned(const void* pointer, std::size_t alignment, const char* operation, Place place) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignment) {
    std::ostringstream what;
    what << operation << " of the address " << pointer << ", which is not a multiple of "
         << alignment;
    Block::fail(place, what.str());
  }
}

void* dynamic_shared() { return dynamic_memory; }

unsigned lane() { return current->number % warpSize; }

// The memory of the scheduler is its own business: standard containers move it about with functions
// that ThreadSanitizer intercepts.

void sync_block(Place place) {
  const UnwatchedMemory unwatched;
  block->sync_block(place);
}

void sync_warp(
    const char* operation, unsigned mask, void* arguments, Combine combine, Place place) {
  const UnwatchedMemory unwatched;
  block->sync_warp(operation, mask, arguments, combine, place);
}

void sync_warp_memory(unsigned mask, Place place) {
  const UnwatchedMemory unwatched;
  block->sync_warp_memory(mask, place);
}

void fence() {
  static char sync;
  release_memory(&sync);
  acquire_memory(&sync);
}

void announce_copy(const AsyncCopy& copy) {
  const UnwatchedMemory unwatched;
  current->copies.push(copy);
}

void commit_copies() {
  const UnwatchedMemory unwatched;
  current->copies.commit();
}

bool take_due_copy(unsigned pending, AsyncCopy& copy) {
  const UnwatchedMemory unwatched;
  return current->copies.take(pending, copy);
}

}  // namespace np::emulation
