// Pages and open tokens back to rows: a block makes one side of one head of a page,
// or of 64 open tokens.
#include <cuda_runtime.h>

#include "kernels/cuda/seal.h"
#include "kernels/cuda/seal_rows.cuh"

namespace quash::cuda {
namespace {

struct ReadArgs {
  SealFormat format;
  SequenceState state;
  RowType type;
  uint8_t* k;
  uint8_t* v;
  RowStrides strides;  // in bytes
  const int32_t* begins;
};

// Estimates of the residual of this thread's token.
template <int kDim, int kBits>
__device__ void Estimate(const PageMemory<kDim>& memory, const uint8_t* codes, float scale,
                         bool is_value, TokenRow<kDim>& row) {
  const int token = threadIdx.x;
  const auto level = [&](uint32_t code) {
    constexpr uint32_t kHalf = 1u << (kBits - 1);
    return static_cast<float>(memory.levels[code ^ (code >= kHalf ? 2 * kHalf - 1 : kHalf)]);
  };
  if (is_value) {
#pragma unroll
    for (int j = 0; j < kDim; ++j) {
      const uint8_t* of_coordinate = codes + j * (kPageTokens * kBits / 8);
      row.v[j] = scale * level(CodeAt<kPageTokens, kBits>(of_coordinate, token));
    }
    return;
  }
  uint32_t words[kDim * kBits / 32];
  const auto* from = reinterpret_cast<const uint2*>(codes) + token * (kDim * kBits / 64);
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
    row.v[j] = scale * level(code);
  }
}

template <int kDim>
__global__ void __launch_bounds__(kPageTokens, kPageBlocks)
    ReadKernel(const __grid_constant__ ReadArgs args) {
  __shared__ PageMemory<kDim> memory;
  const SealFormat& format = args.format;
  const PageLayout& layout = format.layout;
  const uint32_t seq = blockIdx.z, head = blockIdx.y / 2, thread = threadIdx.x;
  const bool is_value = blockIdx.y % 2 != 0;
  const auto pages = static_cast<uint32_t>(args.state.num_pages[seq]);
  const auto open_tokens = static_cast<uint32_t>(args.state.open_tokens[seq]);
  const uint32_t sinks = min(open_tokens, format.sink_tokens);
  const int64_t begin = args.begins == nullptr ? 0 : args.begins[seq];
  const auto out_row = [&](uint32_t token) {
    return (is_value ? args.v : args.k) + seq * args.strides.seq + head * args.strides.head +
           (begin + token) * args.strides.token;
  };
  TokenRow<kDim> row;
  if (blockIdx.x >= pages) {
    const uint32_t token = (blockIdx.x - pages) * kPageTokens + thread;
    if (token >= open_tokens) return;
    const auto* open =
        static_cast<const uint8_t*>(is_value ? args.state.open_v : args.state.open_k);
    const size_t at =
        ((static_cast<size_t>(seq) * args.state.open_capacity + token) * format.num_kv_heads +
         head) *
        kDim * (format.type == RowType::kF32 ? 4 : 2);
    row.Load(open + at, format.type);
    row.Save(out_row(token < sinks ? token : token + pages * kPageTokens), args.type);
    return;
  }

  const int32_t id =
      args.state.block_table[static_cast<size_t>(seq) * args.state.max_pages + blockIdx.x];
  const uint8_t* page = args.state.pages + static_cast<size_t>(id) * layout.page_bytes;
  const uint8_t* head_page = page + head * layout.head_page_bytes;
  memory.LoadTables(is_value ? format.v_rotation : format.k_rotation);
  if (thread < 16) {
    memory.levels[thread] = is_value ? format.v_levels[thread] : format.k_levels[thread];
  }
  const uint32_t mean_at = is_value ? layout.v_mean : layout.k_mean;
  if (mean_at != 0) {
    const __half mean_scale =
        reinterpret_cast<const __half*>(page + layout.mean_scales)[2 * head + (is_value ? 1 : 0)];
    for (uint32_t j = thread; j < kDim; j += kPageTokens) {
      memory.mean[j] = __half2float(mean_scale) *
                       static_cast<float>(static_cast<int8_t>(head_page[mean_at + j]));
    }
  }
  __syncthreads();
  const uint8_t* codes = head_page + (is_value ? layout.v_codes : layout.k_codes);
  const float scale = __half2float(reinterpret_cast<const __half*>(
      head_page + (is_value ? layout.v_scales : layout.k_scales))[thread]);
  switch (is_value ? format.v_bits : format.k_bits) {
    case 2:
      Estimate<kDim, 2>(memory, codes, scale, is_value, row);
      break;
    case 3:
      Estimate<kDim, 3>(memory, codes, scale, is_value, row);
      break;
    default:
      Estimate<kDim, 4>(memory, codes, scale, is_value, row);
  }
  if (mean_at != 0) {
#pragma unroll
    for (int j = 0; j < kDim; ++j) row.v[j] += memory.mean[j];
  }
  row.RotateBack(memory, memory.columns + thread);
  row.Save(out_row(sinks + blockIdx.x * kPageTokens + thread), args.type);
}

}  // namespace

const char* LaunchRead(const SealFormat& format, const SequenceState& state, uint32_t max_tokens,
                       RowType type, void* k, void* v, RowStrides strides, const int32_t* begins,
                       CUstream_st* stream) {
  if (format.head_dim != 64 && format.head_dim != 128) return "head_dim is not 64 or 128";
  if (state.num_seqs == 0 || state.num_seqs > 65535) return "num_seqs is not in 1..65535";
  const int64_t size = type == RowType::kF32 ? 4 : 2;
  const RowStrides bytes = {strides.seq * size, strides.head * size, strides.token * size};
  const auto is_aligned = [](int64_t value) { return value % 16 == 0; };
  if (!is_aligned(reinterpret_cast<int64_t>(k)) || !is_aligned(reinterpret_cast<int64_t>(v)) ||
      !is_aligned(bytes.seq) || !is_aligned(bytes.head) || !is_aligned(bytes.token)) {
    return "rows of keys and values are not 16-byte aligned";
  }
  const ReadArgs args = {format, state, type, static_cast<uint8_t*>(k), static_cast<uint8_t*>(v),
                         bytes,  begins};
  // Pages and groups of open tokens, of which the last may be short.
  const dim3 grid(max_tokens / kPageTokens + 1, 2 * format.num_kv_heads, state.num_seqs);
  if (format.head_dim == 64) {
    ReadKernel<64><<<grid, kPageTokens, 0, stream>>>(args);
  } else {
    ReadKernel<128><<<grid, kPageTokens, 0, stream>>>(args);
  }
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace quash::cuda
