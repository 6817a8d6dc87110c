// Pages and open tokens back to rows: a block makes one side of one head of a page,
// or of 64 open tokens.
#include <cuda_runtime.h>

#include "kernels/cuda/read_place.cuh"
#include "kernels/cuda/seal.h"
#include "kernels/cuda/seal_launch.h"
#include "kernels/cuda/seal_rows.cuh"

namespace quash::cuda {
namespace {

constexpr int kThreads = kPageTokens;
constexpr int kBlocks = 6;  // of a multiprocessor, as registers allow

enum class Rounds { kTables, kDefault, kOne };  // of a rotation: kOne of QUASH_KV_RHT

template <int kDim, Rounds kRounds>
struct ReadMemory {
  static constexpr bool kHasTables = kRounds == Rounds::kTables;
  union {
    uint4 staged[kPageTokens * kDim / 8];                    // rows as they go
    float columns[kHasTables ? (kDim * kColumnStride) : 1];  // [coordinate][token]
    uint4 codes[kPageTokens * (kDim / 32 + 1)];
  };
  alignas(16) float mean[kDim];
  alignas(16) float factors[kRounds == Rounds::kOne ? kDim : 4];
  float levels[16];  // by the codes of kernels/attend.h
  RotationMemory<kHasTables ? kDim : 8> rotation;
};

// Code j of a row of kN codes.
template <int kN, int kBits>
__device__ __forceinline__ uint32_t CodeAt(const uint8_t* row, int j) {
  constexpr int kWidth = kBits == 3 ? 2 : kBits;
  constexpr int kBytes = kN * kWidth / 8;
  uint32_t code = row[j % kBytes] >> j / kBytes * kWidth & ((1u << kWidth) - 1);
  if constexpr (kBits == 3) code |= (row[kBytes + j % (kN / 8)] >> j / (kN / 8) & 1u) << 2;
  return code;
}

// Estimates of the residual of this thread's token.
template <int kDim, int kBits, bool kIsValue, typename Memory>
__device__ __forceinline__ void Estimate(Memory& memory, const uint8_t* codes,
                                         const int8_t* levels, float scale,
                                         TokenRow<kDim>& row) {
  const int token = threadIdx.x;
  constexpr int kHalf = 1 << (kBits - 1);
  if (token < 2 * kHalf) {
    memory.levels[token] = levels[token < kHalf ? kHalf + token : 2 * kHalf - 1 - token];
  }
  // Rows of keys are read by a thread each, and some need padding to be in
  // different banks.
  constexpr int kRowBytes = kDim * kBits / 8;
  constexpr int kPadding = !kIsValue && kRowBytes % 32 == 0 ? 16 : 0;
  constexpr int kVectors = kPageTokens * kRowBytes / 16;
#pragma unroll
  for (int i = token; i < kVectors; i += kThreads) {
    memory.codes[i + (kPadding == 0 ? 0 : i / (kRowBytes / 16))] =
        reinterpret_cast<const uint4*>(codes)[i];
  }
  __syncthreads();
  const auto* bytes = reinterpret_cast<const uint8_t*>(memory.codes);
  if constexpr (kIsValue) {
#pragma unroll
    for (int j = 0; j < kDim; ++j) {
      const uint8_t* of_coordinate = bytes + j * (kPageTokens * kBits / 8);
      row.v[j] = scale * memory.levels[CodeAt<kPageTokens, kBits>(of_coordinate, token)];
    }
    return;
  }
  uint32_t words[kDim * kBits / 32];
  const auto* from = reinterpret_cast<const uint2*>(bytes + token * (kRowBytes + kPadding));
#pragma unroll
  for (int w = 0; w < kDim * kBits / 32; w += 2) {
    const uint2 two = from[w / 2];  // rows are 8-byte aligned
    words[w] = two.x, words[w + 1] = two.y;
  }
  constexpr int kWidth = kBits == 3 ? 2 : kBits;
  constexpr int kBytes = kDim * kWidth / 8;
#pragma unroll
  for (int j = 0; j < kDim; ++j) {
    const int byte = j % kBytes;
    uint32_t code =
        words[byte / 4] >> (8 * (byte % 4) + j / kBytes * kWidth) & ((1u << kWidth) - 1);
    if constexpr (kBits == 3) {
      const int sign = kBytes + j % (kDim / 8);
      code |= (words[sign / 4] >> (8 * (sign % 4) + j / (kDim / 8)) & 1u) << 2;
    }
    row.v[j] = scale * memory.levels[code];
  }
}

// Staged rows to vectors begin.. of theirs.
template <int kDim>
__device__ __forceinline__ void Unstage(const uint4* staged, uint8_t* to, int64_t stride,
                                        uint32_t begin) {
  constexpr uint32_t kVectors = kDim / 8;
  const uint32_t vector = threadIdx.x % kVectors;
#pragma unroll
  for (uint32_t row = threadIdx.x / kVectors; row < kPageTokens; row += kThreads / kVectors) {
    reinterpret_cast<uint4*>(to + row * stride)[begin + vector] =
        staged[StagedAt(row, vector, kVectors)];
  }
}

// One side of one head of a page.
template <int kDim, Rounds kRounds, bool kIsValue>
__device__ __forceinline__ void ReadPart(ReadMemory<kDim, kRounds>& memory, const ReadArgs& args,
                                         const uint8_t* page, uint32_t head, uint8_t* to) {
  const SealFormat& format = args.format;
  const PageLayout& layout = format.layout;
  const uint8_t* head_page = page + head * layout.head_page_bytes;
  const uint32_t thread = threadIdx.x;
  const RotationTables& rotation = kIsValue ? format.v_rotation : format.k_rotation;
  if constexpr (kRounds == Rounds::kTables) memory.rotation.Load(rotation);
  if constexpr (kRounds == Rounds::kOne) {
    for (uint32_t j = thread; j < kDim; j += kThreads) memory.factors[j] = rotation.factors[j];
  }
  const uint32_t mean_at = kIsValue ? layout.v_mean : layout.k_mean;
  if (mean_at != 0) {
    const __half mean_scale =
        reinterpret_cast<const __half*>(page + layout.mean_scales)[2 * head + (kIsValue ? 1 : 0)];
    for (uint32_t j = thread; j < kDim; j += kThreads) {
      memory.mean[j] = __half2float(mean_scale) *
                       static_cast<float>(static_cast<int8_t>(head_page[mean_at + j]));
    }
  }
  const uint8_t* codes = head_page + (kIsValue ? layout.v_codes : layout.k_codes);
  const int8_t* levels = kIsValue ? format.v_levels : format.k_levels;
  const float scale = __half2float(reinterpret_cast<const __half*>(
      head_page + (kIsValue ? layout.v_scales : layout.k_scales))[thread]);
  TokenRow<kDim> row;
  switch (kIsValue ? format.v_bits : format.k_bits) {
    case 2:
      Estimate<kDim, 2, kIsValue>(memory, codes, levels, scale, row);
      break;
    case 3:
      Estimate<kDim, 3, kIsValue>(memory, codes, levels, scale, row);
      break;
    default:
      Estimate<kDim, 4, kIsValue>(memory, codes, levels, scale, row);
  }
  if (mean_at != 0) {
#pragma unroll
    for (int j = 0; j < kDim; j += 4) {
      const float4 four = *reinterpret_cast<const float4*>(memory.mean + j);
      row.v[j] += four.x;
      row.v[j + 1] += four.y;
      row.v[j + 2] += four.z;
      row.v[j + 3] += four.w;
    }
  }
  __syncthreads();  // codes are read
  if constexpr (kRounds == Rounds::kDefault) {
    row.template RotateBackByDefault<kIsValue>();
  } else if constexpr (kRounds == Rounds::kOne) {
    row.Hadamard();
#pragma unroll
    for (int j = 0; j < kDim; j += 4) {
      const float4 four = *reinterpret_cast<const float4*>(memory.factors + j);
      row.v[j] *= four.x;
      row.v[j + 1] *= four.y;
      row.v[j + 2] *= four.z;
      row.v[j + 3] *= four.w;
    }
  } else {
    row.RotateBack(memory.rotation, memory.columns + thread);
    __syncthreads();  // staged rows take the place of columns
  }
  constexpr uint32_t kVectors = kDim / 8;
  const auto unstage = [&](uint32_t begin) {
    __syncthreads();
    Unstage<kDim>(memory.staged, to, args.strides.token, begin);
  };
  row.Save(
      args.type,
      [&](uint32_t i, uint4 vector) {
        memory.staged[StagedAt(thread, i % kVectors, kVectors)] = vector;
      },
      [&] {
        unstage(0);
        __syncthreads();
      });
  unstage(args.type == RowType::kF32 ? kVectors : 0);
}

template <int kDim, Rounds kRounds>
__global__ void __launch_bounds__(kThreads, kBlocks)
    ReadKernel(const __grid_constant__ ReadArgs args) {
  __shared__ ReadMemory<kDim, kRounds> memory;
  const ReadPlace place(args);
  if (place.page == nullptr) {
    const uint8_t* open = args.OpenRow(place, threadIdx.x);
    if (open == nullptr) return;
    const auto* from = reinterpret_cast<const uint4*>(open);
    auto* vectors = reinterpret_cast<uint4*>(place.to + threadIdx.x * args.strides.token);
    TokenRow<kDim> row;
    row.Load(args.format.type, [&](uint32_t i) { return from[i]; }, [] {});
    row.Save(args.type, [&](uint32_t i, uint4 vector) { vectors[i] = vector; }, [] {});
    return;
  }
  if (place.is_value) {
    ReadPart<kDim, kRounds, true>(memory, args, place.page, place.head, place.to);
  } else {
    ReadPart<kDim, kRounds, false>(memory, args, place.page, place.head, place.to);
  }
}

template <int kDim>
void Launch(const ReadArgs& args, dim3 grid, CUstream_st* stream) {
  if (args.format.is_fixed_point) {
    ReadKernel<kDim, Rounds::kOne><<<grid, kThreads, 0, stream>>>(args);
  } else if (args.format.has_default_rotations) {
    ReadKernel<kDim, Rounds::kDefault><<<grid, kThreads, 0, stream>>>(args);
  } else {
    ReadKernel<kDim, Rounds::kTables><<<grid, kThreads, 0, stream>>>(args);
  }
}

}  // namespace

const char* LaunchRead(const SealFormat& format, const SequenceState& state, uint32_t first,
                       uint32_t n, RowType type, void* k, void* v, RowStrides strides,
                       const int32_t* begins, CUstream_st* stream) {
  if (first % kPageTokens != 0) return "the first token is not a multiple of 64";
  if (n == 0) return nullptr;
  if (format.head_dim != 64 && format.head_dim != 128 && format.head_dim != 256) {
    return "head_dim is not 64, 128 or 256";
  }
  if (state.num_seqs == 0 || state.num_seqs > 65535) return "num_seqs is not in 1..65535";
  const int64_t size = type == RowType::kF32 ? 4 : 2;
  const RowStrides bytes = {strides.seq * size, strides.head * size, strides.token * size};
  const auto is_aligned = [](int64_t value) { return value % 16 == 0; };
  if (!is_aligned(reinterpret_cast<int64_t>(k)) || !is_aligned(reinterpret_cast<int64_t>(v)) ||
      !is_aligned(bytes.seq) || !is_aligned(bytes.head) || !is_aligned(bytes.token)) {
    return "rows of keys and values are not 16-byte aligned";
  }
  const ReadArgs args = {format, state, type, static_cast<uint8_t*>(k), static_cast<uint8_t*>(v),
                         bytes,  begins, first};
  const dim3 grid((n + kPageTokens - 1) / kPageTokens, 2 * format.num_kv_heads, state.num_seqs);
  if (format.IsBanded()) {
    LaunchReadBands(args, n, stream);
  } else if (format.head_dim == 64) {
    Launch<64>(args, grid, stream);
  } else {
    Launch<128>(args, grid, stream);
  }
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace quash::cuda
