// Pages back to rows where formats have two bands, and at head_dim 256: a block makes
// one side of one head of a page, or of 64 open tokens.
#include <cuda_runtime.h>

#include "kernels/cuda/band_rows.cuh"
#include "kernels/cuda/read_place.cuh"
#include "kernels/cuda/seal.h"
#include "kernels/cuda/seal_launch.h"
#include "kernels/cuda/warp_rotation.cuh"

namespace quash::cuda {
namespace {

template <int kDim>
struct BandReadMemory {
  alignas(16) float rows[kPageTokens][kDim];
  alignas(16) float sketches[kBandWarps][kDim];
  // Rows of packed words, each with a word more than it has, so that columns lie in
  // different banks.
  uint32_t words[kDim * (kPageTokens / 8 + 1)];
  float mean[kDim];
  float scales[kPageTokens];
  float levels[16];  // by the codes of kernels/attend.h
};

// Code j of a row of n.
__device__ __forceinline__ uint32_t CodeAt(const uint8_t* row, uint32_t n, uint32_t bits,
                                           uint32_t j) {
  const uint32_t bit_row = n / 8;
  const auto sign = [&](const uint8_t* signs) { return signs[j % bit_row] >> j / bit_row & 1u; };
  if (bits == 1) return sign(row);
  const uint32_t width = bits == 3 ? 2 : bits, bytes = n * width / 8;
  const uint32_t code = row[j % bytes] >> j / bytes * width & ((1u << width) - 1);
  return bits == 3 ? code | sign(row + bytes) << 2 : code;
}

// Codes, scales and levels of a band into shared memory, by all threads.
template <int kDim>
__device__ __forceinline__ void LoadBand(BandReadMemory<kDim>& memory, const uint8_t* head_page,
                                         const Band& band, const CodeRows& rows) {
  const uint32_t thread = threadIdx.x;
  const uint32_t half = 1u << (band.bits - 1);
  __syncthreads();  // the band before is read
  if (thread < 2 * half) {
    memory.levels[thread] = band.levels[thread < half ? half + thread : 2 * half - 1 - thread];
  }
  if (thread < kPageTokens) {
    memory.scales[thread] =
        __half2float(reinterpret_cast<const __half*>(head_page + band.scales)[thread]);
  }
  const auto* packed = reinterpret_cast<const uint32_t*>(head_page + band.codes);
  for (uint32_t i = thread; i < rows.count * rows.words; i += kBandThreads) {
    memory.words[i + i / rows.words] = packed[i];
  }
  __syncthreads();
}

// Coordinate j of token t of a band, or of its sketch.
template <int kDim>
__device__ __forceinline__ float Estimate(const BandReadMemory<kDim>& memory, const Band& band,
                                          const CodeRows& rows, bool is_value, uint32_t t,
                                          uint32_t j) {
  const auto* row = reinterpret_cast<const uint8_t*>(memory.words) +
                    4 * (rows.words + 1) * (is_value ? j : t);
  return memory.scales[t] *
         memory.levels[CodeAt(row, rows.codes, band.bits, is_value ? t : j)];
}

// One side of one head of a page, into memory.rows.
template <int kDim>
__device__ __forceinline__ void ReadPart(BandReadMemory<kDim>& memory, const SealFormat& format,
                                         const ReadPlace& place) {
  const PageLayout& layout = format.layout;
  const bool is_value = place.is_value;
  const uint8_t* head_page = place.page + place.head * layout.head_page_bytes;
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t mean_at = is_value ? layout.v_mean : layout.k_mean;
  if (mean_at != 0 && thread < kDim) {
    const __half mean_scale = reinterpret_cast<const __half*>(
        place.page + layout.mean_scales)[2 * place.head + (is_value ? 1 : 0)];
    memory.mean[thread] = __half2float(mean_scale) *
                          static_cast<float>(static_cast<int8_t>(head_page[mean_at + thread]));
  }
  using Rotation = WarpRotation<kDim, true>;
  for (int b = 0; b < Band::Count(format, is_value); ++b) {
    const Band band(format, is_value, b);
    const CodeRows rows(band, is_value);
    LoadBand(memory, head_page, band, rows);
    if (!band.is_sketch) {
      for (uint32_t t = warp; t < kPageTokens; t += kBandWarps) {
        for (uint32_t j = lane; j < band.dim; j += 32) {
          memory.rows[t][band.begin + j] = Estimate(memory, band, rows, is_value, t, j);
        }
      }
      continue;
    }
    // Rotated back into the space of the first band.
    float* const sketch = memory.sketches[warp];
    const typename Rotation::Tables tables(format.sketch, static_cast<int>(lane));
    for (uint32_t t = warp; t < kPageTokens; t += kBandWarps) {
      for (uint32_t j = lane; j < kDim; j += 32) {
        sketch[j] = Estimate(memory, band, rows, is_value, t, j);
      }
      Rotation::ApplyInverse(sketch, tables, static_cast<int>(lane));
      for (uint32_t j = lane; j < kDim; j += 32) memory.rows[t][j] += sketch[j];
      __syncwarp();
    }
  }
  __syncthreads();
  const typename Rotation::Tables tables(is_value ? format.v_rotation : format.k_rotation,
                                         static_cast<int>(lane));
  for (uint32_t t = warp; t < kPageTokens; t += kBandWarps) {
    float* row = memory.rows[t];
    if (mean_at != 0) {
      for (uint32_t j = lane; j < kDim; j += 32) row[j] += memory.mean[j];
    }
    Rotation::ApplyInverse(row, tables, static_cast<int>(lane));
  }
}

template <int kDim>
__global__ void __launch_bounds__(kBandThreads)
    ReadBandsKernel(const __grid_constant__ ReadArgs args) {
  extern __shared__ __align__(16) uint8_t shared[];
  auto& memory = *reinterpret_cast<BandReadMemory<kDim>*>(shared);
  const ReadPlace place(args);
  if (place.page != nullptr) {
    ReadPart(memory, args.format, place);
  } else {
    const uint32_t numbers = NumbersOfVector(args.format.type), vectors = kDim / numbers;
    for (uint32_t i = threadIdx.x; i < kPageTokens * vectors; i += kBandThreads) {
      const uint8_t* open = args.OpenRow(place, i / vectors);
      if (open == nullptr) continue;
      UnpackVector(args.format.type, reinterpret_cast<const uint4*>(open)[i % vectors],
                   memory.rows[i / vectors] + numbers * (i % vectors));
    }
  }
  __syncthreads();
  const uint32_t numbers = NumbersOfVector(args.type), vectors = kDim / numbers;
  for (uint32_t i = threadIdx.x; i < kPageTokens * vectors; i += kBandThreads) {
    const uint32_t token = i / vectors, vector = i % vectors;
    if (place.page == nullptr && args.OpenRow(place, token) == nullptr) continue;
    reinterpret_cast<uint4*>(place.to + token * args.strides.token)[vector] =
        PackVector(args.type, memory.rows[token] + numbers * vector);
  }
}

template <int kDim>
void Launch(const ReadArgs& args, uint32_t n, CUstream_st* stream) {
  const dim3 grid((n + kPageTokens - 1) / kPageTokens, 2 * args.format.num_kv_heads,
                  args.state.num_seqs);
  constexpr size_t kBytes = sizeof(BandReadMemory<kDim>);
  // An error here is the launch's too.
  cudaFuncSetAttribute(&ReadBandsKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(kBytes));
  ReadBandsKernel<kDim><<<grid, kBandThreads, kBytes, stream>>>(args);
}

}  // namespace

void LaunchReadBands(const ReadArgs& args, uint32_t n, CUstream_st* stream) {
  switch (args.format.head_dim) {
    case 64:
      return Launch<64>(args, n, stream);
    case 128:
      return Launch<128>(args, n, stream);
    default:
      return Launch<256>(args, n, stream);
  }
}

}  // namespace quash::cuda
