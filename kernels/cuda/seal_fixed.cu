// Sealing in fixed point: a block makes one side of one head of several pages.
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/append_plan.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/seal_fixed.cuh"
#include "kernels/cuda/seal_launch.h"

namespace quash::cuda {
namespace {

// Of a multiprocessor, as registers allow.
constexpr int BlocksOf(int dim, RowType type) {
  return type == RowType::kF32 ? 3 : dim == 64 ? 6 : 4;
}
constexpr uint64_t kManyBlocks = 4096;  // with more, blocks seal several pages
constexpr uint64_t kMostPages = 32;

struct FixedPlace {
  uint32_t seq, head;
  bool is_value;
};

// Where this thread's numbers are: of a token of each half of a page. Rows of 16 bits come
// by asynchronous copies, those of a page while the one before is computed.
template <int kDim, RowType kType>
struct RawRows {
  static constexpr int kBytes = kType == RowType::kF32 ? 32 : 16;  // of eight numbers
  const uint8_t* rows[2];

  // Page `index` of what is to be sealed.
  __device__ RawRows(const AppendArgs& args, const AppendPlan& plan, const FixedPlace& place,
                     uint32_t index) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t token = index * kPageTokens + threadIdx.x / 32 * 8 + lane / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      rows[i] = args.Row(plan, place.seq, place.head, place.is_value, token + i * 32) +
                lane % 4 * kBytes;
    }
  }
  __device__ const uint8_t* Eight(int i) const {
    return rows[i / (kDim / 32)] + i % (kDim / 32) * (4 * kBytes);
  }
  __device__ void Copy(FixedMemory<kDim>& memory) const {
    if constexpr (kType != RowType::kF32) {
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        const auto to =
            static_cast<uint32_t>(__cvta_generic_to_shared(&memory.raw[i][threadIdx.x]));
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(Eight(i)));
      }
      asm volatile("cp.async.commit_group;");
    }
  }
};

// This thread's rows as they come, [half page][half row] in eights.
template <int kDim, RowType kType>
struct RawPage {
  using Rows = RawRows<kDim, kType>;
  static constexpr bool kIsWide = kType == RowType::kF32;  // not held: read twice
  uint4 eights[kIsWide ? 1 : kDim / 16];
  Rows rows;

  __device__ RawPage(const FixedMemory<kDim>& memory, const Rows& from) : rows(from) {
    if constexpr (!kIsWide) {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) eights[i] = memory.raw[i][threadIdx.x];
    }
  }
  __device__ float2 Two(int i, int pair) const {
    if constexpr (kIsWide) {
      return reinterpret_cast<const float2*>(rows.Eight(i))[pair];
    } else {
      const uint4& v = eights[i];
      return ToFloats<kType == RowType::kF16>(pair == 0   ? v.x
                                              : pair == 1 ? v.y
                                              : pair == 2 ? v.z
                                                          : v.w);
    }
  }
  // Bits of float.
  __device__ uint32_t Largest() const {
    if constexpr (!kIsWide) {
      return LargestOfPairs<kType == RowType::kF16>(eights);
    } else {
      float largest = 0;
      for (int i = 0; i < kDim / 16; ++i) {
        for (int pair = 0; pair < 4; ++pair) {
          const float2 two = Two(i, pair);
          largest = fmaxf(largest, fmaxf(fabsf(two.x), fabsf(two.y)));
        }
      }
      return __float_as_uint(largest);
    }
  }
};

// Codes of keys: a row per token.
template <int kDim, int kBits>
__device__ __forceinline__ void StoreFixedKeys(const uint32_t (&words)[2][2][kDim / 64],
                                               uint8_t* codes) {
  constexpr int kRowBytes = kDim * kBits / 8;
  constexpr int kCrumbWords = kDim / 16, kSignWords = kDim / 32;
  const int lane = threadIdx.x % 32, group = lane / 4;
  const int token = threadIdx.x / 32 * 8 + lane % 4 * 2;
#pragma unroll
  for (int page_half = 0; page_half < 2; ++page_half) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      auto* row = reinterpret_cast<uint32_t*>(codes + (page_half * 32 + token + column) * kRowBytes);
      const uint32_t(&word)[kDim / 64] = words[page_half][column];
      if constexpr (kBits == 4) {
#pragma unroll
        for (int pair = 0; pair < kDim / 64; ++pair) row[8 * pair + group] = word[pair];
      } else {
        // Of 64 numbers, and their signs of 128, threads put together what is in one word.
        uint32_t crumbs = ToCrumbs<kBits>(word[0]);
        if constexpr (kDim == 128) {
          crumbs |= ToCrumbs<kBits>(word[1]) << 2;
        } else {
          crumbs <<= group / kCrumbWords * 2;
          crumbs |= __shfl_xor_sync(kAllLanes, crumbs, 16);
        }
        if (group < kCrumbWords) row[group] = crumbs;
        if constexpr (kBits == 3) {
          uint32_t signs = word[0] >> 3 & kOnes;
          if constexpr (kDim == 128) signs |= (word[1] >> 3 & kOnes) << 2;
          signs <<= group / kSignWords;
          if constexpr (kDim == 64) signs |= __shfl_xor_sync(kAllLanes, signs, 8);
          signs |= __shfl_xor_sync(kAllLanes, signs, 16);
          if (group < kSignWords) row[kCrumbWords + group] = signs;
        }
      }
    }
  }
}

// Codes of values: a row per coordinate, from all threads.
template <int kDim, int kBits>
__device__ __forceinline__ void StoreFixedValues(FixedMemory<kDim>& memory,
                                                 const uint32_t (&words)[2][2][kDim / 64],
                                                 uint8_t* codes) {
  constexpr uint32_t kLow = 0x0f0f0f0f;
  constexpr int kStride = 36;  // bytes between coordinates
  const int thread = threadIdx.x, lane = thread % 32;
  auto* bytes =
      reinterpret_cast<uint8_t*>(memory.columns) + lane / 4 * 4 * kStride + thread / 32 * 8 +
      lane % 4 * 2;
#pragma unroll
  for (int pair = 0; pair < kDim / 64; ++pair) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t of_column[2];
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const uint32_t a = words[0][column][pair], b = words[1][column][pair];
        of_column[column] =
            half == 0 ? (a & kLow) | (b & kLow) << 4 : (a >> 4 & kLow) | (b & ~kLow);
      }
#pragma unroll
      for (int c = 0; c < 4; c += 2) {
        const uint32_t two = __byte_perm(of_column[0], of_column[1], c == 0 ? 0x5140 : 0x7362);
        uint8_t* to = bytes + (half * (kDim / 2) + 32 * pair + c) * kStride;
        *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(two);
        *reinterpret_cast<uint16_t*>(to + kStride) = static_cast<uint16_t>(two >> 16);
      }
    }
  }
  __syncthreads();
  if (kDim == kFixedThreads || thread < kDim) {
    uint32_t nibbles[8], row[kPageTokens * kBits / 32];
#pragma unroll
    for (int i = 0; i < 8; ++i) nibbles[i] = memory.columns[thread * (kStride / 4) + i];
    PackNibbles<kPageTokens, kBits>(nibbles, row);
    auto* to = reinterpret_cast<uint2*>(codes + thread * (kPageTokens * kBits / 8));
#pragma unroll
    for (int w = 0; w < kPageTokens * kBits / 32; w += 2) to[w / 2] = make_uint2(row[w], row[w + 1]);
  }
}

// Codes and scales of rows without their mean.
template <int kDim, int kBits>
__device__ __forceinline__ void StoreFixed(FixedMemory<kDim>& memory, const FixedRows<kDim>& rows,
                                           const FixedPointCode& code, const int8_t* levels,
                                           float from_grid, bool is_value, uint8_t* codes,
                                           __half* scales) {
  constexpr int kHalf = 1 << (kBits - 1);
  const int lane = threadIdx.x % 32;
  const float square = FixedSquare<kDim>(rows);  // of whole numbers: 0 or at least 1
  const float norm = square > 0 ? Root(square) : 0.0f;
  const float reach = square > 0 ? Quotient(code.reach, norm) : 0.0f;
  uint32_t magnitudes[2] = {};
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    magnitudes[i / 4] |= static_cast<uint32_t>(levels[kHalf + i]) << 8 * (i % 4);
  }
  uint32_t words[2][2][kDim / 64];
  uint32_t squares[2][2] = {};  // of levels
#pragma unroll
  for (int page_half = 0; page_half < 2; ++page_half) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const float own = __shfl_sync(kAllLanes, reach, page_half * 16 + column * 8 + lane % 4);
#pragma unroll
      for (int pair = 0; pair < kDim / 64; ++pair) {
        words[page_half][column][pair] =
            FixedCodes<kDim, kBits>(rows, page_half, column, pair, own, code.curve,
                                    blockDim.x / 16, magnitudes, squares[page_half][column]);
      }
    }
  }
  const auto of_levels = static_cast<float>(SumOfToken(squares));
  const float factor = code.scale_base + Quotient(code.scale_part, of_levels);
  if ((lane & 4) == 0) {
    const int token = (lane & 16) * 2 + threadIdx.x / 32 * 8 + lane % 4 * 2 + (lane & 8) / 8;
    scales[token] = ToF16(norm * from_grid * factor);
  }
  if (is_value) {
    StoreFixedValues<kDim, kBits>(memory, words, codes);
  } else {
    StoreFixedKeys<kDim, kBits>(words, codes);
  }
}

// One side of one head of a page.
//   page_rows  of this page, already on their way
//   next       rows of the one after it, if there is one
template <int kDim, RowType kType>
__device__ __forceinline__ void SealFixedPart(FixedMemory<kDim>& memory, const AppendArgs& args,
                                              const FixedPlace& place, uint32_t at,
                                              const RawRows<kDim, kType>& page_rows,
                                              const RawRows<kDim, kType>& next,
                                              bool has_next) {
  const SealFormat& format = args.format;
  const PageLayout& layout = format.layout;
  const bool is_value = place.is_value;
  const int thread = threadIdx.x;
  const RawPage<kDim, kType> raw(memory, page_rows);
  if (has_next) next.Copy(memory);

  uint32_t largest = MaxOfWarp(raw.Largest());
  if (thread % 32 == 0) memory.largest[thread / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kFixedWarps; ++i) largest = max(largest, memory.largest[i]);
  // FixedPointShift(); exponents are biased by 127.
  const int shift = 14 - (max(static_cast<int>(largest >> 23), 27) - 126);
  const float to_grid = __int_as_float((127 + shift) << 23);
  uint32_t high[2][kDim / 32][2], low[2][kDim / 32][2];
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
    for (int four = 0; four < 2; ++four) {
      Split(raw.Two(i, 2 * four), raw.Two(i, 2 * four + 1), to_grid,
            high[i / (kDim / 32)][i % (kDim / 32)][four],
            low[i / (kDim / 32)][i % (kDim / 32)][four]);
    }
  }
  FixedRows<kDim> rows;
  Transform<kDim>(memory, high, low, blockDim.x * 2, rows);

  const int32_t id =
      args.state.block_table[static_cast<size_t>(place.seq) * args.state.max_pages + at];
  uint8_t* page = args.state.pages + static_cast<size_t>(id) * layout.page_bytes;
  uint8_t* head_page = page + place.head * layout.head_page_bytes;
  const uint32_t mean_at = is_value ? layout.v_mean : layout.k_mean;
  auto* mean_scale =
      reinterpret_cast<__half*>(page + layout.mean_scales) + 2 * place.head + (is_value ? 1 : 0);
  constexpr float kRoot = kDim == 64 ? 8.0f : 0x1.6a09e6p3f;  // sqrt(kDim)
  const float from_grid = __int_as_float((127 - shift) << 23) * (1 / kRoot);
  SubtractFixedMean<kDim>(memory, rows, mean_at != 0, from_grid, to_grid * kRoot,
                          reinterpret_cast<int8_t*>(head_page + mean_at), mean_scale);

  uint8_t* codes = head_page + (is_value ? layout.v_codes : layout.k_codes);
  auto* scales =
      reinterpret_cast<__half*>(head_page + (is_value ? layout.v_scales : layout.k_scales));
  const int8_t* levels = is_value ? format.v_levels : format.k_levels;
  const FixedPointCode& code = is_value ? format.v_fixed : format.k_fixed;
  const auto store = [&](auto bits) {
    StoreFixed<kDim, decltype(bits)::value>(memory, rows, code, levels, from_grid, is_value, codes,
                                            scales);
  };
  switch (code.bits) {
    case 2:
      store(std::integral_constant<int, 2>());
      break;
    case 3:
      store(std::integral_constant<int, 3>());
      break;
    default:
      store(std::integral_constant<int, 4>());
  }
  __syncthreads();  // shared memory is used again
}

// kMoves: as of SealKernel, one page at most.
template <int kDim, RowType kType, bool kMoves>
__global__ void __launch_bounds__(kFixedThreads, BlocksOf(kDim, kType))
    SealFixedKernel(const __grid_constant__ AppendArgs args) {
  LetNextStart();
  __shared__ FixedMemory<kDim> memory;
  const uint32_t heads = args.format.num_kv_heads;
  const FixedPlace place = {blockIdx.z, blockIdx.y % heads, blockIdx.y >= heads};
  const AppendPlan plan = args.Plan(place.seq);
  const auto before = static_cast<uint32_t>(args.state.num_pages[place.seq]);
  const uint32_t room = args.state.max_pages - before;  // MoveOpenRows() says if it is too little
  const uint32_t pages = min(plan.pages, room);
  if (blockIdx.x < pages) {
    RawRows<kDim, kType> rows(args, plan, place, blockIdx.x);
    rows.Copy(memory);
    const auto* matrix = reinterpret_cast<const uint4*>(place.is_value ? args.format.v_matrix
                                                                       : args.format.k_matrix);
    uint4* to = &memory.matrix[0][0][0][0];
    for (int i = threadIdx.x; i < kDim * kDim / 32; i += kFixedThreads) to[i] = matrix[i];
    if (threadIdx.x < kDim) memory.mean[threadIdx.x] = kFixedMagic;  // where none is kept
    __syncthreads();
    const int64_t page_stride = args.strides.token * kPageTokens * gridDim.x;
    for (uint32_t index = blockIdx.x; index < pages; index += gridDim.x) {
      const uint32_t after = index + gridDim.x;
      RawRows<kDim, kType> next = rows;
      // Only what was open before is not at a fixed distance.
      if (index * kPageTokens >= plan.open) {
        next.rows[0] += page_stride;
        next.rows[1] += page_stride;
      } else if (after < pages) {
        next = RawRows<kDim, kType>(args, plan, place, after);
      }
      SealFixedPart<kDim, kType>(memory, args, place, before + index, rows, next,
                                 after < pages);
      rows = next;
    }
  }
  if constexpr (kMoves) {
    __syncthreads();
    MoveOpenRows(args, plan, place.seq, place.head, place.is_value, 2 * heads);
  }
}

template <int kDim, RowType kType>
void Launch(const AppendArgs& args, uint32_t pages, bool moves, CUstream_st* stream) {
  const uint64_t parts = uint64_t{2} * args.format.num_kv_heads * args.state.num_seqs;
  const uint64_t of_block = std::clamp<uint64_t>(pages * parts / kManyBlocks, 1, kMostPages);
  const dim3 grid(moves ? 1 : static_cast<uint32_t>((pages + of_block - 1) / of_block),
                  2 * args.format.num_kv_heads, args.state.num_seqs);
  if (moves) {
    SealFixedKernel<kDim, kType, true><<<grid, kFixedThreads, 0, stream>>>(args);
  } else {
    SealFixedKernel<kDim, kType, false><<<grid, kFixedThreads, 0, stream>>>(args);
  }
}

template <int kDim>
void Launch(const AppendArgs& args, uint32_t pages, bool moves, CUstream_st* stream) {
  switch (args.format.type) {
    case RowType::kF32:
      return Launch<kDim, RowType::kF32>(args, pages, moves, stream);
    case RowType::kF16:
      return Launch<kDim, RowType::kF16>(args, pages, moves, stream);
    case RowType::kBf16:
      return Launch<kDim, RowType::kBf16>(args, pages, moves, stream);
  }
}

}  // namespace

void LaunchSealFixed(const AppendArgs& args, uint32_t pages, bool moves, CUstream_st* stream) {
  if (args.format.head_dim == 64) {
    Launch<64>(args, pages, moves, stream);
  } else {
    Launch<128>(args, pages, moves, stream);
  }
}

}  // namespace quash::cuda
