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
#include "kernels/cuda/dependent_launch.cuh"

namespace quash::cuda {

template <int kKBits, int kVBits, int kDim, int kTiles>
class Decoder {
 public:
  using S = Shape<kKBits, kVBits, kDim, kTiles>;
  using State = PageState<kKBits, kVBits, kDim, kTiles>;
  using Rotation = typename S::Rotation;
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
        scratch_(stages_ + warps_ * S::kStagesBytes + warp_ * S::kScratchBytes) {}

  // Little stays in registers from one step to the next, which the loop over pages
  // needs: what steps share is in shared memory.
  __device__ __forceinline__ void Run() {
    // What no earlier launch writes comes before those have ended.
    LetNextStart();
    if (lane_ == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        PageCopier::Initialise(&parts_.barriers[warp_][stage]);
      }
    }
    CopyTables();
    __syncwarp();
    PageSource source(args_, StagesOf(warp_), S::kStageBytes, parts_.barriers[warp_], WalkOf(0),
                      lane_);
    for (uint32_t at = 0;;) {
      {
        const typename Rotation::Tables tables(args_.a.k_rotation, lane_);
        if (at == 0) WaitForPrevious();
        const WorkLine line(args_, lane_);
        const uint32_t end = PartBegin(line.total(), blockIdx.x + 1, args_.blocks);
        if (at == 0) at = PartBegin(line.total(), blockIdx.x, args_.blocks);
        if (at >= end) return;
        const Batch batch(line, args_, at, end);
        // Before pages, behind which they would wait.
        const QueryRow<kDim> row = RowOf(batch, warp_);
        const Walk share = Batch::ShareOf(line, args_, at, batch.end, warp_);
        source.Seek(share);
        source.Begin();
        PageSource::PrefetchOpen(args_, share, lane_);
        if (lane_ == 0) *WalkOf(1) = share;
        if (threadIdx.x == 0) batch_ = batch;
        if (lane_ < 2) parts_.slot[2 * warp_ + lane_] = -1;
        PrepareQueries(batch, row, tables);
      }
      WaitForTables();
      __syncthreads();
      RunShare(&source);
      __syncthreads();
      FinishUnits();
      at = batch_.end;
      if (at == batch_.block_end) return;
      __syncthreads();
    }
  }

 private:
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
      CopyAhead(to, word);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  static __device__ __forceinline__ void WaitForTables() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  }

  __device__ uint8_t* StagesOf(uint32_t warp) const { return stages_ + warp * S::kStagesBytes; }
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
  __device__ __forceinline__ void RunShare(PageSource* source) {
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

  __device__ __forceinline__ void RunUnit(PageSource* source) {
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
      const auto plain = State::PlainPages(unit, walk->work);
      const uint32_t head = unit.kv_head % 4;
      while (page < end) {
        // Two loops, so that the code of the common one has no gaps.
        for (const uint32_t until = min(end, plain.end); page >= plain.begin && page < until;
             ++page) {
          state.template Page<false>(source->Wait(), page, head, walk);
          source->Release();
        }
        for (const uint32_t until = page < plain.begin ? min(end, plain.begin) : end; page < until;
             ++page) {
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
        RunOpen<true>(*walk, out + S::kPartSums, top, sum);
      } else {
        RunOpen<false>(*walk, out + S::kPartSums, top, sum);
      }
      has |= kGiven;
    }
    if (is_whole) {
      FinishAlone(*walk, has, out);
    } else if (lane_ == 0) {
      parts_.slot[part] = static_cast<int32_t>(4 * (index - batch_.unit)) + has;
      parts_.out[part] = out;
    }
  }

  template <bool kHalf>
  __device__ __forceinline__ void RunOpen(const Walk& walk, float* out, float* top, float* sum) {
    const Unit unit(args_, walk.seq, walk.row);
    OpenTokens<kDim, kQueries, kHalf> open(args_, unit, lane_);
    open.Run(walk.work, walk.ChunkBegin(), walk.ChunkEnd());
    open.template Store<S::kPartStride>(out, top, sum);
  }

  __device__ typename Rotation::SharedTables VTables() const {
    return {parts_.permutation[0], parts_.factors[0], lane_, args_.a.v_rotation.is_halved};
  }

  // Results of a unit that one warp has alone.
  __device__ __forceinline__ void FinishAlone(const Walk& walk, int has, const float* from) {
    const Unit unit(args_, walk.seq, walk.row);
    __syncwarp();
#pragma unroll 1
    for (int x = 0; x < kQueries && unit.Exists(x); ++x) {
      QuerySums<kDim> sums;
#pragma unroll 1
      for (int side = 0; side < 2; ++side) {
        if ((has >> side & 1) == 0) continue;
        const float top = parts_.alone_top[side][warp_][x];
        sums.Raise(fmaxf(sums.top, top));
        const float weight = PartWeight(top, sums.top);
        sums.sum += weight * parts_.alone_sum[side][warp_][x];
        LaneValues<kDim> values;
        values.Load(from + side * S::kPartSums + x * S::kPartStride, lane_);
        values.Scale(weight);
        sums.Add(side, values);
      }
      WriteResult<kDim>(unit, x, sums, VTables(), Scratch(), lane_);
    }
    __syncwarp();
  }

  // Brings the warps' parts together, of the last unit first: a later block may wait for
  // what goes on in it.
  __device__ __forceinline__ void FinishUnits() {
    const bool goes_on = batch_.last_end > batch_.block_end;
    const bool joins =
        batch_.first_begin < batch_.block_begin && (batch_.num_units > 1 || !goes_on);
    const uint32_t tasks = (batch_.num_units - (joins ? 1 : 0)) * kQueries;
#pragma unroll 1
    for (uint32_t task = warp_; task < tasks; task += warps_) {
      const uint32_t slot = batch_.num_units - 1 - task / kQueries;
      const int x = task % kQueries;
      const Unit unit = UnitOf(batch_.unit + slot);
      QuerySums<kDim> sums;
      if (!unit.Exists(x) || !MergeWarps(slot, x, &sums)) continue;
      if (goes_on && slot == batch_.num_units - 1) {
        SendPart<kDim>(sums, PartialOf(batch_.unit + slot, x, blockIdx.x), lane_);
      } else {
        WriteResult<kDim>(unit, x, sums, VTables(), Scratch(), lane_);
      }
    }
    if (joins) JoinBlocks(tasks);
  }

  __device__ __forceinline__ bool MergeWarps(uint32_t slot, int x, QuerySums<kDim>* sums) const {
    return cuda::MergeWarps<kDim, S>(parts_, stages_, warps_, static_cast<int>(slot), x, lane_,
                                     sums);
  }

  // Block b leaves its part of unit u in partial b + u, which no other pair has.
  __device__ float* PartialOf(uint32_t unit, int x, uint32_t block) const {
    return args_.partials + ((size_t{unit} + block) * kQueries + x) * PartialFloats(kDim);
  }
  // Where a warp leaves what it has taken of other blocks' parts.
  __device__ float* TakenBy(uint32_t warp) const {
    return reinterpret_cast<float*>(StagesOf(warp) + S::kPartBytes);
  }

  // Results of the first unit, which earlier blocks have begun. Blocks are started in order
  // and a block waits for earlier ones only, so that those run whatever else does. While
  // one warp brings together the block's parts of a query, others wait for those of blocks.
  // busy  tasks that the first warps had until now
  __device__ __forceinline__ void JoinBlocks(uint32_t busy) {
    const Unit unit = UnitOf(batch_.unit);
    const uint32_t first = PartOf(batch_.total, batch_.first_begin, args_.blocks);
    const uint32_t count = blockIdx.x - first, half = (count + 1) / 2;
    // Queries at a time, and warps that take parts of one; none if there are too few.
    const uint32_t together = min(static_cast<uint32_t>(kQueries), max(warps_ / 2, 1u));
    const uint32_t takers = (warps_ >= 2 * together) + (warps_ >= 3 * together);
    uint32_t role = warp_ + warps_ - args_.warps.Rest(busy);
    if (role >= warps_) role -= warps_;
    const uint32_t place = (role >= together) + (role >= 2 * together) + (role >= 3 * together);
#pragma unroll 1
    for (uint32_t begin = 0; begin < kQueries; begin += together) {
      const int x = static_cast<int>(begin + role - place * together);
      const bool exists = place <= takers && x < kQueries && unit.Exists(x);
      QuerySums<kDim> sums;
      if (exists && place == 0) MergeWarps(0, x, &sums);
      if (exists && (place != 0 || takers < 2)) {
        // Half each: of two takers, or of one and of this warp, which comes to it later.
        const uint32_t from = place == 2 || (place == 0 && takers == 1) ? half : 0;
        const uint32_t until = place == 1 ? half : count;
        TakeParts<kDim>(PartialOf(batch_.unit, x, first + from), kQueries * PartialFloats(kDim),
                        until - from, lane_, &sums);
        if (place != 0) sums.Store(TakenBy(warp_), lane_);
      }
      __syncthreads();
      if (exists && place == 0) {
#pragma unroll 1
        for (uint32_t i = 1; i <= takers; ++i) {
          const uint32_t warp = warp_ + i * together;
          sums.Join(TakenBy(warp < warps_ ? warp : warp - warps_), lane_);
        }
        WriteResult<kDim>(unit, x, sums, VTables(), Scratch(), lane_);
      }
      if (begin + together < kQueries) __syncthreads();
    }
  }

  const KernelArgs& args_;
  const uint32_t warps_, warp_;
  const int lane_;
  typename S::Parts& parts_;
  Batch& batch_;
  typename S::Query* const queries_;  // [slots]
  uint8_t* const stages_;             // [warps, kStagesBytes]
  uint8_t* const scratch_;            // of this warp
};

template <int kKBits, int kVBits, int kDim, int kTiles>
__global__ void __launch_bounds__(32 * Shape<kKBits, kVBits, kDim, kTiles>::kWarps, 1)
    DecodeKernel(const __grid_constant__ KernelArgs args) {
  extern __shared__ __align__(128) uint8_t memory[];
  Decoder<kKBits, kVBits, kDim, kTiles>(args, memory).Run();
}

}  // namespace quash::cuda
