// Sealing in fixed point (kernels/fixed_point.h): a block makes one side of one head of several
// pages.
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/append_plan.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/fixed_codes.cuh"
#include "kernels/cuda/fixed_mean.cuh"
#include "kernels/cuda/fixed_rows.cuh"
#include "kernels/cuda/launch_limits.cuh"
#include "kernels/cuda/seal_launch.h"

namespace quash::cuda {
namespace {

// Of a multiprocessor, as registers allow.
constexpr int BlocksOf(int dim, RowType type) {
  return type == RowType::kF32 ? 3 : dim == 64 ? 6 : 5;
}

template <typename Use>
__device__ __forceinline__ void WithBits(uint32_t bits, const Use& use) {
  switch (bits) {
    case 2:
      return use(std::integral_constant<int, 2>());
    case 3:
      return use(std::integral_constant<int, 3>());
    default:
      return use(std::integral_constant<int, 4>());
  }
}

// Pages of one side of one head of a sequence in turn, by a block.
//   kHasMeans  may keep means, of one side at least
template <int kDim, RowType kType, bool kHasMeans, bool kIsValue>
class FixedSealer {
 public:
  using Rows = RawRows<kDim, kType>;

  __device__ FixedSealer(FixedMemory<kDim>& memory, const AppendArgs& args, const FixedPlace& place)
      : memory_(memory), args_(args), place_(place), addresses_(memory.products, memory.numbers) {}

  // What is the same for all pages; a barrier has to follow.
  //   first, count  pages first, first + gridDim.x, ... of the sequence
  __device__ void Prepare(uint32_t first, uint32_t count) {
    const SealFormat& format = args_.format;
    const uint32_t thread = threadIdx.x;
    const auto* matrix =
        reinterpret_cast<const uint4*>(kIsValue ? format.v_matrix : format.k_matrix);
    uint4* to = &memory_.products.matrix[0][0][0][0];
    for (uint32_t i = thread; i < kDim * kDim / 16; i += kFixedThreads) to[i] = matrix[i];
    if (thread < kDim / 2) memory_.products.constants[thread] = {};
    const RotationTables& rotation = kIsValue ? format.v_rotation : format.k_rotation;
    for (int i = 0; i < kDim / 32; ++i) {
      memory_.signs[thread][i] = SignOfSum<kDim>(rotation.factors, i);
    }
    if (thread < 32) {
      constexpr uint32_t kHalves = 0x38003800, kSigns = 0x80008000;  // of float16 0.5
      memory_.products.joins[thread / 16][thread / 8 % 2][thread % 8] =
          thread / 8 % 2 != 0 ? uint4{}
                              : make_uint4(kHalves, thread < 16 ? kHalves : kHalves | kSigns, 0, 0);
    }
    if (thread < count) {
      const PageLayout& layout = format.layout;
      const auto* ids =
          args_.state.block_table + static_cast<size_t>(place_.seq) * args_.state.max_pages + first;
      memory_.pages[thread] = args_.state.pages +
                              static_cast<size_t>(ids[thread * gridDim.x]) * layout.page_bytes +
                              place_.head * layout.head_page_bytes;
    }
    if (thread < 2) {
      const int8_t* levels = kIsValue ? format.v_levels : format.k_levels;
      const int half = 1 << (Code().bits - 1);
      uint32_t magnitudes = 0;
      for (int i = 0; i < min(half, 4); ++i) {
        magnitudes |= static_cast<uint32_t>(levels[half + (4 * thread + i) % half]) << 8 * i;
      }
      memory_.magnitudes[thread] = magnitudes;
    }
    ShowToProducts();
  }

  // Takes rows that have been sent for; a barrier has to follow.
  __device__ void Load(const Rows& rows) {
    raw_.Load(memory_, rows);
    const uint32_t largest = MaxOfWarp(raw_.Largest());
    if (threadIdx.x % 32 == 0) memory_.largest[parity_][threadIdx.x / 32] = largest;
  }

  // Seals page `i` of the block, which was loaded.
  //   next  rows of the one after it, if there is one, or others
  __device__ void Seal(uint32_t i, const Rows& next, bool has_next) {
    const PageLayout& layout = args_.format.layout;
    const uint32_t largest = MaxOfWarp(memory_.largest[parity_][threadIdx.x % kFixedWarps]);
    parity_ ^= 1;
    // FixedPointShift(); exponents are biased by 127.
    const int shift = 14 - (max(static_cast<int>(largest >> 23), 27) - 126);
    constexpr float kRoot = kDim == 64 ? 8.0f : 0x1.6a09e6p3f;  // sqrt(kDim)
    const float to_grid = __int_as_float((127 + shift) << 23) * kRoot;
    const float from_grid = __int_as_float((127 - shift) << 23) * (1 / kRoot);

    uint8_t* head_page = memory_.pages[i];
    __builtin_assume(__isGlobal(head_page));
    const uint32_t mean_at = kIsValue ? layout.v_mean : layout.k_mean;
    const uint32_t head_at = place_.head * layout.head_page_bytes;
    auto* mean_scale = reinterpret_cast<__half*>(
        head_page +
        static_cast<int32_t>(layout.mean_scales + 4 * place_.head + (kIsValue ? 2 : 0) - head_at));
    FixedRows<kDim> rows;
    float sums[kDim / 32];
    Transform(shift, rows, sums);
    if constexpr (kHasMeans) {
      FixedMean<kDim>(memory_, sums, from_grid, to_grid, mean_at != 0,
                      reinterpret_cast<int8_t*>(head_page + mean_at), mean_scale);
      AddConstants(addresses_, memory_.products, rows);
    } else {
      if (threadIdx.x == 0) *mean_scale = __ushort_as_half(0);
    }
    EndProducts(rows);
    if (has_next) next.Copy(memory_);  // over numbers of this warp's tokens only
    rows.Join();

    uint8_t* codes = head_page + (kIsValue ? layout.v_codes : layout.k_codes);
    auto* scales =
        reinterpret_cast<__half*>(head_page + (kIsValue ? layout.v_scales : layout.k_scales));
    WithBits(Code().bits, [&](auto bits) {
      StoreFixed<kDim, decltype(bits)::value>(memory_, rows, Code(), from_grid, kIsValue, codes,
                                              scales);
    });
    Load(next);  // if there is one: with a branch, this page's numbers would keep registers
    __syncthreads();
    if constexpr (kIsValue) {
      WithBits(Code().bits,
               [&](auto bits) { StoreFixedValues<kDim, decltype(bits)::value>(memory_, codes); });
    }
  }

 private:
  // Begins it, and has SumTokens() if there are means.
  __device__ void Transform(int shift, FixedRows<kDim>& rows, float (&sums)[kDim / 32]) {
    constexpr int kParts = RawPage<kDim, kType>::kParts;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    FixedNumbers<kDim>& numbers = memory_.numbers;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (part != 0) {
        EndProducts(rows);
        __syncthreads();
      }
      raw_.OnGrid(shift, part, [&](int i, uint4 vector) {
        numbers.Eight(warp, i / (kDim / 32), lane / 4, i % (kDim / 32), lane % 4) = vector;
      });
      ShowToProducts();
      __syncthreads();
      const auto begin = [&](auto adds) {
        constexpr bool kAdds = decltype(adds)::value;
        BeginTransform<kAdds>(addresses_, memory_.products, numbers, rows);
        if constexpr (kHasMeans) SumTokens<kAdds>(numbers, sums);
      };
      if (part == 0) {
        begin(std::false_type());
      } else {
        begin(std::true_type());
      }
    }
  }
  __device__ const FixedPointCode& Code() const {
    return kIsValue ? args_.format.v_fixed : args_.format.k_fixed;
  }

  FixedMemory<kDim>& memory_;
  const AppendArgs& args_;
  const FixedPlace place_;
  const OperandAddresses addresses_;
  RawPage<kDim, kType> raw_;
  uint32_t parity_ = 0;
};

// kMoves: as of SealKernel, one page at most.
template <int kDim, RowType kType, bool kMoves, bool kHasMeans>
__global__ void __launch_bounds__(kFixedThreads, BlocksOf(kDim, kType))
    SealFixedKernel(const __grid_constant__ AppendArgs args) {
  LetNextStart();
  extern __shared__ __align__(128) uint8_t shared[];
  auto& memory = *reinterpret_cast<FixedMemory<kDim>*>(shared);
  const uint32_t heads = args.format.num_kv_heads;
  // All keys before all values, so that blocks that run together run the same code.
  const FixedPlace place = {blockIdx.y, blockIdx.z % heads, blockIdx.z >= heads};
  const AppendPlan plan = args.Plan(place.seq);
  const auto before = static_cast<uint32_t>(args.state.num_pages[place.seq]);
  const uint32_t room = args.state.max_pages - before;  // MoveOpenRows() says if it is too little
  const uint32_t pages = min(plan.pages, room);
  const auto seal = [&](auto is_value) {
    if (blockIdx.x >= pages) return;
    RawRows<kDim, kType> rows(args, plan, place, blockIdx.x);
    rows.Copy(memory);
    const uint32_t count = (pages - blockIdx.x + gridDim.x - 1) / gridDim.x;
    FixedSealer<kDim, kType, kHasMeans, decltype(is_value)::value> sealer(memory, args, place);
    sealer.Prepare(before + blockIdx.x, count);
    sealer.Load(rows);
    __syncthreads();
    const int64_t page_stride = args.strides.token * kPageTokens * gridDim.x;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t page = blockIdx.x + i * gridDim.x;
      const bool has_next = i + 1 < count;
      // Only what was open before is not at a fixed distance.
      if (has_next && page * kPageTokens < plan.open) {
        rows = RawRows<kDim, kType>(args, plan, place, page + gridDim.x);
      } else if (has_next) {
        rows.rows[0] += page_stride;
        rows.rows[1] += page_stride;
      }
      sealer.Seal(i, rows, has_next);
    }
  };
  if (place.is_value) {
    seal(std::true_type());
  } else {
    seal(std::false_type());
  }
  if constexpr (kMoves) {
    __syncthreads();
    MoveOpenRows(args, plan, place.seq, place.head, place.is_value, 2 * heads);
  }
}

// Pages for each block: so many that the last blocks to start are about as many as can be
// resident. To start takes as long as half a page.
uint32_t PagesOfBlock(uint32_t pages, uint64_t parts, uint32_t resident) {
  uint32_t best = 1;
  uint64_t best_halves = ~uint64_t{0};
  for (uint32_t n = 1; n <= std::min<uint32_t>(kMostPages, pages); ++n) {
    const uint64_t blocks = (pages + n - 1) / n * parts;
    const uint64_t halves = (blocks + resident - 1) / resident * (2 * n + 1);
    if (halves <= best_halves) best = n, best_halves = halves;
  }
  return best;
}

template <int kDim, RowType kType, bool kMoves, bool kHasMeans>
void Launch(const AppendArgs& args, uint32_t pages, CUstream_st* stream) {
  constexpr auto kKernel = &SealFixedKernel<kDim, kType, kMoves, kHasMeans>;
  constexpr size_t kSharedBytes = sizeof(FixedMemory<kDim>);
  const uint64_t parts = uint64_t{2} * args.format.num_kv_heads * args.state.num_seqs;
  static thread_local uint32_t known[kMaxDevices];  // asked once of each
  uint32_t resident = 1;                            // where that fails, so does the launch
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess && device < kMaxDevices) {
    if (known[device] == 0) {
      ResidentBlocks(kKernel, device, kFixedThreads, kSharedBytes, &known[device]);
    }
    resident = std::max(known[device], 1u);
  }
  const uint32_t of_block = PagesOfBlock(pages, parts, resident);
  const dim3 grid(kMoves ? 1 : (pages + of_block - 1) / of_block, args.state.num_seqs,
                  2 * args.format.num_kv_heads);
  kKernel<<<grid, kFixedThreads, kSharedBytes, stream>>>(args);
}

template <int kDim, RowType kType>
void Launch(const AppendArgs& args, uint32_t pages, bool moves, CUstream_st* stream) {
  const PageLayout& layout = args.format.layout;
  if (moves) {
    Launch<kDim, kType, true, true>(args, pages, stream);
  } else if (layout.k_mean != 0 || layout.v_mean != 0) {
    Launch<kDim, kType, false, true>(args, pages, stream);
  } else {
    Launch<kDim, kType, false, false>(args, pages, stream);
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
