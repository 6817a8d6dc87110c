// The decode kernel: a block's stretch of the work, from queries to results.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/decode_open.cuh"
#include "kernels/cuda/decode_pages.cuh"
#include "kernels/cuda/decode_source.cuh"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/decode_unit.cuh"
#include "kernels/cuda/decode_work.cuh"

namespace quash::cuda {

template <int kKBits, int kVBits, int kDim, int kTiles>
class Decoder {
 public:
  using S = Shape<kKBits, kVBits, kDim, kTiles>;
  using State = PageState<kKBits, kVBits, kDim, kTiles>;
  using Rotation = typename S::Rotation;
  using Source = PageSource<S::kSendsLate>;
  using Unit = UnitQueries<S::kQueries>;
  static constexpr int kQueries = S::kQueries;

  // memory  of S::SharedBytes()
  __device__ Decoder(const KernelArgs& args, uint8_t* memory)
      : args_(args),
        warps_(blockDim.x / 32),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32),
        parts_(*reinterpret_cast<typename S::Parts*>(memory)),
        batch_(*reinterpret_cast<Batch*>(parts_.batch)),
        queries_(reinterpret_cast<typename S::Query*>(memory + sizeof(typename S::Parts))),
        stages_(memory + sizeof(typename S::Parts) + args.slots * sizeof(typename S::Query)),
        scratch_(stages_ + warps_ * kStages * S::kStageBytes + warp_ * S::kScratchBytes) {}

  // Little stays in registers from one step to the next, which the loop over pages
  // needs: what steps share is in shared memory.
  __device__ __forceinline__ void Run() {
    // What no earlier launch writes comes before those have ended.
    StartLater();
    if (lane_ == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        PageCopier::Initialise(&parts_.barriers[warp_][stage]);
      }
    }
    CopyTables();
    __syncwarp();
    Source source(args_, StagesOf(warp_), S::kStageBytes, parts_.barriers[warp_], WalkOf(0),
                  lane_);
    for (uint32_t at = 0;;) {
      {
        const typename Rotation::Tables tables(args_.a.k_rotation, lane_);
        if (at == 0) WaitForEarlier();
        const WorkLine line(args_, lane_);
        const uint32_t end = PartBegin(line.total(), blockIdx.x + 1, args_.blocks);
        if (at == 0) at = PartBegin(line.total(), blockIdx.x, args_.blocks);
        if (at >= end) return;
        // Ids and queries are on their way early.
        Walk share = Batch::ShareOf(line, args_, at, end, warp_);
        Source::PrefetchOpen(args_, share, lane_);
        source.Seek(share);
        const Batch batch(line, args_, at, end);
        if (batch.end != end) {
          share = Batch::ShareOf(line, args_, at, batch.end, warp_);
          source.Seek(share);
        }
        const QueryRow<kDim> row = RowOf(batch, warp_);
        source.Begin();
        if (lane_ == 0) *WalkOf(1) = share;
        if (threadIdx.x == 0) batch_ = batch;
        if (lane_ < 2) parts_.slot[2 * warp_ + lane_] = -1;
        PrepareQueries(batch, row, tables);
      }
      WaitForTables();
      __syncthreads();
      source.BeginOthers();
      RunShare(&source);
      __syncthreads();
      FinishUnits(args_, parts_, warps_, warp_, lane_, Scratch());
      at = batch_.end;
      if (at == batch_.block_end) return;
      __syncthreads();
    }
  }

 private:
  // A launch may start while the one before it ends (programmatic dependent launch), and
  // then waits for it before it reads what others write.
  static __device__ __forceinline__ void StartLater() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
  }
  static __device__ __forceinline__ void WaitForEarlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  }

  // V's rotation to shared memory, for the end.
  __device__ __forceinline__ void CopyTables() {
    constexpr uint32_t kPlaces = sizeof(parts_.permutation) / 16;
    constexpr uint32_t kWords = sizeof(parts_.factors) / 16;
    const RotationTables& from = args_.a.v_rotation;
    for (uint32_t i = threadIdx.x; i < kPlaces + kWords; i += blockDim.x) {
      const bool is_place = i < kPlaces;
      const auto* word = is_place ? reinterpret_cast<const uint4*>(from.permutation) + i
                                  : reinterpret_cast<const uint4*>(from.factors) + i - kPlaces;
      auto* to = is_place ? reinterpret_cast<uint4*>(parts_.permutation) + i
                          : reinterpret_cast<uint4*>(parts_.factors) + i - kPlaces;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                       static_cast<uint32_t>(__cvta_generic_to_shared(to))),
                   "l"(word)
                   : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  // After it only the copy of a page may be on its way (page_copier.cuh).
  static __device__ __forceinline__ void WaitForTables() {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.wait_group 0;" ::: "memory");
#else
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
  }

  __device__ uint8_t* StagesOf(uint32_t warp) const {
    return stages_ + warp * kStages * S::kStageBytes;
  }
  __device__ Walk* WalkOf(int which) const {
    static_assert(sizeof(Walk) == sizeof(parts_.walks[0][0]));
    static_assert(sizeof(Batch) == sizeof(parts_.batch));
    return reinterpret_cast<Walk*>(parts_.walks[warp_][which]);
  }
  __device__ float* Scratch() const { return reinterpret_cast<float*>(scratch_); }
  __device__ Unit UnitOf(uint32_t unit) const {
    return Unit(args_, args_.rows.Divide(unit), args_.rows.Rest(unit));
  }

  __device__ QueryRow<kDim> RowOf(const Batch& batch, uint32_t task) const {
    const bool exists = task < batch.num_units * kQueries;
    return QueryRow<kDim>(UnitOf(batch.unit + (exists ? task / kQueries : 0)), task % kQueries,
                          lane_);
  }
  // row  of this warp's first task
  __device__ void PrepareQueries(const Batch& batch, QueryRow<kDim> row,
                                 const typename Rotation::Tables& tables) {
    for (uint32_t task = warp_; task < batch.num_units * kQueries; task += warps_) {
      if (task >= warps_) row = RowOf(batch, task);
      PrepareQuery<kKBits, kDim>(args_.a, row, tables, lane_, task % kQueries, Scratch(),
                                 &queries_[task / kQueries]);
    }
  }

  // A warp's share: units that are all its own are finished, parts of others left
  // for the merge.
  __device__ __forceinline__ void RunShare(Source* source) {
    Walk* const walk = WalkOf(1);
    while (walk->left != 0) {
      RunUnit(source);
      Walk next = *walk;
      next.Next(args_);
      __syncwarp();
      if (lane_ == 0) *walk = next;
      __syncwarp();
    }
  }

  __device__ __forceinline__ void RunUnit(Source* source) {
    const Walk* const walk = WalkOf(1);
    const uint32_t index = walk->seq * args_.rows.value() + walk->row;
    const bool is_whole = walk->offset == 0 && walk->Take() == walk->work.items;
    const bool is_last = walk->Take() == walk->left;
    // The last part can have the stages, which are empty by then.
    const uint32_t part = 2 * warp_ + is_last;
    float* const out = is_last ? reinterpret_cast<float*>(StagesOf(warp_))
                               : args_.spill + static_cast<size_t>(index) * 2 * S::kPartSums;
    int has = 0;
    uint32_t page = walk->PageBegin();
    if (const uint32_t end = walk->PageEnd(); page < end) {
      State state(args_, lane_, scratch_);
      state.Reset();
      const Unit unit(args_, walk->seq, walk->row);
      state.LoadQuery(queries_[index - batch_.unit]);
      const auto seen = State::SeenByAll(unit, walk->work);
      const uint32_t head = unit.kv_head % 4;
      while (page < end) {
        // Two loops, so that the code of the common one has no gaps.
        for (; page < end && !state.NeedsRules(page, seen); ++page) {
          state.template Page<false>(source->Wait(), page, head, walk);
          source->Release();
        }
        for (; page < end && state.NeedsRules(page, seen); ++page) {
          state.template Page<true>(source->Wait(), page, head, walk);
          source->Release();
        }
      }
      state.Store(out, is_whole ? parts_.alone_top[0][warp_] : parts_.top[0][part],
                  is_whole ? parts_.alone_sum[0][warp_] : parts_.sum[0][part]);
      has |= kPages;
    }
    if (walk->ChunkBegin() < walk->ChunkEnd()) {
      float* const top = is_whole ? parts_.alone_top[1][warp_] : parts_.top[1][part];
      float* const sum = is_whole ? parts_.alone_sum[1][warp_] : parts_.sum[1][part];
      if (args_.a.is_half) {
        RunOpen<true>(args_, *walk, lane_, out + S::kPartSums, top, sum);
      } else {
        RunOpen<false>(args_, *walk, lane_, out + S::kPartSums, top, sum);
      }
      has |= kGiven;
    }
    if (is_whole) {
      FinishAlone(args_, parts_, *walk, has, warp_, lane_, out, Scratch());
    } else if (lane_ == 0) {
      parts_.slot[part] = static_cast<int32_t>(4 * (index - batch_.unit)) + has;
      parts_.out[part] = out;
    }
  }

  // ---- Not inlined: code that runs once for a unit stays out of the way of pages ----

  template <bool kHalf>
  static __device__ __noinline__ void RunOpen(const KernelArgs& args, const Walk& walk, int lane,
                                              float* out, float* top, float* sum) {
    const Unit unit(args, walk.seq, walk.row);
    OpenTokens<kDim, kQueries, kHalf> open(args, unit, lane);
    open.Run(walk.work, walk.ChunkBegin(), walk.ChunkEnd());
    open.template Store<S::kPartStride>(out, top, sum);
  }

  static __device__ typename Rotation::SharedTables TablesIn(const KernelArgs& args,
                                                             const typename S::Parts& parts,
                                                             int lane) {
    return {parts.permutation[0], parts.factors[0], lane, args.a.v_rotation.is_halved};
  }

  // Results of a unit that one warp has alone.
  static __device__ __noinline__ void FinishAlone(const KernelArgs& args,
                                                  const typename S::Parts& parts,
                                                  const Walk& walk, int has, uint32_t warp,
                                                  int lane, const float* from, float* scratch) {
    const Unit unit(args, walk.seq, walk.row);
    __syncwarp();
#pragma unroll 1
    for (int x = 0; x < kQueries && unit.Exists(x); ++x) {
      QuerySums<kDim> sums;
      if ((has & kPages) != 0) {
        sums.top = parts.alone_top[0][warp][x];
        sums.sum = parts.alone_sum[0][warp][x];
        sums.pages.Load(from + x * S::kPartStride, lane);
      }
      if ((has & kGiven) != 0) {
        const float top = parts.alone_top[1][warp][x];
        sums.Raise(fmaxf(sums.top, top));
        const float weight = PartWeight(top, sums.top);
        sums.sum += weight * parts.alone_sum[1][warp][x];
        LaneValues<kDim> given;
        given.Load(from + S::kPartSums + x * S::kPartStride, lane);
        sums.given.Add(weight, given);
      }
      WriteResult<kDim>(unit, x, sums, TablesIn(args, parts, lane), scratch, lane);
    }
    __syncwarp();
  }

  // Brings the warps' parts together, then those of blocks in the block in which a unit
  // ends. Blocks are started in order and such a block waits for earlier ones only, so that
  // those run whatever else does. Block b leaves its part of unit u in partial b + u, which
  // no other pair has.
  static __device__ __noinline__ void FinishUnits(const KernelArgs& args,
                                                  const typename S::Parts& parts, uint32_t warps,
                                                  uint32_t warp, int lane, float* scratch) {
    const Batch& batch = *reinterpret_cast<const Batch*>(parts.batch);
    constexpr size_t kFloats = PartialFloats(kDim);
#pragma unroll 1
    for (uint32_t task = warp; task < batch.num_units * kQueries; task += warps) {
      // The last unit first: a block may wait for what goes on in it.
      const uint32_t slot = batch.num_units - 1 - task / kQueries, index = batch.unit + slot;
      const int x = task % kQueries;
      const Unit unit(args, args.rows.Divide(index), args.rows.Rest(index));
      if (!unit.Exists(x)) continue;
      QuerySums<kDim> sums;
      if (!MergeWarps<kDim, S>(parts, warps, slot, x, lane, &sums)) continue;
      float* const partials = args.partials + (index * kQueries + x) * kFloats;
      if (slot == batch.num_units - 1 && batch.last_end > batch.block_end) {
        SendPart<kDim>(sums, partials + blockIdx.x * kQueries * kFloats, lane);
        continue;
      }
      if (slot == 0 && batch.first_begin < batch.block_begin) {
        const uint32_t first = PartOf(batch.total, batch.first_begin, args.blocks);
        const SeqWork work = SeqWork::Of(args, unit.seq);
        TakeParts<kDim>(
            partials + first * kQueries * kFloats, kQueries * kFloats, blockIdx.x - first,
            [&](uint32_t part) {
              const uint32_t begin = PartBegin(batch.total, first + part, args.blocks);
              const uint32_t end = PartBegin(batch.total, first + part + 1, args.blocks);
              const uint32_t from = max(begin, batch.first_begin) - batch.first_begin;
              return work.ChunkOf(from) < work.ChunkOf(end - batch.first_begin);
            },
            lane, &sums);
      }
      WriteResult<kDim>(unit, x, sums, TablesIn(args, parts, lane), scratch, lane);
    }
  }

  const KernelArgs& args_;
  const uint32_t warps_, warp_;
  const int lane_;
  typename S::Parts& parts_;
  Batch& batch_;
  typename S::Query* const queries_;  // [slots]
  uint8_t* const stages_;             // [warps, kStages, kStageBytes]
  uint8_t* const scratch_;            // of this warp
};

template <int kKBits, int kVBits, int kDim, int kTiles>
__global__ void __launch_bounds__(32 * Shape<kKBits, kVBits, kDim, kTiles>::kWarps, 1)
    DecodeKernel(const __grid_constant__ KernelArgs args) {
  extern __shared__ __align__(128) uint8_t memory[];
  Decoder<kKBits, kVBits, kDim, kTiles>(args, memory).Run();
}

}  // namespace quash::cuda
