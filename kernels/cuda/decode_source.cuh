// The pages of a warp's share, one after the other through its stages.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/decode_work.cuh"
#include "kernels/cuda/page_copier.cuh"

namespace quash::cuda {

class PageSource {
 public:
  // walk  of this warp, in shared memory, as few steps need it
  __device__ PageSource(const KernelArgs& args, uint8_t* stages, uint32_t stage_bytes,
                        uint64_t* barriers, Walk* walk, int lane)
      : args_(args),
        stages_(stages),
        barriers_(barriers),
        walk_(walk),
        stage_bytes_(stage_bytes),
        lane_(lane) {}

  // Reads the first page's id of a share; the copies of the one before are used up.
  __device__ __forceinline__ void Seek(const Walk& walk) {
    run_ = RunOf(args_, walk);
    if (lane_ == 0) *walk_ = walk;
    __syncwarp();
    Advance();
  }
  // Starts the copy of the first page after Seek().
  __device__ __forceinline__ void Begin() {
    PageCopier::Fence();
    Start(used_ % kStages);
  }
  // Waits for the next page, behind which are the 16 bytes with its mean scales, and sends for
  // the one after it: sooner, all that is read would wait longer.
  __device__ const uint8_t* Wait() {
    const uint32_t stage = used_ % kStages;
    Copier(stage).Wait(used_ / kStages);
    Start((used_ + 1) % kStages);
    return stages_ + stage * stage_bytes_;
  }
  // That page is no longer needed.
  __device__ void Release() {
    __syncwarp();
    ++used_;
  }

  // Sends for the open tokens of the unit that are the warp's.
  __device__ static void PrefetchOpen(const KernelArgs& args, const Walk& walk, int lane) {
    const uint32_t begin = walk.ChunkBegin(), end = walk.ChunkEnd();
    if (begin >= end) return;
    const uint32_t lines = args.a.head_dim / 64;  // of 128 bytes
    const size_t stride = static_cast<size_t>(args.a.num_kv_heads) * args.a.head_dim;
    const size_t base = static_cast<size_t>(walk.seq) * args.a.open_capacity * stride +
                        args.passes.Divide(walk.row) * args.a.head_dim;
    const uint32_t until = min(kOpenChunk * end, walk.work.open);
    for (uint32_t token = kOpenChunk * begin + lane; token < until; token += 32) {
      for (uint32_t line = 0; line < lines; ++line) {
        Prefetch(args.a.open_k + base + token * stride + 64 * line);
        Prefetch(args.a.open_v + base + token * stride + 64 * line);
      }
    }
  }
  static __device__ __forceinline__ void Prefetch(const void* line) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
  }

 private:
  __device__ PageCopier Copier(uint32_t stage) const {
    return PageCopier(stages_ + stage * stage_bytes_, barriers_ + stage,
                      args_.a.layout.head_page_bytes, lane_);
  }
  // The pages of a unit in the share.
  struct Run {
    const int32_t* entry;
    uint32_t left;
    const uint8_t* head;  // its KV head's part of page 0
    uint32_t to_scales;   // from there to the mean scales
  };
  __device__ static Run RunOf(const KernelArgs& args, const Walk& walk) {
    const PageLayout& layout = args.a.layout;
    const uint32_t first = walk.PageBegin(), kv_head = args.passes.Divide(walk.row);
    const uint32_t to_head = kv_head * layout.head_page_bytes;
    return {args.a.block_table + static_cast<size_t>(walk.seq) * args.a.max_pages + first,
            walk.left == 0 ? 0 : walk.PageEnd() - first, args.a.pages + to_head,
            layout.mean_scales + kv_head / 4 * 16 - to_head};
  }
  // Of the next unit that has pages. Not inlined, as it is rare.
  __device__ __noinline__ static Run NextRun(const KernelArgs& args, Walk* at, int lane) {
    Walk walk = *at;
    Run run = {};
    while (run.left == 0 && walk.left > walk.Take()) {
      walk.Next(args);
      PrefetchOpen(args, walk, lane);
      run = RunOf(args, walk);
    }
    __syncwarp();
    if (lane == 0) *at = walk;
    __syncwarp();
    return run;
  }
  // Reads the id of the next page ahead; kNone: there is none.
  __device__ __forceinline__ void Advance() {
    if (run_.left == 0) [[unlikely]] {
      const Run run = NextRun(args_, walk_, lane_);
      if (run.left == 0) {
        id_ = kNone;
        return;
      }
      run_ = run;
    }
    --run_.left;
    id_ = __ldg(run_.entry++);
  }
  __device__ __forceinline__ void Start(uint32_t stage) {
    if (id_ == kNone) return;
    const uint8_t* const head =
        run_.head + uint64_t{static_cast<uint32_t>(id_)} * args_.a.layout.page_bytes;
    Copier(stage).Start(head, head + run_.to_scales);
    Advance();
  }

  static constexpr int32_t kNone = -1;
  const KernelArgs& args_;
  uint8_t* const stages_;
  uint64_t* const barriers_;
  Walk* const walk_;
  const uint32_t stage_bytes_;
  const int lane_;
  Run run_ = {};  // after the page of `id_`
  int32_t id_ = kNone;
  uint32_t used_ = 0;
};

}  // namespace quash::cuda
