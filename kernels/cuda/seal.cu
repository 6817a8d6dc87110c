// Sealing: a block makes one side of one head page.
#include <cuda_runtime.h>

#include "kernels/cuda/seal.h"
#include "kernels/cuda/seal_launch.h"
#include "kernels/cuda/seal_rows.cuh"

namespace quash::cuda {
namespace {

template <int kDim, int kBits>
__device__ void StoreCodes(PageMemory<kDim>& memory, const uint32_t (&bytes)[kDim / 4],
                           bool is_value, uint8_t* codes) {
  const int token = threadIdx.x;
  if (!is_value) {
    constexpr int kWords = kDim * kBits / 32;
    uint32_t row[kWords];
    PackRow<kDim, kBits>(bytes, row);
    auto* to = reinterpret_cast<uint2*>(codes) + token * (kWords / 2);  // 8-byte aligned
#pragma unroll
    for (int w = 0; w < kWords; w += 2) to[w / 2] = make_uint2(row[w], row[w + 1]);
    return;
  }
  // Values: a row per coordinate, from all threads.
#pragma unroll
  for (int j = 0; j < kDim; ++j) {
    memory.codes[j * kCodeStride + token] = static_cast<uint8_t>(bytes[j / 4] >> 8 * (j % 4));
  }
  __syncthreads();
  constexpr int kWords = kPageTokens * kBits / 32;
  for (int j = token; j < kDim; j += kPageTokens) {
    const auto* from = reinterpret_cast<const uint32_t*>(memory.codes + j * kCodeStride);
    uint32_t column[kPageTokens / 4], row[kWords];
#pragma unroll
    for (int w = 0; w < static_cast<int>(kPageTokens) / 4; ++w) column[w] = from[w];
    PackRow<kPageTokens, kBits>(column, row);
    auto* to = reinterpret_cast<uint2*>(codes) + j * (kWords / 2);
#pragma unroll
    for (int w = 0; w < kWords; w += 2) to[w / 2] = make_uint2(row[w], row[w + 1]);
  }
}

// Codes and scales of the residuals.
template <int kDim, int kBits>
__device__ void Quantize(PageMemory<kDim>& memory, TokenRow<kDim>& row, bool is_value,
                         uint8_t* codes, __half* scales) {
  constexpr uint32_t kHalf = 1u << (kBits - 1);
  constexpr int kLanes = 16;
  float lanes[kLanes] = {};
#pragma unroll
  for (int j = 0; j < kDim; ++j) lanes[j % kLanes] += row.v[j] * row.v[j];
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  const float norm = sqrtf(lanes[0]);
  const bool is_zero = !(norm > 0);
  double dot = 0;
  int square = 0;
  uint32_t bytes[kDim / 4] = {};
#pragma unroll
  for (int j = 0; j < kDim; ++j) {
    uint32_t code = 0;
    if (!is_zero) {
      const float unit = row.v[j] / norm;
#pragma unroll
      for (uint32_t step = kHalf; step > 0; step /= 2) {
        code += unit > memory.boundaries[code + step - 1] ? step : 0;
      }
      const double level = memory.levels[code];
      dot = fma(level, static_cast<double>(unit), dot);  // the product is exact
      square += static_cast<int>(level) * static_cast<int>(level);
    }
    bytes[j / 4] |= (code ^ (code >= kHalf ? kHalf : 2 * kHalf - 1)) << 8 * (j % 4);
  }
  scales[threadIdx.x] =
      is_zero ? __half(__ushort_as_half(0)) : ToF16(static_cast<float>(norm * dot / square));
  StoreCodes<kDim, kBits>(memory, bytes, is_value, codes);
}

template <int kDim>
__global__ void __launch_bounds__(kPageTokens, kPageBlocks)
    SealKernel(const __grid_constant__ AppendArgs args) {
  __shared__ PageMemory<kDim> memory;
  const uint32_t seq = blockIdx.z, head = blockIdx.y / 2;
  const bool is_value = blockIdx.y % 2 != 0;
  const AppendPlan plan = args.Plan(seq);
  if (blockIdx.x >= plan.pages) return;
  const uint32_t at = static_cast<uint32_t>(args.state.num_pages[seq]) + blockIdx.x;
  if (at >= args.state.max_pages) return;  // AppendKernel says so
  const SealFormat& format = args.format;
  const PageLayout& layout = format.layout;
  const int32_t id = args.state.block_table[static_cast<size_t>(seq) * args.state.max_pages + at];
  uint8_t* page = args.state.pages + static_cast<size_t>(id) * layout.page_bytes;
  uint8_t* head_page = page + head * layout.head_page_bytes;
  const int thread = threadIdx.x;

  memory.LoadTables(is_value ? format.v_rotation : format.k_rotation);
  if (thread < 16) {
    memory.levels[thread] = is_value ? format.v_levels[thread] : format.k_levels[thread];
    memory.boundaries[thread] =
        is_value ? format.v_boundaries[thread] : format.k_boundaries[thread];
  }
  TokenRow<kDim> row;
  row.Load(args.Row(plan, seq, head, is_value, blockIdx.x * kPageTokens + thread), format.type);
  __syncthreads();
  float* column = memory.columns + thread;
  row.Rotate(memory, column);

  const uint32_t mean_at = is_value ? layout.v_mean : layout.k_mean;
  auto* mean_scale =
      reinterpret_cast<__half*>(page + layout.mean_scales) + 2 * head + (is_value ? 1 : 0);
  if (mean_at != 0) {
    row.Store(column);
    __syncthreads();
    double sums[kDim / kPageTokens], largest = 0;
#pragma unroll
    for (int i = 0; i < kDim / static_cast<int>(kPageTokens); ++i) {
      const float* of_token = memory.columns + (thread + i * kPageTokens) * kColumnStride;
      double sum = 0;
      for (int t = 0; t < static_cast<int>(kPageTokens); ++t) sum += of_token[t];
      sums[i] = sum / kPageTokens;
      largest = fmax(largest, fabs(sums[i]));
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
    auto* mean = reinterpret_cast<int8_t*>(head_page + mean_at);
#pragma unroll
    for (int i = 0; i < kDim / static_cast<int>(kPageTokens); ++i) {
      const double steps = scale > 0 ? fmin(fmax(nearbyint(sums[i] / scale), -127.0), 127.0) : 0.0;
      const auto byte = static_cast<int8_t>(steps);
      mean[thread + i * kPageTokens] = byte;
      memory.mean[thread + i * kPageTokens] = byte;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kDim; ++j) row.v[j] -= scale * memory.mean[j];
  } else if (thread == 0) {
    *mean_scale = __ushort_as_half(0);
  }
  __syncthreads();  // codes take the place of columns

  uint8_t* codes = head_page + (is_value ? layout.v_codes : layout.k_codes);
  auto* scales =
      reinterpret_cast<__half*>(head_page + (is_value ? layout.v_scales : layout.k_scales));
  switch (is_value ? format.v_bits : format.k_bits) {
    case 2:
      return Quantize<kDim, 2>(memory, row, is_value, codes, scales);
    case 3:
      return Quantize<kDim, 3>(memory, row, is_value, codes, scales);
    default:
      return Quantize<kDim, 4>(memory, row, is_value, codes, scales);
  }
}

}  // namespace

void LaunchSeal(const AppendArgs& args, CUstream_st* stream) {
  const SealFormat& format = args.format;
  // Less than a page and the reserve are open before.
  const uint32_t most = (args.n + kPageTokens - 1) / kPageTokens;
  const dim3 grid(most, 2 * format.num_kv_heads, args.state.num_seqs);
  if (format.head_dim == 64) {
    SealKernel<64><<<grid, kPageTokens, 0, stream>>>(args);
  } else {
    SealKernel<128><<<grid, kPageTokens, 0, stream>>>(args);
  }
}

}  // namespace quash::cuda
