// What a kernel may ask of a device.
#pragma once

#include <cuda_runtime.h>

namespace quash::cuda {

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

}  // namespace quash::cuda
