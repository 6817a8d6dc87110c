// Programmatic dependent launches (sm_90): a kernel may start while the one before it on
// the stream ends, if it was launched so and that one lets it; before sm_90 nothing happens.
#pragma once

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

}  // namespace quash::cuda
