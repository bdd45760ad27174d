// The CUDA C++ language for a host compiler: include it instead of nvcc's own headers.
//
// Declare aligned variables with __align__(n), which g++ takes at any place, not with alignas(n).

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "collectives.h"
#include "runtime.h"

// The headers above define these for host compilers as nothing, or as attributes that g++ ignores.
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#undef __noinline__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __grid_constant__
#define __noinline__ __attribute__((noinline))

// One block runs at a time on an operating system thread. Thread-local variables lie in one piece
// of memory, which is filled with NaN before each block; AddressSanitizer guards the ends of other
// static variables only.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

using std::max;
using std::min;

inline void __syncthreads(np::emulation::Place place = np::emulation::Place::here()) {
  np::emulation::sync_block(place);
}

inline void __syncwarp(
    unsigned mask = 0xffffffffu, np::emulation::Place place = np::emulation::Place::here()) {
  np::emulation::sync_warp_memory(mask, place);
}

inline void __threadfence() { np::emulation::fence(); }
inline void __threadfence_block() { np::emulation::fence(); }

// Lanes that happen to run together: CUDA promises no more than the calling one, and so does this.
inline unsigned __activemask() { return 1u << np::emulation::lane(); }

template <typename T>
T __shfl_sync(
    unsigned mask, T value, int source, int width = warpSize,
    np::emulation::Place place = np::emulation::Place::here()) {
  return np::emulation::shuffle(
      np::emulation::Shuffle::kIndex, "__shfl_sync", mask, value, source, width, place);
}

template <typename T>
T __shfl_xor_sync(
    unsigned mask, T value, int lane_mask, int width = warpSize,
    np::emulation::Place place = np::emulation::Place::here()) {
  return np::emulation::shuffle(
      np::emulation::Shuffle::kXor, "__shfl_xor_sync", mask, value, lane_mask, width, place);
}

template <typename T>
T __shfl_down_sync(
    unsigned mask, T value, unsigned delta, int width = warpSize,
    np::emulation::Place place = np::emulation::Place::here()) {
  return np::emulation::shuffle(
      np::emulation::Shuffle::kDown, "__shfl_down_sync", mask, value, static_cast<int>(delta),
      width, place);
}

template <typename T>
T __shfl_up_sync(
    unsigned mask, T value, unsigned delta, int width = warpSize,
    np::emulation::Place place = np::emulation::Place::here()) {
  return np::emulation::shuffle(
      np::emulation::Shuffle::kUp, "__shfl_up_sync", mask, value, static_cast<int>(delta), width,
      place);
}

inline unsigned __ballot_sync(
    unsigned mask, int predicate, np::emulation::Place place = np::emulation::Place::here()) {
  return np::emulation::ballot("__ballot_sync", mask, predicate, place);
}

inline int __any_sync(
    unsigned mask, int predicate, np::emulation::Place place = np::emulation::Place::here()) {
  return np::emulation::ballot("__any_sync", mask, predicate, place) != 0;
}

inline int __all_sync(
    unsigned mask, int predicate, np::emulation::Place place = np::emulation::Place::here()) {
  return np::emulation::ballot("__all_sync", mask, predicate, place) == mask;
}

// CUDA's atomic functions order nothing but themselves.
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return std::atomic_ref(*address).fetch_add(value, std::memory_order_relaxed);
}

template <typename T, typename Function>
T np_atomic_update(T* address, Function function) {
  std::atomic_ref<T> reference(*address);
  T old = reference.load(std::memory_order_relaxed);
  while (!reference.compare_exchange_weak(old, function(old), std::memory_order_relaxed)) {
  }
  return old;
}

template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return np_atomic_update(address, [=](T old) { return std::max(old, value); });
}

template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return np_atomic_update(address, [=](T old) { return std::min(old, value); });
}

template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return std::atomic_ref(*address).fetch_or(value, std::memory_order_relaxed);
}

template <typename T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return np_atomic_update(address, [=](T) { return value; });
}

template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  std::atomic_ref(*address).compare_exchange_strong(expected, value, std::memory_order_relaxed);
  return expected;
}

template <typename T>
T __ldg(const T* address, np::emulation::Place place = np::emulation::Place::here()) {
  np::emulation::check_aligned(address, sizeof(T), "__ldg from", place);
  return *address;
}

inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline int __popc(unsigned value) { return std::popcount(value); }
inline int __popcll(unsigned long long value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float __fdividef(float numerator, float denominator) { return numerator / denominator; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
