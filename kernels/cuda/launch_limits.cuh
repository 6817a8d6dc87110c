// What a kernel may ask of a device.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace quash::cuda {

constexpr int kMaxDevices = 64;  // of which a launch keeps what it has asked for

// Lets launches of a kernel on a device take as much shared memory as there is. Always
// all: the limit belongs to the kernel, and a lower one would fail other threads' launches.
template <typename Kernel>
cudaError_t AllowAllSharedMemory(Kernel kernel, int device) {
  int most = 0;
  cudaFuncAttributes attributes;
  cudaError_t error =
      cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              most - static_cast<int>(attributes.sharedSizeBytes));
}

// Blocks of a kernel that are resident at the same time on a device, with all its shared memory
// allowed; at least one of each multiprocessor, which then cannot be launched.
template <typename Kernel>
cudaError_t ResidentBlocks(Kernel kernel, int device, int threads, size_t shared_bytes,
                           uint32_t* blocks) {
  int processors = 0, resident = 0;
  cudaError_t error = AllowAllSharedMemory(kernel, device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared_bytes);
  }
  if (error == cudaSuccess) *blocks = static_cast<uint32_t>(processors * std::max(resident, 1));
  return error;
}

}  // namespace quash::cuda
