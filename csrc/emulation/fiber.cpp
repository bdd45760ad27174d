// Compiled without sanitizers, as runtime.cpp is.

#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <vector>

// Compilers ship the headers of these under different names.
extern "C" {
#ifdef NP_EMULATION_TSAN
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
#endif
#ifdef NP_EMULATION_ASAN
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, std::size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, std::size_t* size);
#endif
}

namespace np::emulation {
namespace {

// Memory is taken for the part that is used.
constexpr std::size_t kStackBytes = 256 * 1024;
#if defined(NP_EMULATION_TSAN) || defined(NP_EMULATION_ASAN)
// A stack that another fiber has used would look like a race, or like memory that must not be used.
constexpr std::size_t kKeptStacks = 0;
#else
constexpr std::size_t kKeptStacks = 1024;
#endif

std::vector<void*> kept_stacks;

// The lowest page is no memory: an overflow ends the program instead of harming a neighbour.
void* take_stack() {
  if (!kept_stacks.empty()) {
    void* stack = kept_stacks.back();
    kept_stacks.pop_back();
    return stack;
  }
  void* stack = mmap(
      nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
      -1, 0);
  if (stack == MAP_FAILED) throw std::bad_alloc();
  mprotect(stack, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), PROT_NONE);
  return stack;
}

void give_stack(void* stack) {
  if (kept_stacks.size() < kKeptStacks) {
    kept_stacks.push_back(stack);
  } else {
    munmap(stack, kStackBytes);
  }
}

Fiber* going_to = nullptr;
[[maybe_unused]] Fiber* coming_from = nullptr;

// A function that longjmps must not be the one that setjmps.
[[noreturn]] __attribute__((noinline)) void jump(void** registers) {
  __builtin_longjmp(registers, 1);
}

}  // namespace

Fiber::Fiber() {
#ifdef NP_EMULATION_TSAN
  sanitizer_ = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(void (*body)())
    : body_(body), started_(false), stack_(take_stack()), stack_bytes_(kStackBytes) {
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = stack_bytes_;
  context_.uc_link = nullptr;
  makecontext(&context_, enter, 0);
#ifdef NP_EMULATION_TSAN
  sanitizer_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
  if (!body_) return;
#ifdef NP_EMULATION_TSAN
  __tsan_destroy_fiber(sanitizer_);
#endif
  give_stack(stack_);
}

void Fiber::enter() {
  entered(going_to);
  const auto body = going_to->body_;
  for (;;) body();
}

// The first thing that a fiber does when it runs again.
void Fiber::entered([[maybe_unused]] Fiber* self) {
#ifdef NP_EMULATION_ASAN
  const void* bottom;
  std::size_t size;
  __sanitizer_finish_switch_fiber(self->sanitizer_, &bottom, &size);
  // The stack of an operating system thread is known only now.
  if (!coming_from->body_) {
    coming_from->stack_ = const_cast<void*>(bottom);
    coming_from->stack_bytes_ = size;
  }
#endif
}

__attribute__((noinline)) void Fiber::go(Fiber& from, Fiber& to) {
  coming_from = &from;
  going_to = &to;
#ifdef NP_EMULATION_TSAN
  constexpr unsigned kNoSync = 1;
  __tsan_switch_to_fiber(to.sanitizer_, kNoSync);
#endif
#ifdef NP_EMULATION_ASAN
  __sanitizer_start_switch_fiber(&from.sanitizer_, to.stack_, to.stack_bytes_);
#endif
  if (__builtin_setjmp(from.registers_) == 0) {
    if (to.started_) jump(to.registers_);
    to.started_ = true;
    setcontext(&to.context_);
  }
  entered(going_to);
}

#ifdef NP_EMULATION_TSAN
void release_memory(void* address) { __tsan_release(address); }
void acquire_memory(void* address) { __tsan_acquire(address); }
UnwatchedMemory::UnwatchedMemory() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
UnwatchedMemory::~UnwatchedMemory() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
void release_memory(void*) {}
void acquire_memory(void*) {}
UnwatchedMemory::UnwatchedMemory() = default;
UnwatchedMemory::~UnwatchedMemory() = default;
#endif

}  // namespace np::emulation
