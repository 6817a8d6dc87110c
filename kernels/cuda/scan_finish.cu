// What later stages of a search ask of a candidate, and the order of planes.
#include <cuda_runtime.h>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_layout.cuh"
#include "kernels/cuda/scan_score.cuh"

namespace quash::cuda {
namespace {

constexpr uint32_t kThreads = 256;

const char* Text(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

__global__ void RepackPlane(const uint8_t* plane, PlaneStrides strides, uint32_t words,
                            uint32_t plane_bytes, uint32_t chunks, uint32_t* out) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;  // block, row, word of the row
  if (i >= words) return;
  const uint32_t row = i % 32, w = i / 32 % (chunks * 4), block = i / 32 / (chunks * 4);
  uint32_t word = 0;
  for (uint32_t b = 0; b < 4; ++b) {
    const uint32_t byte = 4 * w + b;
    if (byte < plane_bytes) {
      const size_t at =
          size_t{block} * strides.block + size_t{row} * strides.row + size_t{byte} * strides.byte;
      word |= static_cast<uint32_t>(plane[at]) << 8 * b;
    }
  }
  out[PlaneWord(chunks, block, row, w)] = word;
}

// blockIdx.y: a query.
__global__ void __launch_bounds__(kThreads) FinishCandidates(FinishArgs args) {
  const uint32_t q = blockIdx.y;
  const uint32_t count = args.counts[q];
  const uint32_t padded = (args.dim + 15) / 16 * 16;
  const auto* found = reinterpret_cast<const uint2*>(args.candidates) + size_t{q} * args.capacity;
  const uint32_t groups = gridDim.x * (kThreads / kLanes);
  // Rows of a round leave together: host memory likes long writes.
  __shared__ Scored round[kThreads / kLanes];
  constexpr uint32_t kRoundWords = sizeof(round) / sizeof(uint4);
  // All threads take part in every round: shuffles need them.
  for (uint32_t base = 0; base < count; base += groups) {
    const uint32_t i = base + blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes;
    const uint2 candidate = found[min(i, count - 1)];
    const uint32_t block = candidate.x / 32;
    const ScanSegment& segment =
        args.segments[SegmentOfBlock(args.segments, args.num_segments, args.num_blocks, block)];
    const uint32_t local = block - segment.first_block, row = local * 32 + candidate.x % 32;
    const bool from_tier = args.final_scores && args.tier != TierType::kNone;
    if (from_tier) PrefetchTierRow(args, segment, row);
    Scored scored;
    scored.row = candidate.x;
    scored.sums = candidate.y;
    scored.scale = StageScale(segment, args.stage)[row];
    scored.norm_sq = segment.norm_sq == nullptr ? 0 : segment.norm_sq[row];
    scored.sums2 = 0;
    scored.scale2 = 0;
    if (args.stage == ScanStage::kPlane1 && segment.planes[1] != nullptr) {
      scored.sums2 = static_cast<uint32_t>(
          args.offsets[q] + Plane2Sum(args, segment.planes[1], local, candidate.x % 32, q) / 2);
      scored.scale2 = segment.scale2[row];
    }
    scored.scale_full = segment.scale_full == nullptr ? 0 : segment.scale_full[row];
    scored.dot = 0;
    if (from_tier) {
      scored.score = TierScore<24>(args, segment, row, args.vectors + size_t{q} * args.dim);
    } else if (args.final_scores && args.stage == ScanStage::kCodes) {
      scored.dot = static_cast<int32_t>(candidate.y);
    } else if (args.final_scores) {
      scored.dot =
          CodeDot(args, segment, local, candidate.x % 32, args.values + size_t{q} * padded);
    }
    if (threadIdx.x % kLanes == 0) round[threadIdx.x / kLanes] = scored;
    __syncthreads();
    const uint32_t first = base + blockIdx.x * (kThreads / kLanes);
    static_assert(kRoundWords == 2 * kThreads / kLanes);
    if (first + threadIdx.x / 2 < count && threadIdx.x < kRoundWords) {
      auto* out = reinterpret_cast<uint4*>(args.scored + size_t{q} * args.capacity + first);
      out[threadIdx.x] = reinterpret_cast<const uint4*>(round)[threadIdx.x];
    }
    __syncthreads();
  }
}

}  // namespace

const char* LaunchRepackPlane(const uint8_t* plane, PlaneStrides strides, uint32_t nblocks,
                              uint32_t plane_bytes, uint32_t* out, CUstream_st* stream) {
  const uint32_t chunks = (plane_bytes + kChunkDims / 8 - 1) / (kChunkDims / 8);
  const uint32_t words = nblocks * 32 * chunks * 4;
  RepackPlane<<<(words + kThreads - 1) / kThreads, kThreads, 0, stream>>>(
      plane, strides, words, plane_bytes, chunks, out);
  return Text(cudaGetLastError());
}

const char* LaunchFinish(const FinishArgs& args, CUstream_st* stream) {
  static_assert(sizeof(Scored) == 32);
  if (args.nq == 0 || args.num_segments == 0) return nullptr;
  const uint32_t blocks = args.nq >= 8 ? 64 : 512;
  FinishCandidates<<<dim3(blocks, args.nq), kThreads, 0, stream>>>(args);
  return Text(cudaGetLastError());
}

}  // namespace quash::cuda
