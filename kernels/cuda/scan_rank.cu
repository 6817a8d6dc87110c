// One thread block ranks the candidates of one query, in the steps and in the order
// of float operations of libquashdb's CandidateSet and Reranker.
#include "kernels/cuda/scan_rank.h"

#include <cuda_runtime.h>

#include <cmath>

#include "kernels/cuda/launch_limits.cuh"
#include "kernels/cuda/scan_layout.cuh"
#include "kernels/cuda/scan_score.cuh"
#include "kernels/cuda/scan_select.cuh"

namespace quash::cuda {
namespace {

constexpr uint32_t kRankThreads = 1024;
constexpr uint32_t kLeastRefined = 256;
constexpr uint32_t kNoEntry = ~0u;

// A survivor, in device memory.
struct Ranked {
  uint32_t row;
  uint32_t sums;
  float estimate;
  float score;
};

// One of the best k.
struct Best {
  uint32_t segment;
  uint32_t row;
  float score;
};

struct RankShared {
  RowStage stages[kRankThreads / kLanes];
  uint32_t bins[256];
  uint32_t chosen, before, count, extra;
  uint16_t scored[kRankWidthMax];  // survivors to be scored, or that were
  uint16_t rest[kRankWidthMax];
  union {
    uint16_t narrowed[kRankWidthMax];
    Best out[kRankMax + kRankTies];
  };
  union {
    uint32_t blocks[2 * kRankWidthMax];  // hashed
    RankedRow sorted[kRankMax + kRankTies];
  };
};

// Unsigned integers in the order of floats.
__device__ uint32_t Ordered(float value) {
  const uint32_t bits = __float_as_uint(value);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
__device__ float FromOrdered(uint32_t ordered) {
  return __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}

// The value of a rank, from the greatest at 0, of more values than that. For all
// threads of a block; starts and ends in step.
//   each  each(use) calls use with every value of this thread, four times the same
template <typename Each>
__device__ uint32_t SelectExactly(uint32_t rank, RankShared* shared, Each each) {
  uint32_t prefix = 0, mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < 256) shared->bins[threadIdx.x] = 0;
    __syncthreads();
    each([&](uint32_t value) {
      if ((value & mask) == prefix) atomicAdd(&shared->bins[value >> shift & 255], 1u);
    });
    __syncthreads();
    if (threadIdx.x < 32) {  // eight bins a lane, from the top
      uint32_t sum = 0;
      for (uint32_t i = 0; i < 8; ++i) sum += shared->bins[255 - 8 * threadIdx.x - i];
      uint32_t before = WarpPrefixSum(sum) - sum;
      if (rank >= before && rank < before + sum) {
        uint32_t bin = 255 - 8 * threadIdx.x;
        for (; rank >= before + shared->bins[bin]; --bin) before += shared->bins[bin];
        shared->chosen = bin;
        shared->before = before;
      }
    }
    __syncthreads();
    rank -= shared->before;
    prefix |= shared->chosen << shift;
    mask |= 255u << shift;
  }
  __syncthreads();
  return prefix;
}

// Best first, ties by place.
__device__ bool IsBefore(const Best& a, const Best& b) {
  if (a.score != b.score) return a.score > b.score;
  return a.segment != b.segment ? a.segment < b.segment : a.row < b.row;
}

// How many items of all threads pass. For all threads of a block.
template <typename Each>
__device__ uint32_t Count(RankShared* shared, Each each) {
  __syncthreads();
  if (threadIdx.x == 0) shared->count = 0;
  __syncthreads();
  uint32_t own = 0;
  each([&](bool passes) { own += passes; });
  own = __reduce_add_sync(~0u, own);
  if (threadIdx.x % 32 == 0) atomicAdd(&shared->count, own);
  __syncthreads();
  const uint32_t count = shared->count;
  __syncthreads();
  return count;
}

class Ranker {
 public:
  __device__ Ranker(const RankArgs& args, RankShared* shared)
      : args_(args),
        q_(blockIdx.x),
        scan_query_(args.scan.queries[q_]),
        query_(args.queries[q_]),
        shared_(shared),
        list_(reinterpret_cast<Ranked*>(args.survivors) + size_t{q_} * args.width) {}

  __device__ void Run() {
    RankSummary summary = {};
    const uint32_t found = args_.scan.counts[q_];
    if (found > args_.scan.capacity) {
      summary.status = RankSummary::kOverfull;
    } else if (!KeepSurvivors(found)) {
      summary.status = RankSummary::kUncovered;
    } else {
      summary.survivors = survivors_;
      uint32_t scored = SplitFirst();
      ScoreRows(shared_->scored, 0, scored);
      if (scored < survivors_) scored += ScoreRest(scored, &summary);
      summary.scored = scored;
      summary.rows = Emit(scored);
      if (summary.rows > args_.k + kRankTies) summary.status = RankSummary::kTied;
    }
    if (threadIdx.x == 0) args_.summaries[q_] = summary;
  }

 private:
  // Survivors as CandidateSet::Finish() leaves them. False if the scan's limits may
  // have cost one.
  __device__ bool KeepSurvivors(uint32_t found) {
    const auto* candidates =
        reinterpret_cast<const uint4*>(args_.scan.candidates) + size_t{q_} * args_.scan.capacity;
    const auto each = [&](auto&& use) {  // use(row, estimate, key)
      for (uint32_t i = threadIdx.x; i < found; i += kRankThreads) {
        const uint4 one = candidates[i];
        use(one, __uint_as_float(one.z), __uint_as_float(one.w));
      }
    };
    float kth = -INFINITY, floor = -INFINITY, cut = -INFINITY;
    if (found >= args_.k) {
      kth = FromOrdered(SelectExactly(args_.k - 1, shared_, [&](auto&& use) {
        each([&](const uint4&, float estimate, float) { use(Ordered(estimate)); });
      }));
      floor = KeyFloor(scan_query_, kth);
    }
    const auto count_keys = [&](auto&& passes) {
      return Count(shared_, [&](auto&& use) {
        each([&](const uint4&, float, float key) { use(passes(key)); });
      });
    };
    survivors_ = count_keys([&](float key) { return key >= floor; });
    uint32_t last_row = kNoEntry;  // of those that tie with the cut
    if (survivors_ > args_.width) {
      cut = FromOrdered(SelectExactly(args_.width - 1, shared_, [&](auto&& use) {
        each([&](const uint4&, float, float key) { use(Ordered(key)); });
      }));
      const uint32_t above = count_keys([&](float key) { return key > cut; });
      const uint32_t wanted = args_.width - above;
      if (count_keys([&](float key) { return key == cut; }) > wanted) {
        last_row = ~SelectExactly(wanted - 1, shared_, [&](auto&& use) {
          each([&](const uint4& one, float, float key) {
            if (key == cut) use(~one.x);
          });
        });
      }
      survivors_ = args_.width;
    }
    const float key_limit = args_.scan.limits[2 * q_];
    if (key_limit > -INFINITY &&
        (key_limit > fmaxf(floor, cut) || args_.scan.limits[2 * q_ + 1] > kth)) {
      return false;
    }
    if (threadIdx.x == 0) shared_->count = 0;
    __syncthreads();
    each([&](const uint4& one, float estimate, float key) {
      if (key < floor || key < cut || (key == cut && one.x > last_row)) return;
      const uint32_t at = atomicAdd(&shared_->count, 1u);
      if (at < args_.width) list_[at] = {one.x, one.y, estimate, 0};
    });
    __syncthreads();
    return true;
  }

  // Survivors that are scored in any case to `scored`, others to `rest`.
  __device__ uint32_t SplitFirst() {
    float least = -INFINITY;
    if (survivors_ > args_.first) {
      least = FromOrdered(SelectExactly(args_.first - 1, shared_, [&](auto&& use) {
        for (uint32_t i = threadIdx.x; i < survivors_; i += kRankThreads) {
          use(Ordered(list_[i].estimate));
        }
      }));
    }
    if (threadIdx.x == 0) shared_->count = shared_->extra = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < survivors_; i += kRankThreads) {
      if (list_[i].estimate >= least) {
        shared_->scored[atomicAdd(&shared_->count, 1u)] = static_cast<uint16_t>(i);
      } else {
        shared_->rest[atomicAdd(&shared_->extra, 1u)] = static_cast<uint16_t>(i);
      }
    }
    __syncthreads();
    const uint32_t scored = shared_->count;
    __syncthreads();
    return scored;
  }

  __device__ const ScanSegment& SegmentOf(uint32_t row, uint32_t* local) const {
    const ScanSegment& segment = args_.scan.segments[SegmentOfBlock(
        args_.scan.segments, args_.scan.num_segments, args_.scan.num_blocks, row / 32)];
    *local = row - segment.first_block * 32;
    return segment;
  }

  // Calls use(survivor, its place, segment, row of the segment) for each of `order`,
  // with the sixteen lanes of one at a time, a warp in step; past the end with the last.
  template <typename Use>
  __device__ void EachByLanes(const uint16_t* order, uint32_t begin, uint32_t end, Use use) {
    const uint32_t own = threadIdx.x / kLanes;
    for (uint32_t i = begin + own / 2 * 2; i < end; i += kRankThreads / kLanes) {
      const uint32_t at = order[min(i + own % 2, end - 1)];
      uint32_t local;
      const ScanSegment& segment = SegmentOf(list_[at].row, &local);
      use(at, i + own % 2 < end, segment, local);
    }
  }

  __device__ void ScoreRows(const uint16_t* order, uint32_t begin, uint32_t end) {
    const FinishArgs& finish = args_.finish;
    EachByLanes(order, begin, end,
                [&](uint32_t at, bool, const ScanSegment& segment, uint32_t row) {
      float score;
      if (finish.tier != TierType::kNone) {
        score = TierScore<8>(finish, segment, row, finish.vectors + size_t{q_} * finish.dim,
                             &shared_->stages[threadIdx.x / kLanes]);
      } else {
        const uint32_t padded = (finish.dim + 15) / 16 * 16;
        const int32_t dot = finish.stage == ScanStage::kCodes
                                ? static_cast<int32_t>(list_[at].sums)
                                : CodeDot(finish, segment, row / 32, row % 32,
                                          finish.values + size_t{q_} * padded);
        const float unit = __fmul_rn(scan_query_.gain, segment.scale_full[row]);
        score = __fmul_rn(unit, __fmul_rn(query_.level_scale, static_cast<float>(dot)));
        if (segment.norm_sq != nullptr) score = __fsub_rn(score, segment.norm_sq[row]);
        score = __fsub_rn(score, query_.offset);
      }
      if (threadIdx.x % kLanes == 0) list_[at].score = score;
    });
    __syncthreads();
  }

  // Of the other survivors those that may still reach the best k: dropped, refined and
  // scored. How many joined `scored`.
  __device__ uint32_t ScoreRest(uint32_t scored, RankSummary* summary) {
    const float kth = FromOrdered(SelectExactly(args_.k - 1, shared_, [&](auto&& use) {
      for (uint32_t i = threadIdx.x; i < scored; i += kRankThreads) {
        use(Ordered(list_[shared_->scored[i]].score));
      }
    }));
    const float reach = __fadd_rn(kth, query_.offset);
    float shrink = 1;
    if (scan_query_.is_cosine) {
      const float cosine = fminf(fmaxf(reach, 0.0f), 1.0f);
      shrink = __fsqrt_rn(fmaxf(0.25f, __fsub_rn(1.0f, __fmul_rn(cosine, cosine))));
    }
    const uint32_t others = survivors_ - scored;
    if (threadIdx.x == 0) shared_->count = 0;
    __syncthreads();
    const float margin = __fmul_rn(shrink, query_.margin);
    for (uint32_t i = threadIdx.x; i < others; i += kRankThreads) {
      const Ranked& one = list_[shared_->rest[i]];
      uint32_t row;
      const ScanSegment& segment = SegmentOf(one.row, &row);
      const float unit =
          __fmul_rn(scan_query_.gain, StageScale(segment, args_.finish.stage)[row]);
      if (__fadd_rn(one.estimate, __fmul_rn(margin, unit)) < reach) continue;
      shared_->narrowed[atomicAdd(&shared_->count, 1u)] = shared_->rest[i];
    }
    __syncthreads();
    uint32_t left = shared_->count;
    __syncthreads();
    const uint16_t* order = shared_->narrowed;
    if (RefinePays(left)) {
      summary->refined = left;
      left = Refine(left, reach, __fmul_rn(shrink, query_.margin2));
      summary->refined_kept = left;
      order = shared_->rest;
    }
    for (uint32_t i = threadIdx.x; i < left; i += kRankThreads) {
      shared_->scored[scored + i] = order[i];
    }
    __syncthreads();
    ScoreRows(shared_->scored, scored, scored + left);
    return left;
  }

  // By the number of distinct blocks of `narrowed`.
  __device__ bool RefinePays(uint32_t rows) {
    if (!args_.refines || rows < kLeastRefined) return false;
    for (uint32_t i = threadIdx.x; i < 2 * kRankWidthMax; i += kRankThreads) {
      shared_->blocks[i] = kNoEntry;
    }
    const uint32_t distinct = Count(shared_, [&](auto&& use) {
      for (uint32_t i = threadIdx.x; i < rows; i += kRankThreads) {
        const uint32_t block = list_[shared_->narrowed[i]].row / 32;
        uint32_t at = block * 0x9E3779B1u >> 19;
        static_assert(2 * kRankWidthMax == 1 << (32 - 19));
        while (true) {
          const uint32_t held = atomicCAS(&shared_->blocks[at], kNoEntry, block);
          if (held == kNoEntry) use(true);
          if (held == kNoEntry || held == block) break;
          at = (at + 1) % (2 * kRankWidthMax);
        }
      }
    });
    return uint64_t{distinct} * args_.block_cost < uint64_t{rows} * args_.row_cost;
  }

  // As RefineWithPlane2(); what may reach is left in `rest`.
  __device__ uint32_t Refine(uint32_t rows, float reach, float margin) {
    if (threadIdx.x == 0) shared_->count = 0;
    __syncthreads();
    EachByLanes(shared_->narrowed, 0, rows,
                [&](uint32_t at, bool real, const ScanSegment& segment, uint32_t row) {
      const int32_t sum =
          Plane2Sum(args_.finish, segment.planes[1], row / 32, row % 32, q_) / 2;
      const auto sums2 = static_cast<uint32_t>(args_.finish.offsets[q_] + sum);
      const float dot1 = __fadd_rn(
          __fmul_rn(scan_query_.mul, static_cast<float>(list_[at].sums)), scan_query_.add);
      const float dot2 =
          __fadd_rn(query_.lut_bias, __fmul_rn(query_.lut_step, static_cast<float>(sums2)));
      const float unit = __fmul_rn(scan_query_.gain, segment.scale2[row]);
      float estimate =
          __fmul_rn(unit, __fadd_rn(__fmul_rn(args_.m, dot1), __fmul_rn(args_.delta, dot2)));
      if (segment.norm_sq != nullptr) estimate = __fsub_rn(estimate, segment.norm_sq[row]);
      const bool reaches = !(__fadd_rn(estimate, __fmul_rn(margin, unit)) < reach);
      if (real && reaches && threadIdx.x % kLanes == 0) {
        shared_->rest[atomicAdd(&shared_->count, 1u)] = static_cast<uint16_t>(at);
      }
    });
    __syncthreads();
    const uint32_t left = shared_->count;
    __syncthreads();
    return left;
  }

  // The rows whose scores are among the best k, in order; how many.
  __device__ uint32_t Emit(uint32_t scored) {
    float least = -INFINITY;
    if (scored > args_.k) {
      least = FromOrdered(SelectExactly(args_.k - 1, shared_, [&](auto&& use) {
        for (uint32_t i = threadIdx.x; i < scored; i += kRankThreads) {
          use(Ordered(list_[shared_->scored[i]].score));
        }
      }));
    }
    const uint32_t room = args_.k + kRankTies;
    if (threadIdx.x == 0) shared_->count = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < scored; i += kRankThreads) {
      const Ranked& one = list_[shared_->scored[i]];
      if (one.score < least) continue;
      const uint32_t at = atomicAdd(&shared_->count, 1u);
      if (at >= room) continue;
      const uint32_t segment = SegmentOfBlock(args_.scan.segments, args_.scan.num_segments,
                                              args_.scan.num_blocks, one.row / 32);
      shared_->out[at] = {segment, one.row - args_.scan.segments[segment].first_block * 32,
                          one.score};
    }
    __syncthreads();
    const uint32_t rows = shared_->count, kept = min(rows, room);
    for (uint32_t i = threadIdx.x; i < kept; i += kRankThreads) {
      uint32_t place = 0;
      for (uint32_t j = 0; j < kept; ++j) place += IsBefore(shared_->out[j], shared_->out[i]);
      const Best& one = shared_->out[i];
      const int64_t* ids = args_.scan.segments[one.segment].ids;
      shared_->sorted[place] = {ids != nullptr ? ids[one.row] : kNoId, one.segment, one.row,
                                one.score};
    }
    __syncthreads();
    // To the host in whole lines.
    constexpr uint32_t kWords = sizeof(RankedRow) / sizeof(uint64_t);
    const auto* words = reinterpret_cast<const uint64_t*>(shared_->sorted);
    auto* out = reinterpret_cast<uint64_t*>(args_.rows + size_t{q_} * room);
    for (uint32_t i = threadIdx.x; i < kWords * kept; i += kRankThreads) out[i] = words[i];
    return rows;
  }

  const RankArgs& args_;
  const uint32_t q_;
  const ScanQuery& scan_query_;
  const RankQuery& query_;
  RankShared* shared_;
  Ranked* list_;
  uint32_t survivors_ = 0;
};

// blockIdx.x: a query.
__global__ void __launch_bounds__(kRankThreads)
    RankCandidates(const __grid_constant__ RankArgs args) {
  extern __shared__ uint4 rank_shared[];
  Ranker(args, reinterpret_cast<RankShared*>(rank_shared)).Run();
}

}  // namespace

const char* LaunchRank(const RankArgs& args, CUstream_st* stream) {
  if (args.k == 0 || args.k > kRankMax) return "ranking takes k of 1 to 512";
  if (args.width < args.k || args.width > kRankWidthMax) {
    return "ranking takes up to 4096 survivors";
  }
  if (args.first < args.k) return "ranking scores at least k rows";
  static thread_local uint64_t ready = 0;  // devices, as bits
  int device = 0;
  cudaGetDevice(&device);
  if (device >= 64 || (ready >> device & 1) == 0) {
    const cudaError_t error = AllowAllSharedMemory(RankCandidates, device);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    if (device < 64) ready |= uint64_t{1} << device;
  }
  RankCandidates<<<args.scan.nq, kRankThreads, sizeof(RankShared), stream>>>(args);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace quash::cuda
