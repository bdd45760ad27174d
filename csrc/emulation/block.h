// The threads of one block, and the scheduler that runs them.
//
// A thread runs until it has to wait or ends; then it picks the next one that can run and goes
// there itself. When none can run, control returns to run(), which sees whether all have ended or
// some wait for threads that will never come.

#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fiber.h"
#include "runtime.h"

namespace np::emulation {

// The asynchronous copies of a thread.
class CopyQueue {
 public:
  void clear() {
    copies_.clear();
    ends_.clear();
    done_ = 0;
  }
  bool empty() const { return done_ == copies_.size(); }
  void push(const AsyncCopy& copy) { copies_.push_back(copy); }
  void commit() { ends_.push_back(copies_.size()); }
  bool take(unsigned pending, AsyncCopy& copy);

 private:
  std::vector<AsyncCopy> copies_;  // the first done_ of them are done
  std::vector<std::size_t> ends_;  // of the committed groups, in copies_
  std::size_t done_ = 0;
};

enum class State { kNew, kRunning, kInBlock, kInWarp, kEnded };

struct Thread {
  Thread(unsigned number, dim3 shape, void (*body)());

  Fiber fiber;
  const unsigned number;
  const unsigned lane;
  const uint3 index;
  State state = State::kNew;
  // Where a thread waits, for what, and with whom.
  const char* operation = nullptr;
  unsigned mask = 0;
  Place place = {};
  CopyQueue copies;
};

// What stands for a barrier towards ThreadSanitizer. Two addresses take turns, because a thread may
// reach the next barrier before another one has run on from this one.
struct BarrierSync {
  char addresses[2];
  unsigned turn = 0;

  void* address() { return &addresses[turn % 2]; }
  void* next_address() { return &addresses[(turn + 1) % 2]; }
};

struct Warp {
  unsigned waiting = 0;  // the lanes in sync_warp
  void* arguments[warpSize];
  std::map<unsigned, BarrierSync> barriers;  // of __syncwarp, by mask
};

class Block {
 public:
  Block(dim3 shape, const std::function<void()>& kernel, Order order, std::mt19937_64& random);

  // The one that runs, and its thread that runs.
  static Block* active;
  static Thread* thread;

  // Runs the kernel in all threads; throws the first error, after which no more may be run.
  void run(uint3 index);

  // These are called by the running thread.
  void sync_block(Place place);
  void sync_warp(
      const char* operation, unsigned mask, void* arguments, Combine combine, Place place);
  void sync_warp_memory(unsigned mask, Place place);
  [[noreturn]] static void fail(Place place, const std::string& what);

 private:
  static void run_active_thread();
  void run_thread();
  void wait(State state, const char* operation, unsigned mask, Place place);
  void suspend();
  void go_on(Fiber& from);
  void resume(Thread& next, Fiber& from);
  void abandon();
  void release_lanes(unsigned warp, unsigned mask);
  template <typename Function>
  void for_lanes(unsigned mask, Function function) const;
  bool all_have_the_mask() const;
  void check_same_call() const;
  void check_same_place() const;
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
  BarrierSync barrier_;
  BarrierSync end_of_block_;
};

// What stands for the end of a launch towards ThreadSanitizer.
extern char end_of_launch;

// "(x,y,z)".
std::string text(uint3 index);

}  // namespace np::emulation
