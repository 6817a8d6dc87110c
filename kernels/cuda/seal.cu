// Sealing: a block makes one side of one head page.
#include <cuda_runtime.h>

#include "kernels/cuda/append_plan.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/seal.h"
#include "kernels/cuda/seal_codes.cuh"
#include "kernels/cuda/seal_launch.h"
#include "kernels/cuda/seal_rows.cuh"

namespace quash::cuda {
namespace {

constexpr int kThreads = kPageTokens;
constexpr int kBlocks = 6;        // of a multiprocessor, as registers allow
constexpr int kNibbleStride = 80;  // words between those of eight coordinates

// Where the nibbles of a coordinate are, without bank conflicts.
__device__ __forceinline__ int TransposedAt(int coordinate) {
  return coordinate * 12 + coordinate / 8 * 4;
}

template <int kDim, bool kIsDefault>
struct SealMemory {
  // Coordinates at a time; rotating by tables takes all.
  static constexpr int kColumns = kIsDefault ? kThreads : kDim;
  union {
    uint4 staged[kPageTokens * kDim / 8];     // rows as they come
    float columns[kColumns * kColumnStride];  // [coordinate][token]
    struct {
      uint32_t nibbles[kDim / 8 * kNibbleStride];  // [eight coordinates][token]
      uint32_t transposed[kDim * 12 + kDim / 2];   // [coordinate][eight tokens]
    };
  };
  alignas(16) float mean[kDim];
  float doubtful[kThreads / 32 * kDim];
  CodeMemory codes;
  RotationMemory<kIsDefault ? 8 : kDim> rotation;
  double largest[2];
};

// Vectors begin.. of the rows of a page, kDim / 8 of each, into shared memory: float32
// takes two turns.
template <int kDim>
__device__ __forceinline__ void Stage(uint4* staged, const AppendArgs& args,
                                      const AppendPlan& plan, uint32_t seq, uint32_t head,
                                      bool is_value, uint32_t first, uint32_t begin) {
  constexpr uint32_t kVectors = kDim / 8, kStep = kThreads / kVectors;
  constexpr int kAtOnce = 8;
  const uint32_t vector = threadIdx.x % kVectors;
#pragma unroll
  for (uint32_t pass = 0; pass < kPageTokens; pass += kAtOnce * kStep) {
    const uint32_t row = threadIdx.x / kVectors + pass;
    uint4 vectors[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const uint8_t* from = args.Row(plan, seq, head, is_value, first + row + i * kStep);
      vectors[i] = reinterpret_cast<const uint4*>(from)[begin + vector];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      staged[StagedAt(row + i * kStep, vector, kVectors)] = vectors[i];
    }
  }
}

// The mean of a page's rows, in int8, and what they are without it.
template <int kDim, typename Memory>
__device__ __forceinline__ void SubtractMean(Memory& memory, TokenRow<kDim>& row, int8_t* mean,
                                             __half* mean_scale) {
  constexpr int kPasses = kDim / kThreads;
  const int thread = threadIdx.x;
  double sums[kPasses], largest = 0;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kThreads; ++j) {
      memory.columns[j * kColumnStride + thread] = row.v[pass * kThreads + j];
    }
    __syncthreads();
    const float* column = memory.columns + thread * kColumnStride;
    double sum = 0;
#pragma unroll 4
    for (int t = 0; t < static_cast<int>(kPageTokens); t += 4) {
      const float4 four = *reinterpret_cast<const float4*>(column + t);
      sum += four.x;
      sum += four.y;
      sum += four.z;
      sum += four.w;
    }
    sums[pass] = sum / kPageTokens;
    largest = fmax(largest, fabs(sums[pass]));
  }
  for (int step = 16; step > 0; step /= 2) {
    largest = fmax(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  }
  if (thread % 32 == 0) memory.largest[thread / 32] = largest;
  __syncthreads();
  largest = fmax(memory.largest[0], memory.largest[1]);
  const __half rounded = ToF16(static_cast<float>(largest / 127));
  const float scale = __half2float(rounded);
  if (thread == 0) *mean_scale = rounded;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const double steps =
        scale > 0 ? fmin(fmax(nearbyint(sums[pass] / scale), -127.0), 127.0) : 0.0;
    const auto byte = static_cast<int8_t>(steps);
    mean[thread + pass * kThreads] = byte;
    memory.mean[thread + pass * kThreads] = scale * static_cast<float>(byte);
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kDim; j += 4) {
    const float4 four = *reinterpret_cast<const float4*>(memory.mean + j);
    row.v[j] -= four.x;
    row.v[j + 1] -= four.y;
    row.v[j + 2] -= four.z;
    row.v[j + 3] -= four.w;
  }
}

template <int kN, int kBits>
__device__ __forceinline__ void StoreRow(const uint32_t (&nibbles)[kN / 8], uint8_t* to) {
  constexpr int kWords = kN * kBits / 32;
  uint32_t row[kWords];
  PackNibbles<kN, kBits>(nibbles, row);
  auto* pairs = reinterpret_cast<uint2*>(to);  // rows are 8-byte aligned
#pragma unroll
  for (int w = 0; w < kWords; w += 2) pairs[w / 2] = make_uint2(row[w], row[w + 1]);
}

// Codes of values: a row per coordinate, from all threads.
template <int kDim, int kBits, typename Memory>
__device__ __forceinline__ void StoreColumns(Memory& memory, const uint32_t (&nibbles)[kDim / 8],
                                             uint8_t* codes) {
  const int thread = threadIdx.x;
#pragma unroll
  for (int w = 0; w < kDim / 8; ++w) memory.nibbles[w * kNibbleStride + thread] = nibbles[w];
  __syncthreads();
  // A thread has eight coordinates of 8 or 16 tokens: words `quarter` and, of 16,
  // `quarter` + 4 of their rows, each of four tokens and the four half a page on.
  constexpr int kThreadsOfEight = kThreads / (kDim / 8);
  const int eight = thread / kThreadsOfEight, quarter = thread % kThreadsOfEight;
#pragma unroll
  for (int word = quarter; word < 8; word += kThreadsOfEight) {
    const uint32_t* from = memory.nibbles + eight * kNibbleStride + 4 * word;
    const uint4 first = *reinterpret_cast<const uint4*>(from);
    const uint4 second = *reinterpret_cast<const uint4*>(from + kPageTokens / 2);
    const uint32_t of_token[8] = {first.x, second.x, first.y, second.y,
                                  first.z, second.z, first.w, second.w};
    uint32_t of_coordinate[8];
    Transpose(of_token, of_coordinate);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      memory.transposed[TransposedAt(8 * eight + j) + word] = of_coordinate[j];
    }
  }
  __syncthreads();
#pragma unroll
  for (int coordinate = thread; coordinate < kDim; coordinate += kThreads) {
    const auto* from = reinterpret_cast<const uint4*>(memory.transposed + TransposedAt(coordinate));
    const uint4 first = from[0], second = from[1];
    const uint32_t of_coordinate[8] = {first.x,  first.y,  first.z,  first.w,
                                       second.x, second.y, second.z, second.w};
    StoreRow<kPageTokens, kBits>(of_coordinate, codes + coordinate * (kPageTokens * kBits / 8));
  }
}

template <int kDim, int kBits, bool kIsValue, typename Memory>
__device__ __forceinline__ void StoreCodes(Memory& memory, const TokenRow<kDim>& row, float slope,
                                           uint8_t* codes, __half* scales) {
  const int thread = threadIdx.x;
  uint32_t nibbles[kDim / 8];
  const float scale =
      Quantize<kDim, kBits, kIsValue>(memory.codes, row, slope, memory.doubtful, nibbles);
  scales[thread] = ToF16(scale);
  if constexpr (!kIsValue) {
    StoreRow<kDim, kBits>(nibbles, codes + thread * (kDim * kBits / 8));
  } else {
    StoreColumns<kDim, kBits>(memory, nibbles, codes);
  }
}

// One side of one head of page `index` of those to be sealed.
template <int kDim, bool kIsDefault, bool kIsValue>
__device__ __forceinline__ void SealPart(SealMemory<kDim, kIsDefault>& memory,
                                         const AppendArgs& args, const AppendPlan& plan,
                                         uint32_t seq, uint32_t head, uint32_t index) {
  const uint32_t at = static_cast<uint32_t>(args.state.num_pages[seq]) + index;
  if (at >= args.state.max_pages) return;  // MoveOpenRows() says so
  const SealFormat& format = args.format;
  const PageLayout& layout = format.layout;
  const int32_t id = args.state.block_table[static_cast<size_t>(seq) * args.state.max_pages + at];
  uint8_t* page = args.state.pages + static_cast<size_t>(id) * layout.page_bytes;
  uint8_t* head_page = page + head * layout.head_page_bytes;

  if constexpr (!kIsDefault) {
    memory.rotation.Load(kIsValue ? format.v_rotation : format.k_rotation);
  }
  memory.codes.Load(kIsValue ? format.v_levels : format.k_levels,
                    kIsValue ? format.v_boundaries : format.k_boundaries);
  const auto stage = [&](uint32_t begin) {
    Stage<kDim>(memory.staged, args, plan, seq, head, kIsValue, index * kPageTokens, begin);
    __syncthreads();
  };
  constexpr uint32_t kVectors = kDim / 8;
  stage(0);
  TokenRow<kDim> row;
  row.Load(
      format.type,
      [&](uint32_t i) { return memory.staged[StagedAt(threadIdx.x, i % kVectors, kVectors)]; },
      [&] {
        __syncthreads();
        stage(kVectors);
      });
  if constexpr (kIsDefault) {
    row.template RotateByDefault<kIsValue>();
  } else {
    __syncthreads();  // columns take the place of staged rows
    row.Rotate(memory.rotation, memory.columns + threadIdx.x);
  }

  const uint32_t mean_at = kIsValue ? layout.v_mean : layout.k_mean;
  auto* mean_scale =
      reinterpret_cast<__half*>(page + layout.mean_scales) + 2 * head + (kIsValue ? 1 : 0);
  if (mean_at != 0) {
    SubtractMean(memory, row, reinterpret_cast<int8_t*>(head_page + mean_at), mean_scale);
  } else if (threadIdx.x == 0) {
    *mean_scale = __ushort_as_half(0);
  }
  __syncthreads();  // nibbles take the place of what was read

  uint8_t* codes = head_page + (kIsValue ? layout.v_codes : layout.k_codes);
  auto* scales =
      reinterpret_cast<__half*>(head_page + (kIsValue ? layout.v_scales : layout.k_scales));
  const float slope = kIsValue ? args.v_guess : args.k_guess;
  switch (kIsValue ? format.v_bits : format.k_bits) {
    case 2:
      return StoreCodes<kDim, 2, kIsValue>(memory, row, slope, codes, scales);
    case 3:
      return StoreCodes<kDim, 3, kIsValue>(memory, row, slope, codes, scales);
    default:
      return StoreCodes<kDim, 4, kIsValue>(memory, row, slope, codes, scales);
  }
}

// kMoves: of a sequence of which at most one page is sealed, this block moves the
// open rows of its side and head too, and is all that appending does.
template <int kDim, bool kIsDefault, bool kMoves>
__global__ void __launch_bounds__(kThreads, kBlocks)
    SealKernel(const __grid_constant__ AppendArgs args) {
  LetNextStart();
  __shared__ SealMemory<kDim, kIsDefault> memory;
  const uint32_t heads = args.format.num_kv_heads;
  const uint32_t seq = blockIdx.z, head = blockIdx.y % heads;
  const bool is_value = blockIdx.y >= heads;  // in this order the code in use changes seldom
  const AppendPlan plan = args.Plan(seq);
  if (blockIdx.x < plan.pages) {
    if (is_value) {
      SealPart<kDim, kIsDefault, true>(memory, args, plan, seq, head, blockIdx.x);
    } else {
      SealPart<kDim, kIsDefault, false>(memory, args, plan, seq, head, blockIdx.x);
    }
  }
  if constexpr (kMoves) {
    __syncthreads();
    MoveOpenRows(args, plan, seq, head, is_value, 2 * heads);
  }
}

template <int kDim, bool kMoves>
void Launch(const AppendArgs& args, uint32_t pages, CUstream_st* stream) {
  const dim3 grid(pages, 2 * args.format.num_kv_heads, args.state.num_seqs);
  if (args.format.has_default_rotations) {
    SealKernel<kDim, true, kMoves><<<grid, kThreads, 0, stream>>>(args);
  } else {
    SealKernel<kDim, false, kMoves><<<grid, kThreads, 0, stream>>>(args);
  }
}

}  // namespace

void LaunchSeal(const AppendArgs& args, CUstream_st* stream) {
  // Less than a page and the reserve are open before.
  const uint32_t most = (args.n + kPageTokens - 1) / kPageTokens;
  if (args.format.IsBanded()) return LaunchSealBands(args, most, false, stream);
  if (args.format.is_fixed_point) return LaunchSealFixed(args, most, false, stream);
  if (args.format.head_dim == 64) {
    Launch<64, false>(args, most, stream);
  } else {
    Launch<128, false>(args, most, stream);
  }
}

void LaunchSealAndMove(const AppendArgs& args, CUstream_st* stream) {
  if (args.format.IsBanded()) return LaunchSealBands(args, 1, true, stream);
  if (args.format.is_fixed_point) return LaunchSealFixed(args, 1, true, stream);
  if (args.format.head_dim == 64) {
    Launch<64, true>(args, 1, stream);
  } else {
    Launch<128, true>(args, 1, stream);
  }
}

}  // namespace quash::cuda
