// Fibers: several stacks that one operating system thread runs in turn.
//
// NP_EMULATION_TSAN and NP_EMULATION_ASAN say that the program runs under that sanitizer, which
// then has to know about the switches.

#pragma once

#include <ucontext.h>

#include <cstddef>

namespace np::emulation {

class Fiber {
 public:
  // The stack that the calling operating system thread is running on.
  Fiber();
  // A stack that calls the function again and again; the function has to go elsewhere before it
  // returns.
  explicit Fiber(void (*body)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves the running fiber `from` until something goes back to it.
  static void go(Fiber& from, Fiber& to);

 private:
  static void enter();
  static void entered(Fiber* from);

  void (*body_)() = nullptr;
  bool started_ = true;
  void* stack_ = nullptr;
  std::size_t stack_bytes_ = 0;
  ucontext_t context_;   // of the first entry
  void* registers_[5];   // of every later one
  void* sanitizer_ = nullptr;  // what the sanitizer knows this fiber by
};

// For ThreadSanitizer: what was done before a release happens before what is done after an acquire
// of that address. Switching fibers orders nothing.
void release_memory(void* address);
void acquire_memory(void* address);

// For ThreadSanitizer: memory that is allocated or freed meanwhile is taken for unused.
class UnwatchedMemory {
 public:
  UnwatchedMemory();
  ~UnwatchedMemory();
  UnwatchedMemory(const UnwatchedMemory&) = delete;
  UnwatchedMemory& operator=(const UnwatchedMemory&) = delete;
};

}  // namespace np::emulation
