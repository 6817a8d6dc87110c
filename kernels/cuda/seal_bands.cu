// Sealing where formats have two bands, and at head_dim 256: a block makes one side
// of one head page.
#include <cuda_runtime.h>

#include "kernels/cuda/append_plan.cuh"
#include "kernels/cuda/band_rows.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/seal.h"
#include "kernels/cuda/seal_launch.h"
#include "kernels/cuda/warp_rotation.cuh"

namespace quash::cuda {
namespace {

template <int kDim>
struct BandMemory {
  // Bytes between rows of codes: whole words of keys, and of values an odd number of
  // words, as neighbouring lanes write neighbouring rows.
  static constexpr uint32_t kKeyStride = kDim, kValueStride = kPageTokens + 4;

  alignas(16) float rows[kPageTokens][kDim];
  // A byte each: sign-magnitude codes of kernels/attend.h with the sign at bit 3.
  alignas(16) uint8_t codes[kDim * kValueStride];
  float mean[kDim];
  float norms[kPageTokens];
  double largest[kBandWarps];
  float levels[16], boundaries[16];
};

// Norm of a row as kernels' dot_f32() adds it; by a warp, all of whose reads come
// before the sum is known.
__device__ __forceinline__ float NormOf(const float* row, uint32_t dim, int lane) {
  constexpr int kLanes = 16;
  float sum = 0;
  for (uint32_t j = lane % kLanes; j < dim; j += kLanes) sum += row[j] * row[j];
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) sum += __shfl_xor_sync(kAllLanes, sum, half);
  return sqrtf(sum);
}

// The mean of the page's rows, in int8, and what they are without it.
template <int kDim>
__device__ __forceinline__ void SubtractMean(BandMemory<kDim>& memory, int8_t* mean,
                                             __half* mean_scale) {
  static_assert(kDim <= kBandThreads);
  const int thread = threadIdx.x;
  double sum = 0;
  if (thread < kDim) {
    for (uint32_t t = 0; t < kPageTokens; ++t) sum += memory.rows[t][thread];
    sum /= kPageTokens;
  }
  double largest = fabs(sum);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    largest = fmax(largest, __shfl_xor_sync(kAllLanes, largest, step));
  }
  if (thread % 32 == 0) memory.largest[thread / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kBandWarps; ++warp) largest = fmax(largest, memory.largest[warp]);
  const __half rounded = ToF16(static_cast<float>(largest / 127));
  const float scale = __half2float(rounded);
  if (thread == 0) *mean_scale = rounded;
  if (thread < kDim) {
    const double steps = scale > 0 ? fmin(fmax(nearbyint(sum / scale), -127.0), 127.0) : 0.0;
    const auto byte = static_cast<int8_t>(steps);
    mean[thread] = byte;
    const float of_coordinate = scale * static_cast<float>(byte);
    for (uint32_t t = 0; t < kPageTokens; ++t) memory.rows[t][thread] -= of_coordinate;
  }
  __syncthreads();
}

// Codes of a token in a band, by a warp: quotients, boundaries and sums as on the CPU.
template <int kDim>
class RowCoder {
 public:
  __device__ RowCoder(BandMemory<kDim>& memory, const SealFormat& format, const Band& band,
                      bool is_value, uint32_t token, int lane)
      : memory_(memory),
        format_(format),
        band_(band),
        is_value_(is_value),
        token_(token),
        lane_(lane),
        row_(memory.rows[token] + band.begin),
        norm_(NormOf(row_, band.dim, lane)) {}

  // Of levels and a scale of least squares.
  __device__ float Code() {
    if (!(norm_ > 0)) return NoCodes();
    double dot = 0;
    uint32_t square = 0;
    for (uint32_t j = lane_; j < band_.dim; j += 32) {
      const float unit = row_[j] / norm_;
      const uint32_t code = CodeOf(unit);
      Put(j, code);
      const float level = memory_.levels[code];
      dot += level * static_cast<double>(unit);  // exact
      square += static_cast<uint32_t>(level * level);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      dot += __shfl_xor_sync(kAllLanes, dot, step);
      square += __shfl_xor_sync(kAllLanes, square, step);
    }
    const auto scale_of = [&](double sum) { return static_cast<float>(norm_ * sum / square); };
    // In any order the sum is within 2^-45; in the end it must be the CPU's float16.
    const float least = scale_of(dot * (1 - 0x1p-44)), most = scale_of(dot * (1 + 0x1p-44));
    if (__half_as_ushort(ToF16(least)) == __half_as_ushort(ToF16(most))) return least;
    dot = 0;
    for (uint32_t j = 0; j < band_.dim; ++j) {
      const float unit = row_[j] / norm_;
      dot += memory_.levels[CodeOf(unit)] * static_cast<double>(unit);
    }
    return scale_of(dot);
  }

  // The same with the codebook's step as the scale; leaves the rest of the unit row.
  __device__ float CodeAndSubtract() {
    if (lane_ == 0) memory_.norms[token_] = norm_ > 0 ? norm_ : 0;
    if (!(norm_ > 0)) {
      // Of a row that only squares to 0, the CPU's sketch is of what there is, but of a
      // difference to the mean of nothing.
      if (format_.layout.k_mean != 0) {
        for (uint32_t j = lane_; j < band_.dim; j += 32) row_[j] = 0;
      }
      return NoCodes();
    }
    for (uint32_t j = lane_; j < band_.dim; j += 32) {
      const float unit = row_[j] / norm_;
      const uint32_t code = CodeOf(unit);
      Put(j, code);
      row_[j] = unit - format_.k_step * memory_.levels[code];
    }
    return norm_ * format_.k_step;
  }

  // Signs of the sketch.
  __device__ float CodeSigns() {
    if (!(norm_ > 0)) return NoCodes();
    for (uint32_t j = lane_; j < band_.dim; j += 32) Put(j, row_[j] > 0 ? 1 : 0);
    return memory_.norms[token_] * norm_ * format_.sketch_factor;
  }

 private:
  // How many boundaries are below.
  __device__ __forceinline__ uint32_t CodeOf(float unit) const {
    uint32_t code = 0;
    for (uint32_t step = 1u << (band_.bits - 1); step != 0; step /= 2) {
      if (unit > memory_.boundaries[code + step - 1]) code += step;
    }
    return code;
  }
  __device__ __forceinline__ void Put(uint32_t j, uint32_t code) {
    const uint32_t half = 1u << (band_.bits - 1);
    const uint32_t byte = code >= half ? code - half : (half - 1 - code) | 8;
    memory_.codes[is_value_ ? j * BandMemory<kDim>::kValueStride + token_
                            : token_ * BandMemory<kDim>::kKeyStride + j] =
        static_cast<uint8_t>(byte);
  }
  __device__ float NoCodes() {
    for (uint32_t j = lane_; j < band_.dim; j += 32) Put(j, 0);
    return 0;
  }

  BandMemory<kDim>& memory_;
  const SealFormat& format_;
  const Band& band_;
  const bool is_value_;
  const uint32_t token_;
  const int lane_;
  float* const row_;
  const float norm_;
};

// Word w of a row of `count` codes, four a word of `codes`.
__device__ __forceinline__ uint32_t PackedWord(const uint32_t* codes, uint32_t count, uint32_t bits,
                                               uint32_t w) {
  constexpr uint32_t kBytes = 0x01010101;
  if (bits == 4) return codes[w] | codes[w + count / 8] << 4;
  uint32_t word = 0;
  const uint32_t crumbs = bits == 1 ? 0 : count / 16;
  if (w < crumbs) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t x = codes[w + i * crumbs];
      word |= (bits == 3 ? x & 3 * kBytes : (x & kBytes) | (x >> 2 & 2 * kBytes)) << 2 * i;
    }
    return word;
  }
  const uint32_t signs = count / 32;
#pragma unroll
  for (int i = 0; i < 8; ++i) word |= (codes[w - crumbs + i * signs] >> 3 & kBytes) << i;
  return word;
}

// One side of one head of page `index` of those to be sealed.
template <int kDim>
__device__ __forceinline__ void SealPart(BandMemory<kDim>& memory, const AppendArgs& args,
                                         const AppendPlan& plan, uint32_t seq, uint32_t head,
                                         bool is_value, uint32_t index) {
  const uint32_t at = static_cast<uint32_t>(args.state.num_pages[seq]) + index;
  if (at >= args.state.max_pages) return;  // MoveOpenRows() says so
  const SealFormat& format = args.format;
  const PageLayout& layout = format.layout;
  const int32_t id = args.state.block_table[static_cast<size_t>(seq) * args.state.max_pages + at];
  uint8_t* page = args.state.pages + static_cast<size_t>(id) * layout.page_bytes;
  uint8_t* head_page = page + head * layout.head_page_bytes;
  const int thread = threadIdx.x, lane = thread % 32;
  const uint32_t warp = thread / 32;

  const uint32_t vectors = args.row_bytes / sizeof(uint4), numbers = NumbersOfVector(format.type);
  for (uint32_t i = thread; i < kPageTokens * vectors; i += kBandThreads) {
    const uint32_t token = i / vectors, vector = i % vectors;
    const uint8_t* from = args.Row(plan, seq, head, is_value, index * kPageTokens + token);
    UnpackVector(format.type, reinterpret_cast<const uint4*>(from)[vector],
                 memory.rows[token] + numbers * vector);
  }
  __syncthreads();
  using Rotation = WarpRotation<kDim, true>;
  {
    const typename Rotation::Tables tables(is_value ? format.v_rotation : format.k_rotation, lane);
    for (uint32_t t = warp; t < kPageTokens; t += kBandWarps) {
      Rotation::Apply(memory.rows[t], tables, lane);
    }
  }
  __syncthreads();
  const uint32_t mean_at = is_value ? layout.v_mean : layout.k_mean;
  auto* mean_scale =
      reinterpret_cast<__half*>(page + layout.mean_scales) + 2 * head + (is_value ? 1 : 0);
  if (mean_at != 0) {
    SubtractMean(memory, reinterpret_cast<int8_t*>(head_page + mean_at), mean_scale);
  } else if (thread == 0) {
    *mean_scale = __ushort_as_half(0);
  }

  const int bands = Band::Count(format, is_value);
  for (int b = 0; b < bands; ++b) {
    const Band band(format, is_value, b);
    const bool is_before_sketch = b == 0 && bands == 2 && !is_value && format.is_sketched;
    if (thread < 1 << band.bits) {
      memory.levels[thread] = band.levels[thread];
      memory.boundaries[thread] = band.boundaries[thread];
    }
    if (band.is_sketch) {
      const typename Rotation::Tables tables(format.sketch, lane);
      for (uint32_t t = warp; t < kPageTokens; t += kBandWarps) {
        Rotation::Apply(memory.rows[t], tables, lane);
      }
    }
    __syncthreads();
    auto* scales = reinterpret_cast<__half*>(head_page + band.scales);
    for (uint32_t t = warp; t < kPageTokens; t += kBandWarps) {
      RowCoder<kDim> coder(memory, format, band, is_value, t, lane);
      const float scale = band.is_sketch       ? coder.CodeSigns()
                          : is_before_sketch ? coder.CodeAndSubtract()
                                             : coder.Code();
      if (lane == 0) scales[t] = ToF16(scale);
    }
    __syncthreads();
    const CodeRows rows(band, is_value);
    constexpr uint32_t kKeyWords = BandMemory<kDim>::kKeyStride / 4;
    constexpr uint32_t kValueWords = BandMemory<kDim>::kValueStride / 4;
    const auto* words = reinterpret_cast<const uint32_t*>(memory.codes);
    auto* to = reinterpret_cast<uint32_t*>(head_page + band.codes);
    for (uint32_t i = thread; i < rows.count * rows.words; i += kBandThreads) {
      const uint32_t row = i / rows.words;
      to[i] = PackedWord(words + row * (is_value ? kValueWords : kKeyWords), rows.codes, band.bits,
                         i % rows.words);
    }
    __syncthreads();
  }
}

template <int kDim>
__global__ void __launch_bounds__(kBandThreads)
    SealBandsKernel(const __grid_constant__ AppendArgs args, bool moves) {
  LetNextStart();
  extern __shared__ __align__(16) uint8_t shared[];
  auto& memory = *reinterpret_cast<BandMemory<kDim>*>(shared);
  const uint32_t heads = args.format.num_kv_heads;
  const uint32_t seq = blockIdx.z, head = blockIdx.y % heads;
  const bool is_value = blockIdx.y >= heads;
  const AppendPlan plan = args.Plan(seq);
  if (blockIdx.x < plan.pages) SealPart(memory, args, plan, seq, head, is_value, blockIdx.x);
  if (!moves) return;
  __syncthreads();
  MoveOpenRows(args, plan, seq, head, is_value, 2 * heads);
}

template <int kDim>
void Launch(const AppendArgs& args, uint32_t pages, bool moves, CUstream_st* stream) {
  const dim3 grid(pages, 2 * args.format.num_kv_heads, args.state.num_seqs);
  constexpr size_t kBytes = sizeof(BandMemory<kDim>);
  // An error here is the launch's too.
  cudaFuncSetAttribute(&SealBandsKernel<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(kBytes));
  SealBandsKernel<kDim><<<grid, kBandThreads, kBytes, stream>>>(args, moves);
}

}  // namespace

void LaunchSealBands(const AppendArgs& args, uint32_t pages, bool moves, CUstream_st* stream) {
  switch (args.format.head_dim) {
    case 64:
      return Launch<64>(args, pages, moves, stream);
    case 128:
      return Launch<128>(args, pages, moves, stream);
    default:
      return Launch<256>(args, pages, moves, stream);
  }
}

}  // namespace quash::cuda
