// What a kernel needs beyond CUDA C++ itself, for two compilers: nvcc, where these functions are
// instructions of sm_80 and later, and a host compiler, where csrc/emulation runs the kernel on the
// CPU. A kernel that includes this header and nothing else of CUDA compiles with both.
//
// Launch with np::launch(kernel, grid, block, shared_bytes, stream, arguments...), and declare
// dynamic shared memory with NP_DYNAMIC_SHARED(type, name).

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#define NP_DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(128) unsigned char np_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(np_dynamic_shared)

namespace np {

// Starts a kernel; returns what cudaGetLastError says about the launch.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(
    void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
    cudaStream_t stream, Arguments... arguments) {
  // More dynamic shared memory than this has to be asked for.
  constexpr std::size_t kDefaultSharedBytes = 48 * 1024;
  if (shared_bytes > kDefaultSharedBytes) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  return cudaGetLastError();
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies kBytes (4, 8 or 16) from global to shared memory, asynchronously; both addresses are
// multiples of kBytes. Of the source, only the first `source_bytes` are read, and zeros stand for
// the rest.
template <int kBytes>
__device__ __forceinline__ void cp_async_zfill(
    void* shared, const void* global, unsigned source_bytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "n"(kBytes), "r"(source_bytes)
                 : "memory");
  }
}

__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global))
               : "memory");
}

// Closes the group of the copies that the thread has started since the last one.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most kPending of the thread's latest groups are unfinished. Other threads see the
// copies after a barrier.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Loads 8x8 matrices of 16-bit elements from shared memory into a warp's fragments. Lane 8 m + r
// gives the address of row r of matrix m, a multiple of 16 bytes.
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&registers)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(registers[0]), "=r"(registers[1])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(std::uint32_t (&registers)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(registers[0]), "=r"(registers[1])
               : "r"(shared_address(row))
               : "memory");
}

// D += A B for A of 16x16, B of 16x8 and D of 16x8, accumulated in float32. T is the type of A and
// B: __nv_bfloat16 or __half.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(
    float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// The same for A of 16x8 and B of 8x8 in tf32 (see to_tf32).
__device__ __forceinline__ void mma_m16n8k8_tf32(
    float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Rounds to tf32, ties away from zero.
__device__ __forceinline__ std::uint32_t to_tf32(float value) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

// Ends the kernel with an error, which the stream reports at its next synchronisation.
__device__ __forceinline__ void stop(const char*) { __trap(); }

// Reads or writes a vector (float4, uint2, ...) at an address that is a multiple of its size.
template <typename Vector>
__device__ __forceinline__ Vector load_vector(const void* address) {
  return *static_cast<const Vector*>(address);
}

template <typename Vector>
__device__ __forceinline__ void store_vector(void* address, const Vector& value) {
  *static_cast<Vector*>(address) = value;
}

}  // namespace np

#else  // a host compiler: the same functions, emulated

#include "../emulation/async_copy.h"
#include "../emulation/cuda.h"
#include "../emulation/tensor_core.h"

#define NP_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(np::emulation::dynamic_shared())

namespace np {

using emulation::Place;

// Runs a kernel to its end; its mistakes are thrown as np::emulation::Error.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(
    void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t,
    Arguments... arguments) {
  emulation::launch(grid, block, shared_bytes, [&] { kernel(arguments...); });
  return cudaSuccess;
}

template <int kBytes>
void cp_async_zfill(
    void* shared, const void* global, unsigned source_bytes, Place place = Place::here()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  emulation::start_copy(shared, global, kBytes, source_bytes, place);
}

inline void cp_async16(void* shared, const void* global, Place place = Place::here()) {
  emulation::start_copy(shared, global, 16, 16, place);
}

inline void cp_async_commit() { emulation::commit_copies(); }

template <int kPending>
void cp_async_wait() {
  emulation::wait_for_copies(kPending);
}

inline void ldmatrix_x4(
    std::uint32_t (&registers)[4], const void* row, Place place = Place::here()) {
  emulation::load_matrices(registers, false, row, place);
}

inline void ldmatrix_x4_trans(
    std::uint32_t (&registers)[4], const void* row, Place place = Place::here()) {
  emulation::load_matrices(registers, true, row, place);
}

inline void ldmatrix_x2(
    std::uint32_t (&registers)[2], const void* row, Place place = Place::here()) {
  emulation::load_matrices(registers, false, row, place);
}

inline void ldmatrix_x2_trans(
    std::uint32_t (&registers)[2], const void* row, Place place = Place::here()) {
  emulation::load_matrices(registers, true, row, place);
}

template <typename T>
void mma_m16n8k16(
    float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
    Place place = Place::here()) {
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>);
  constexpr auto kElement = std::is_same_v<T, __half> ? emulation::Element::kFloat16
                                                       : emulation::Element::kBFloat16;
  emulation::multiply_accumulate(kElement, d, a, b0, b1, place);
}

inline void mma_m16n8k8_tf32(
    float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
    Place place = Place::here()) {
  emulation::multiply_accumulate(emulation::Element::kTensorFloat32, d, a, b0, b1, place);
}

inline std::uint32_t to_tf32(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}

[[noreturn]] inline void stop(const char* why, Place place = Place::here()) {
  emulation::fail(place, why);
}

template <typename Vector>
Vector load_vector(const void* address, Place place = Place::here()) {
  emulation::check_aligned(address, sizeof(Vector), "load from", place);
  return *static_cast<const Vector*>(address);
}

template <typename Vector>
void store_vector(void* address, const Vector& value, Place place = Place::here()) {
  emulation::check_aligned(address, sizeof(Vector), "store to", place);
  *static_cast<Vector*>(address) = value;
}

}  // namespace np

#endif
