// What a warp of the plane scan reads, block after block.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/launch_limits.cuh"
#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_layout.cuh"

namespace quash::cuda {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = kWarps * 32;
constexpr uint32_t kNoBlock = ~0u;

// One lane's share of 32 rows by a chunk, with what their epilogue needs.
struct Fetched {
  uint4 words;
  float scale;  // of the lane's own row, with the last chunk of a block only
  float norm_sq;
  uint32_t mask;
  uint32_t block;
};

// Walks the blocks of a warp: first, first + kWarps, ... before `end`, each
// `stride` blocks apart in the collection.
//   own_row  of a block, whose scale and norm this lane fetches
class Walker {
 public:
  __device__ Walker(const ScanArgs& args, uint32_t first, uint32_t end, uint32_t stride,
                    uint32_t own_row)
      : args_(args),
        index_(first),
        end_(end),
        stride_(stride),
        lane_(threadIdx.x % 32),
        own_row_(own_row) {
    chunks_ = Chunks(args.dim);
    if (index_ < end_) {
      segment_ = SegmentOfBlock(args.segments, args.num_segments, args.num_blocks, index_ * stride);
      EnterSegment();
      EnterBlock();
    }
  }

  __device__ bool done() const { return index_ >= end_; }

  // The words of this lane in the next block, null after the last; what the epilogue
  // needs goes to `head`.
  __device__ const uint4* NextBlock(Fetched* head) {
    if (index_ >= end_) {
      head->block = kNoBlock;
      return nullptr;
    }
    FetchHead(head);
    const uint4* words = words_;
    index_ += kWarps;
    if (index_ < end_) EnterBlock();
    return words;
  }

  __device__ Fetched Next() {
    Fetched fetched;
    fetched.words = __ldcs(words_);
    words_ += 32;
    if (++chunk_ == chunks_) {
      FetchHead(&fetched);
      index_ += kWarps;
      if (index_ < end_) EnterBlock();
    }
    return fetched;
  }

 private:
  __device__ void FetchHead(Fetched* head) const {
    const uint32_t row = (block_ - first_block_) * 32 + own_row_;
    head->scale = __ldcs(scale_ + row);
    head->norm_sq = norm_sq_ == nullptr ? 0 : __ldcs(norm_sq_ + row);
    head->mask = __ldg(args_.masks + block_);
    head->block = block_;
  }

  __device__ void EnterSegment() {
    const ScanSegment& segment = args_.segments[segment_];
    plane_ = reinterpret_cast<const uint4*>(segment.planes[0]);
    scale_ = segment.scale1;
    norm_sq_ = segment.norm_sq;
    first_block_ = segment.first_block;
    last_block_ = segment.first_block + segment.blocks;
  }

  __device__ void EnterBlock() {
    block_ = index_ * stride_;
    while (block_ >= last_block_) {
      ++segment_;
      EnterSegment();
    }
    words_ = plane_ + (size_t{block_ - first_block_} * chunks_) * 32 + lane_;
    chunk_ = 0;
  }

  const ScanArgs& args_;
  uint32_t index_, end_, stride_, lane_, own_row_;
  uint32_t chunks_, chunk_ = 0, segment_ = 0, block_ = 0, first_block_ = 0, last_block_ = 0;
  const uint4* plane_ = nullptr;
  const uint4* words_ = nullptr;
  const float* scale_ = nullptr;
  const float* norm_sq_ = nullptr;
};

inline const char* Text(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

struct Estimate {
  uint32_t sums;  // as candidates keep them
  float estimate;
  float key;
};

// In the order of operations of the search on the CPU, nothing contracted.
//   dot  without the query's `add`
__device__ Estimate FinishEstimate(const ScanQuery& query, uint32_t sums, float dot, float scale,
                                   float norm_sq) {
  Estimate made;
  made.sums = sums;
  const float unit = __fmul_rn(query.gain, scale);
  made.estimate = __fsub_rn(__fmul_rn(unit, __fadd_rn(dot, query.add)), norm_sq);
  made.key = __fadd_rn(made.estimate, __fmul_rn(query.key_margin, unit));
  return made;
}

// Of one plane or of whole codes.
//   sum  of weights whose bits are set
__device__ Estimate MakeEstimate(const ScanQuery& query, int sum, float scale, float norm_sq) {
  const uint32_t sums = static_cast<uint32_t>(query.offset) + static_cast<uint32_t>(sum);
  const auto value = static_cast<float>(static_cast<int>(sums));
  return FinishEstimate(query, sums, __fmul_rn(query.mul, value), scale, norm_sq);
}

// Of two planes.
__device__ Estimate MakeEstimate2(const ScanQuery& query, int sum1, int sum2, float scale,
                                  float norm_sq) {
  const uint32_t sums1 = query.offset + sum1, sums2 = query.offset + sum2;
  const float dot = __fadd_rn(__fmul_rn(query.mul, static_cast<float>(sums1)),
                              __fmul_rn(query.mul2, static_cast<float>(sums2)));
  return FinishEstimate(query, sums1 | sums2 << 16, dot, scale, norm_sq);
}

// Adds a row to the list of query `q` as far as there is room.
__device__ void List(const ScanArgs& args, uint32_t q, uint32_t row, const Estimate& made) {
  const uint32_t at = atomicAdd(args.counts + q, 1u);
  if (at >= args.capacity) return;
  reinterpret_cast<uint4*>(args.candidates)[size_t{q} * args.capacity + at] = {
      row, made.sums, __float_as_uint(made.estimate), __float_as_uint(made.key)};
}

// How many thread blocks of a kernel a device holds. Asking takes longer than launching:
// keep one of these for each kernel.
class Residency {
 public:
  uint32_t blocks = 0;  // on the device of the last Find()

  // Of one of `groups` that read the same `work`, a warp for each: all are resident, so
  // that what one reads the others find in the cache.
  uint32_t Share(uint32_t work, uint32_t groups) const {
    return min(max(blocks / groups, 1u), (work + kWarps - 1) / kWarps);
  }

  template <typename Kernel>
  const char* Find(Kernel kernel, size_t shared_bytes) {
    int device = 0;
    cudaGetDevice(&device);
    if (device >= kMaxDevices) return "the device's ordinal is above 63";
    Known& known = known_[device];
    if (known.blocks == 0 || known.shared != shared_bytes) {
      uint32_t resident = 0;
      const cudaError_t error = ResidentBlocks(kernel, device, kThreads, shared_bytes, &resident);
      if (error != cudaSuccess) return cudaGetErrorString(error);
      known = {shared_bytes, resident};
    }
    blocks = known.blocks;
    return nullptr;
  }

 private:
  struct Known {
    size_t shared = 0;
    uint32_t blocks = 0;
  };
  Known known_[kMaxDevices];
};

}  // namespace
}  // namespace quash::cuda
