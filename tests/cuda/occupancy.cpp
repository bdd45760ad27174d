// How many blocks of a kernel fit on a multiprocessor, by NVIDIA's own formula, and what the launchers
// ask for; a library for test_static.py.

#include <cuda_occupancy.h>

#include "snip_accumulate.cuh"

namespace {

struct Architecture {
  int major;
  int multiprocessors;
  std::size_t shared_bytes;  // of a multiprocessor
  std::size_t block_shared_bytes;
};

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": A100 and H100.
constexpr Architecture kA100{8, 108, 164 * 1024, 163 * 1024};
constexpr Architecture kH100{9, 132, 228 * 1024, 227 * 1024};

cudaOccDeviceProp properties(const Architecture& architecture) {
  cudaOccDeviceProp device;
  device.computeMajor = architecture.major;
  device.computeMinor = 0;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = 2048;
  device.regsPerBlock = 65536;
  device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = 48 * 1024;
  device.sharedMemPerMultiprocessor = architecture.shared_bytes;
  device.numSms = architecture.multiprocessors;
  device.sharedMemPerBlockOptin = architecture.block_shared_bytes;
  device.reservedSharedMemPerBlock = 1024;
  return device;
}

}  // namespace

extern "C" int blocks_per_multiprocessor(
    int architecture, int registers, int shared_bytes, int dynamic_bytes, int threads) {
  const cudaOccDeviceProp device = properties(architecture == 80 ? kA100 : kH100);
  cudaOccFuncAttributes function;
  function.maxThreadsPerBlock = threads;
  function.numRegs = registers;
  function.sharedSizeBytes = shared_bytes;
  function.maxDynamicSharedSizeBytes = dynamic_bytes;
  function.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;  // as np::launch asks
  function.numBlockBarriers = 1;
  cudaOccDeviceState state;
  cudaOccResult result;
  const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(
      &result, &device, &function, &state, threads, dynamic_bytes);
  return error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : -1;
}

// Of the tile of snip_accumulate_ with these rows.
extern "C" int tile_shared_bytes(int rows, int element_bytes) {
  using namespace neuropatch::cuda;
  if (element_bytes == 4) {
    return rows == 128 ? FloatTile<128>::kSharedBytes : FloatTile<64>::kSharedBytes;
  }
  return rows == 128 ? TensorTile<__half, 128>::kSharedBytes : TensorTile<__half, 64>::kSharedBytes;
}
