// Compiled without sanitizers, so that the scheduler's own reads and writes are not taken for the
// kernel's.

#include "block.h"

#include <cstring>
#include <sstream>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace np::emulation {
namespace {

// Thrown through a thread that waits when another one has failed, so that its destructors run.
struct Abandoned {};

std::string text(Place place) { return std::string(place.file) + ':' + std::to_string(place.line); }

std::string mask_text(unsigned mask) {
  std::ostringstream out;
  out << "the mask 0x" << std::hex << mask;
  return out.str();
}

std::string lanes_text(unsigned mask) {
  std::string list;
  for (; mask; mask &= mask - 1) {
    list += (list.empty() ? "" : ", ") + std::to_string(__builtin_ctz(mask));
  }
  return list;
}

bool same(Place a, Place b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

}  // namespace

char end_of_launch;

std::string text(uint3 index) {
  std::ostringstream out;
  out << '(' << index.x << ',' << index.y << ',' << index.z << ')';
  return out.str();
}

bool CopyQueue::take(unsigned pending, AsyncCopy& copy) {
  if (ends_.size() <= pending) return false;
  if (done_ < ends_[ends_.size() - pending - 1]) {
    copy = copies_[done_++];
    return true;
  }
  // All that is due is done: it is forgotten.
  ends_.erase(ends_.begin(), std::upper_bound(ends_.begin(), ends_.end(), done_));
  copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(done_));
  for (auto& end : ends_) end -= done_;
  done_ = 0;
  return false;
}

Thread::Thread(unsigned number, dim3 shape, void (*body)())
    : fiber(body),
      number(number),
      lane(number % warpSize),
      index{number % shape.x, number / shape.x % shape.y, number / shape.x / shape.y} {}

Block* Block::active = nullptr;
Thread* Block::thread = nullptr;

Block::Block(
    dim3 shape, const std::function<void()>& kernel, Order order, std::mt19937_64& random)
    : kernel_(kernel), order_(order), random_(random) {
  const unsigned size = shape.x * shape.y * shape.z;
  for (unsigned i = 0; i < size; ++i) {
    threads_.push_back(std::make_unique<Thread>(i, shape, run_active_thread));
    all_.push_back(i);
  }
  warps_.resize((size + warpSize - 1) / warpSize);
  if (order_ == Order::kAscending) std::reverse(all_.begin(), all_.end());
}

void Block::run(uint3 index) {
  active = this;
  blockIdx = index;
  arrived_ = ended_ = 0;
  ++end_of_block_.turn;
  for (auto& thread : threads_) {
    thread->state = State::kNew;
    thread->copies.clear();
  }
  ready_ = all_;
  go_on(host_);
  if (!error_ && ended_ < threads_.size()) error_ = std::make_exception_ptr(Error(stuck()));
  if (error_) {
    abandon();
    std::rethrow_exception(error_);
  }
}

// The body of every fiber, once for each block.
void Block::run_active_thread() { active->run_thread(); }

void Block::run_thread() {
  Thread& self = *thread;
  acquire_memory(end_of_block_.address());
  try {
    kernel_();
    if (!self.copies.empty()) {
      throw Error(
          "a thread ends with asynchronous copies that it has not waited for: thread " +
          text(self.index) + " of block " + text(blockIdx));
    }
  } catch (const Abandoned&) {
  } catch (...) {
    if (!error_) error_ = std::current_exception();
  }
  release_memory(end_of_block_.next_address());
  release_memory(&end_of_launch);
  self.state = State::kEnded;
  ++ended_;
  if (error_) ready_.clear();
  go_on(self.fiber);
}

void Block::sync_block(Place place) {
  wait(State::kInBlock, "__syncthreads", 0, place);
  void* sync = barrier_.address();
  release_memory(sync);
  if (++arrived_ == threads_.size()) {
    check_same_place();
    arrived_ = 0;
    ++barrier_.turn;
    ready_ = all_;
  }
  suspend();
  acquire_memory(sync);
}

void Block::sync_warp(
    const char* operation, unsigned mask, void* arguments, Combine combine, Place place) {
  Warp& warp = warps_[thread->number / warpSize];
  if (!(mask >> thread->lane & 1)) {
    fail(place, std::string(operation) + " with " + mask_text(mask) +
                    ", which does not name the calling lane " + std::to_string(thread->lane));
  }
  wait(State::kInWarp, operation, mask, place);
  warp.arguments[thread->lane] = arguments;
  warp.waiting |= 1u << thread->lane;
  if ((warp.waiting & mask) == mask && all_have_the_mask()) {
    check_same_call();
    if (combine) combine(warp.arguments, mask, place);
    warp.waiting &= ~mask;
    release_lanes(thread->number / warpSize, mask);
  }
  suspend();
}

void Block::sync_warp_memory(unsigned mask, Place place) {
  BarrierSync& barrier = warps_[thread->number / warpSize].barriers[mask];
  void* sync = barrier.address();
  release_memory(sync);
  const unsigned turn = barrier.turn;
  sync_warp("__syncwarp", mask, nullptr, nullptr, place);
  // Every lane sets the same value; none can reach the next barrier's end before all have.
  barrier.turn = turn + 1;
  acquire_memory(sync);
}

void Block::fail(Place place, const std::string& what) {
  throw Error(
      text(place) + ": " + what + "; thread " + text(thread->index) + " of block " +
      text(blockIdx));
}

void Block::wait(State state, const char* operation, unsigned mask, Place place) {
  thread->state = state;
  thread->operation = operation;
  thread->mask = mask;
  thread->place = place;
}

// Lets others run until the thread's wait has ended and its turn comes.
void Block::suspend() {
  go_on(thread->fiber);
  if (error_) throw Abandoned();
}

// Goes to the next thread that can run, or to run() where there is none.
void Block::go_on(Fiber& from) {
  if (ready_.empty()) {
    if (&from != &host_) Fiber::go(from, host_);
    return;
  }
  if (order_ == Order::kShuffled) std::swap(ready_[random_() % ready_.size()], ready_.back());
  Thread& next = *threads_[ready_.back()];
  ready_.pop_back();
  resume(next, from);
}

void Block::resume(Thread& next, Fiber& from) {
  thread = &next;
  threadIdx = next.index;
  next.state = State::kRunning;
  if (&next.fiber != &from) Fiber::go(from, next.fiber);
}

// Unwinds the stacks of the threads that wait.
void Block::abandon() {
  for (auto& waiting : threads_) {
    if (waiting->state != State::kNew && waiting->state != State::kEnded) resume(*waiting, host_);
  }
}

// The last one in the stack runs first: a warp goes on as far as it can before another one does.
void Block::release_lanes(unsigned warp, unsigned mask) {
  for (unsigned i = 0; i < warpSize; ++i) {
    const unsigned lane = order_ == Order::kAscending ? warpSize - 1 - i : i;
    if (mask >> lane & 1) ready_.push_back(warp * warpSize + lane);
  }
}

// For the threads of the running one's warp that the mask names.
template <typename Function>
void Block::for_lanes(unsigned mask, Function function) const {
  const unsigned first = thread->number - thread->lane;
  for (; mask; mask &= mask - 1) function(*threads_[first + __builtin_ctz(mask)]);
}

bool Block::all_have_the_mask() const {
  bool all = true;
  for_lanes(thread->mask, [&](const Thread& other) { all &= other.mask == thread->mask; });
  return all;
}

void Block::check_same_call() const {
  for_lanes(thread->mask, [](const Thread& other) {
    if (other.operation != thread->operation || !same(other.place, thread->place)) {
      fail(thread->place, std::string("divergent warp: ") + thread->operation + " here, " +
                              other.operation + " at " + text(other.place) + " in thread " +
                              text(other.index));
    }
  });
}

void Block::check_same_place() const {
  for (auto& other : threads_) {
    if (!same(other->place, thread->place)) {
      fail(thread->place, "divergent barrier: __syncthreads here, and at " + text(other->place) +
                              " in thread " + text(other->index));
    }
  }
}

// Who waits where, when no thread can run and not all have ended.
std::string Block::stuck() const {
  const Thread* first_waiting = nullptr;
  std::vector<bool> told(threads_.size());
  std::string story;
  for (auto& one : threads_) {
    if (told[one->number]) continue;
    const bool ended = one->state == State::kEnded;
    unsigned alike = 0;
    for (auto& other : threads_) {
      if (other->state == one->state &&
          (ended || (other->mask == one->mask && same(other->place, one->place)))) {
        told[other->number] = true;
        ++alike;
      }
    }
    story += "; " + std::to_string(alike) + " of " + std::to_string(threads_.size()) +
             " threads, the first is " + text(one->index) + ", ";
    if (ended) {
      story += "have ended";
      continue;
    }
    if (!first_waiting) first_waiting = one.get();
    story += std::string("are in ") + one->operation + " at " + text(one->place);
    if (one->state == State::kInWarp) {
      const unsigned missing = one->mask & ~warps_[one->number / warpSize].waiting;
      story += " with " + mask_text(one->mask);
      if (missing) story += ", whose lanes " + lanes_text(missing) + " do not come";
    }
  }
  return text(first_waiting->place) + ": " + first_waiting->operation +
         " waits for threads that do not come, in block " + text(blockIdx) + story;
}

}  // namespace np::emulation
