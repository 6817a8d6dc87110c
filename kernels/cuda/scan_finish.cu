// What later stages of a search ask of a candidate, and the order of planes.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_layout.cuh"

namespace quash::cuda {
namespace {

constexpr uint32_t kThreads = 256;
// Lanes of one candidate: as many as float sums of kernels/scan.h have strands.
constexpr uint32_t kLanes = 16;

const char* Text(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

__global__ void RepackPlane(const uint8_t* plane, uint32_t words, uint32_t plane_bytes,
                            uint32_t chunks, uint32_t* out) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;  // block, row, word of the row
  if (i >= words) return;
  const uint32_t row = i % 32, w = i / 32 % (chunks * 4), block = i / 32 / (chunks * 4);
  uint32_t word = 0;
  for (uint32_t b = 0; b < 4; ++b) {
    const uint32_t byte = 4 * w + b;
    if (byte < plane_bytes) {
      word |= static_cast<uint32_t>(plane[(size_t{block} * plane_bytes + byte) * 32 + row])
              << 8 * b;
    }
  }
  out[PlaneWord(chunks, block, row, w)] = word;
}

// Sum over the 16 lanes of a candidate, every lane gets it.
template <typename T>
__device__ T LaneSum(T value) {
#pragma unroll
  for (uint32_t half = kLanes / 2; half > 0; half /= 2) {
    value += __shfl_xor_sync(~0u, value, half, kLanes);
  }
  return value;
}

// Lane i adds up the terms j = i modulo 16 in order; then halves are folded, as
// kernels/scan.h has it. Addition commutes, so all lanes end with one result.
template <typename Row, typename Load>
__device__ float TierSum(const Row* row, const float* vector, uint32_t dim, bool is_l2, Load load) {
  constexpr uint32_t kBatch = 24;  // loads in flight
  float sum = 0;
  for (uint32_t first = threadIdx.x % kLanes; first < dim; first += kBatch * kLanes) {
    Row values[kBatch];
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      const uint32_t j = first + i * kLanes;
      values[i] = j < dim ? __ldg(row + j) : Row();
    }
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      const uint32_t j = first + i * kLanes;
      if (j >= dim) break;
      const float value = load(values[i]);
      if (is_l2) {
        const float difference = __fsub_rn(value, vector[j]);
        sum = __fadd_rn(sum, __fmul_rn(difference, difference));
      } else {
        sum = __fadd_rn(sum, __fmul_rn(value, vector[j]));
      }
    }
  }
  return LaneSum(sum);
}

__device__ float TierScore(const FinishArgs& args, const ScanSegment& segment, uint32_t row,
                           const float* vector) {
  const size_t first = size_t{row} * args.dim;
  switch (args.tier) {
    case TierType::kFloat32: {
      const float sum = TierSum(static_cast<const float*>(segment.tier) + first, vector, args.dim,
                                args.is_l2, [](float value) { return value; });
      return args.is_l2 ? -sum : sum;
    }
    case TierType::kFloat16: {
      const float sum = TierSum(static_cast<const __half*>(segment.tier) + first, vector, args.dim,
                                args.is_l2, [](__half value) { return __half2float(value); });
      return args.is_l2 ? -sum : sum;
    }
    default: {
      const float scale = segment.tier_scale[row];
      const bool is_l2 = args.is_l2;
      const float sum = TierSum(static_cast<const int8_t*>(segment.tier) + first, vector, args.dim,
                                is_l2, [=](int8_t value) {
                                  return is_l2 ? __fmul_rn(scale, static_cast<float>(value))
                                               : static_cast<float>(value);
                                });
      return is_l2 ? -sum : __fmul_rn(scale, sum);
    }
  }
}

// Twice the sum of the weights whose bits are set in a row of plane 2.
__device__ int32_t Plane2Sum(const FinishArgs& args, const uint32_t* plane2, uint32_t block,
                             uint32_t row, uint32_t q) {
  const uint32_t chunks = Chunks(args.dim);
  const uint32_t tiles = (args.nq + kTileQueries - 1) / kTileQueries;
  int32_t sum = 0;
  for (uint32_t w = threadIdx.x % kLanes; w < chunks * 4; w += kLanes) {
    const uint32_t word = plane2[PlaneWord(chunks, block, row, w)];
#pragma unroll
    for (uint32_t i = 0; i < kSteps; ++i) {
      const uint32_t lane = q % kTileQueries * 4 + w % 4;
      const uint32_t* weights =
          args.weights + WeightWord(w / 4 * kSteps + i, tiles, q / kTileQueries, lane);
      // Bytes of the bits are never negative.
      sum = __dp4a(static_cast<int>(word >> 2 * i & kLowBits), static_cast<int>(weights[0]), sum);
      sum = __dp4a(static_cast<int>(word >> 2 * i & kHighBits), static_cast<int>(weights[1]), sum);
    }
  }
  return LaneSum(sum);
}

// Exact, so in any order.
__device__ int32_t CodeDot(const FinishArgs& args, const ScanSegment& segment, uint32_t block,
                           uint32_t row_of_block, const int16_t* values) {
  const uint32_t chunks = Chunks(args.dim);
  const uint32_t plane_bytes = (args.dim + 15) / 16 * 2,
                 rest_planes = args.bits - min(args.bits, 2u);
  const uint8_t* rest =
      segment.rest + (size_t{block} * 32 + row_of_block) * rest_planes * plane_bytes;
  int32_t sum = 0;
  for (uint32_t w = threadIdx.x % kLanes; w < chunks * 4; w += kLanes) {
    const uint32_t at = PlaneWord(chunks, block, row_of_block, w);
    const uint32_t plane1 = segment.plane1[at];
    const uint32_t plane2 = args.bits >= 2 ? segment.plane2[at] : 0;
    for (uint32_t b = 0; b < 4 && 4 * w + b < plane_bytes; ++b) {
      const uint32_t byte1 = plane1 >> 8 * b, byte2 = plane2 >> 8 * b;
      const uint32_t byte3 = rest_planes > 0 ? rest[4 * w + b] : 0;
      const uint32_t byte4 = rest_planes > 1 ? rest[plane_bytes + 4 * w + b] : 0;
      for (uint32_t bit = 0; bit < 8; ++bit) {
        uint32_t code = byte1 >> bit & 1;
        if (args.bits >= 2) code = code << 1 | (byte2 >> bit & 1);
        if (args.bits >= 3) code = code << 1 | (byte3 >> bit & 1);
        if (args.bits >= 4) code = code << 1 | (byte4 >> bit & 1);
        sum += args.levels[code] * values[(4 * w + b) * 8 + bit];
      }
    }
  }
  return LaneSum(sum);
}

// blockIdx.y: a query.
__global__ void __launch_bounds__(kThreads) FinishCandidates(FinishArgs args) {
  const uint32_t q = blockIdx.y;
  const uint32_t count = args.counts[q];
  const uint32_t plane_bytes = (args.dim + 15) / 16 * 2;
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
    // The lines of the tier's row at once: its sum asks for them one after another.
    if (args.final_scores && args.tier != TierType::kNone) {
      constexpr uint32_t kTierBytes[] = {0, 4, 2, 1};
      const size_t row_bytes = size_t{args.dim} * kTierBytes[static_cast<uint32_t>(args.tier)];
      const auto* first = static_cast<const uint8_t*>(segment.tier) + row * row_bytes;
      for (size_t at = threadIdx.x % kLanes * 128; at < row_bytes; at += kLanes * 128) {
        asm volatile("prefetch.global.L1 [%0];" ::"l"(first + at));
      }
    }
    Scored scored;
    scored.row = candidate.x;
    scored.sums = candidate.y;
    scored.scale1 = segment.scale1[row];
    scored.norm_sq = segment.norm_sq == nullptr ? 0 : segment.norm_sq[row];
    scored.sums2 = 0;
    scored.scale2 = 0;
    scored.scale_full = scored.scale1;
    if (segment.plane2 != nullptr) {
      scored.sums2 = static_cast<uint32_t>(
          args.offsets[q] + Plane2Sum(args, segment.plane2, local, candidate.x % 32, q) / 2);
      scored.scale2 = segment.scale2[row];
      scored.scale_full = segment.scale_full == nullptr ? scored.scale2 : segment.scale_full[row];
    }
    scored.dot = 0;
    if (!args.final_scores) {
      // Left to the caller.
    } else if (args.tier == TierType::kNone) {
      scored.dot = CodeDot(args, segment, local, candidate.x % 32,
                           args.values + size_t{q} * plane_bytes * 8);
    } else {
      scored.score = TierScore(args, segment, row, args.vectors + size_t{q} * args.dim);
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

const char* LaunchRepackPlane(const uint8_t* plane, uint32_t nblocks, uint32_t plane_bytes,
                              uint32_t* out, CUstream_st* stream) {
  const uint32_t chunks = (plane_bytes + kChunkDims / 8 - 1) / (kChunkDims / 8);
  const uint32_t words = nblocks * 32 * chunks * 4;
  RepackPlane<<<(words + kThreads - 1) / kThreads, kThreads, 0, stream>>>(plane, words, plane_bytes,
                                                                          chunks, out);
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
