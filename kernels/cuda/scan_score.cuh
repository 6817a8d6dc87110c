// Scores of single rows, each by sixteen lanes: from the rerank tier, from whole codes,
// from plane 2.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/scan.h"
#include "kernels/cuda/scan_layout.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {
namespace {

// Lanes of one candidate: as many as float sums of kernels/scan.h have strands.
constexpr uint32_t kLanes = 16;

// Sum over the 16 lanes of a candidate, every lane gets it.
template <typename T>
__device__ T LaneSum(T value) {
#pragma unroll
  for (uint32_t half = kLanes / 2; half > 0; half /= 2) {
    value += __shfl_xor_sync(~0u, value, half, kLanes);
  }
  return value;
}

// One candidate's row on its way through shared memory: 16 bytes a lane, two pieces ahead.
// A row that comes from another device would else be asked for 32 bytes at a time.
struct RowStage {
  static constexpr uint32_t kPieces = 2;
  uint4 pieces[kPieces][kLanes];
};

__device__ void AddTerm(float value, float other, bool is_l2, float* sum) {
  if (is_l2) {
    const float difference = __fsub_rn(value, other);
    *sum = __fadd_rn(*sum, __fmul_rn(difference, difference));
  } else {
    *sum = __fadd_rn(*sum, __fmul_rn(value, other));
  }
}

// Lane i adds up the terms j = i modulo 16 in order; then halves are folded, as
// kernels/scan.h has it. Addition commutes, so all lanes end with one result.
//   kBatch  loads in flight
template <uint32_t kBatch, typename Row, typename Load>
__device__ float TierSum(const Row* row, const float* vector, uint32_t dim, bool is_l2, Load load) {
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
      if (j < dim) AddTerm(load(values[i]), vector[j], is_l2, &sum);
    }
  }
  return LaneSum(sum);
}

// The same through shared memory. Rows are multiples of 16 bytes; a warp is in step.
template <typename Row, typename Load>
__device__ float StagedTierSum(const Row* row, const float* vector, uint32_t dim, bool is_l2,
                               Load load, RowStage* stage) {
  constexpr uint32_t kPieceRows = sizeof(stage->pieces[0]) / sizeof(Row);
  const uint32_t lane = threadIdx.x % kLanes, bytes = dim * sizeof(Row);
  const auto send = [&](uint32_t piece) {
    const uint32_t at = (piece * kLanes + lane) * 16;
    if (at < bytes) {
      CopyAhead(&stage->pieces[piece % RowStage::kPieces][lane],
                reinterpret_cast<const uint8_t*>(row) + at);
    }
    asm volatile("cp.async.commit_group;");
  };
  for (uint32_t piece = 0; piece < RowStage::kPieces; ++piece) send(piece);
  float sum = 0;
  for (uint32_t piece = 0; piece * kPieceRows < dim; ++piece) {
    asm volatile("cp.async.wait_group %0;" ::"n"(RowStage::kPieces - 1) : "memory");
    __syncwarp();
    const auto* values = reinterpret_cast<const Row*>(stage->pieces[piece % RowStage::kPieces]);
#pragma unroll 8
    for (uint32_t i = lane; i < kPieceRows; i += kLanes) {
      const uint32_t j = piece * kPieceRows + i;
      if (j < dim) AddTerm(load(values[i]), vector[j], is_l2, &sum);
    }
    __syncwarp();
    send(piece + RowStage::kPieces);
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  return LaneSum(sum);
}

//   stage  null: from memory to registers
template <uint32_t kBatch>
__device__ float TierScore(const FinishArgs& args, const ScanSegment& segment, uint32_t row,
                           const float* vector, RowStage* stage = nullptr) {
  const auto sum = [&](const auto* rows, auto load) {
    const auto* own = rows + size_t{row} * args.dim;
    return stage != nullptr && args.dim * sizeof(*rows) % 16 == 0
               ? StagedTierSum(own, vector, args.dim, args.is_l2, load, stage)
               : TierSum<kBatch>(own, vector, args.dim, args.is_l2, load);
  };
  switch (args.tier) {
    case TierType::kFloat32: {
      const float total =
          sum(static_cast<const float*>(segment.tier), [](float value) { return value; });
      return args.is_l2 ? -total : total;
    }
    case TierType::kFloat16: {
      const float total = sum(static_cast<const __half*>(segment.tier),
                              [](__half value) { return __half2float(value); });
      return args.is_l2 ? -total : total;
    }
    default: {
      const float scale = segment.tier_scale[row];
      const bool is_l2 = args.is_l2;
      const float total = sum(static_cast<const int8_t*>(segment.tier), [=](int8_t value) {
        return is_l2 ? __fmul_rn(scale, static_cast<float>(value)) : static_cast<float>(value);
      });
      return is_l2 ? -total : __fmul_rn(scale, total);
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
  const uint32_t chunks = Chunks(args.dim), values_size = (args.dim + 15) / 16 * 16;
  int32_t sum = 0;
  for (uint32_t w = threadIdx.x % kLanes; w < chunks * 4; w += kLanes) {
    const uint32_t at = PlaneWord(chunks, block, row_of_block, w);
    uint32_t planes[4] = {};
#pragma unroll
    for (uint32_t p = 0; p < 4; ++p) {
      if (p < args.bits) planes[p] = segment.planes[p][at];
    }
    for (uint32_t bit = 0; bit < 32 && 32 * w + bit < values_size; ++bit) {
      uint32_t code = 0;
#pragma unroll
      for (uint32_t p = 0; p < 4; ++p) {
        if (p < args.bits) code = code << 1 | (planes[p] >> bit & 1);
      }
      sum += args.levels[code] * values[32 * w + bit];
    }
  }
  return LaneSum(sum);
}

// The lines of a tier's row at once: its sum asks for them one after another.
__device__ void PrefetchTierRow(const FinishArgs& args, const ScanSegment& segment, uint32_t row) {
  constexpr uint32_t kTierBytes[] = {0, 4, 2, 1};
  const size_t row_bytes = size_t{args.dim} * kTierBytes[static_cast<uint32_t>(args.tier)];
  const auto* first = static_cast<const uint8_t*>(segment.tier) + row * row_bytes;
  for (size_t at = threadIdx.x % kLanes * 128; at < row_bytes; at += kLanes * 128) {
    asm volatile("prefetch.global.L1 [%0];" ::"l"(first + at));
  }
}

__device__ const float* StageScale(const ScanSegment& segment, ScanStage stage) {
  return stage == ScanStage::kPlane1      ? segment.scale1
         : stage == ScanStage::kTwoPlanes ? segment.scale2
                                          : segment.scale_full;
}

}  // namespace
}  // namespace quash::cuda
