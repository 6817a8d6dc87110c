// Programmatic dependent launches (sm_90): a kernel may start while the one before it on
// the stream ends, if it was launched so and that one lets it; before sm_90 nothing happens.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace quash::cuda {

// Once every block has come here, the next kernel may start.
__device__ __forceinline__ void LetNextStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Returns when the kernel before has ended and what it wrote can be read.
__device__ __forceinline__ void WaitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Whether the current device has code of `kernel` that may start early.
template <typename Kernel>
bool CanStartEarly(Kernel kernel) {
  cudaFuncAttributes code = {};
  return cudaFuncGetAttributes(&code, kernel) == cudaSuccess && code.ptxVersion >= 90;
}

// Launches a kernel that waits itself (WaitForPrevious()) and then may start early.
template <typename... Args>
cudaError_t LaunchDependent(void (*kernel)(Args...), dim3 grid, uint32_t threads,
                            size_t shared_bytes, cudaStream_t stream, bool can_start_early,
                            const Args&... args) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = can_start_early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace quash::cuda
