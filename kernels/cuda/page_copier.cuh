// Asynchronous copies of pages: the bulk copy engine on sm_90, cp.async before.
#pragma once

#include <cstdint>

namespace quash::cuda {

// Copies of head pages into shared memory, by whole pages, of one warp alone.
class PageCopier {
 public:
  // bytes  of a head page, a multiple of 16; kExtra more are copied behind them
  static constexpr uint32_t kExtra = 16;
  __device__ PageCopier(uint8_t* stage, uint64_t* barrier, uint32_t bytes, int lane)
      : stage_(Address(stage)), barrier_(Address(barrier)), bytes_(bytes), lane_(lane) {}

#if __CUDA_ARCH__ >= 900
  static __device__ void Initialise(uint64_t* barrier) {
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(Address(barrier)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __device__ void Start(const uint8_t* from, const uint8_t* extra) const {
    asm volatile(
        "{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\n"
        "@one mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n"
        "@one cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%2], [%4], %5, [%0], %7;\n"
        "@one cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%3], [%6], 16, [%0], %8;\n}" ::"r"(barrier_),
        "r"(bytes_ + kExtra), "r"(stage_), "r"(stage_ + bytes_), "l"(from), "r"(bytes_), "l"(extra),
        "l"(kEvictFirst), "l"(kEvictNormal)
        : "memory");
  }
  // phase  number of times that this stage was waited for before
  __device__ void Wait(uint32_t phase) const {
    asm volatile(
        "{\n.reg .pred done;\nwait:\n"
        "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@done bra ready;\nbra wait;\n"
        "ready:\n}" ::"r"(barrier_),
        "r"(phase & 1)
        : "memory");
  }
  // Ordinary accesses before are seen by copies started after.
  static __device__ void Fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else
  static __device__ void Initialise(uint64_t*) {}
  __device__ void Start(const uint8_t* from, const uint8_t* extra) const {
    for (uint32_t at = 16 * lane_; at < bytes_ + kExtra; at += 512) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(stage_ + at),
                   "l"(at < bytes_ ? from + at : extra)
                   : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  __device__ void Wait(uint32_t) const {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
  }
  static __device__ void Fence() {}
#endif

 private:
#if __CUDA_ARCH__ >= 900
  // Policies of the second-level cache, as createpolicy makes them. Codes are read once;
  // the means' scales of other heads are next to those that are copied.
  static constexpr uint64_t kEvictNormal = 0x1000000000000000, kEvictFirst = 0x12f0000000000000;
#endif
  static __device__ uint32_t Address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
  }
  uint32_t stage_, barrier_, bytes_;
  int lane_;
};

}  // namespace quash::cuda
