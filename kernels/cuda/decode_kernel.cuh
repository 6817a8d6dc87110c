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
  using Unit = UnitQueries<S::kQueries>;
  static constexpr int kQueries = S::kQueries;
  static constexpr size_t kPartial = kQueries * PartialFloats<kDim>();

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
    if (lane_ == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        PageCopier::Initialise(&parts_.barriers[warp_][stage]);
      }
    }
    __syncwarp();
    PageSource source(args_, StagesOf(warp_), S::kStageBytes, parts_.barriers[warp_], WalkOf(0),
                      lane_);
    for (uint32_t at = 0;;) {
      {
        const typename Rotation::Tables tables(args_.a.k_rotation, lane_);
        const WorkLine line(args_, lane_);
        const uint32_t end = PartBegin(line.total(), blockIdx.x + 1, args_.blocks);
        if (at == 0) at = PartBegin(line.total(), blockIdx.x, args_.blocks);
        if (at >= end) return;
        // Ids and queries are on their way early.
        Walk share = Batch::ShareOf(line, args_, at, end, warp_);
        PageSource::PrefetchOpen(args_, share, lane_);
        source.Seek(share);
        const Batch batch(line, args_, at, end);
        if (batch.end != end) {
          share = Batch::ShareOf(line, args_, at, batch.end, warp_);
          source.Seek(share);
        }
        const QueryRow<kDim> row = RowOf(batch, warp_);
        // The other stages wait, so that queries and code need not queue behind them.
        source.Begin(0);
        if (lane_ == 0) *WalkOf(1) = share;
        if (threadIdx.x == 0) batch_ = batch;
        if (lane_ < 2) parts_.slot[2 * warp_ + lane_] = -1;
        PrepareQueries(batch, row, tables);
      }
      __syncthreads();
      for (int i = 1; i < kStages; ++i) source.Begin(i);
      RunShare(&source);
      {
        const typename Rotation::Tables tables(args_.a.v_rotation, lane_);
        __syncthreads();
        MergeShares(tables);
        __syncthreads();
        FinishUnits(tables);
      }
      at = batch_.end;
      if (at == batch_.block_end) return;
      __syncthreads();
    }
  }

 private:
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
  __device__ __forceinline__ void RunShare(PageSource* source) {
    State state(args_, lane_, scratch_);
    Walk* const walk = WalkOf(1);
    while (walk->left != 0) {
      RunUnit(&state, source);
      Walk next = *walk;
      next.Next(args_);
      __syncwarp();
      if (lane_ == 0) *walk = next;
      __syncwarp();
    }
  }

  __device__ __forceinline__ void RunUnit(State* state, PageSource* source) {
    const Walk* const walk = WalkOf(1);
    if (walk->ChunkBegin() < walk->ChunkEnd()) {
      if (args_.a.is_half) {
        RunOpen<true>(*walk, state);
      } else {
        RunOpen<false>(*walk, state);
      }
    } else {
      state->Reset();
    }
    {
      const Unit unit(args_, walk->seq, walk->row);
      state->LoadQuery(queries_[walk->seq * args_.rows.value() + walk->row - batch_.unit]);
      const auto seen = State::SeenByAll(unit, walk->work);
      const uint32_t head = unit.kv_head % 4, end = walk->PageEnd();
      uint32_t page = walk->PageBegin();
      while (page < end) {
        // Two loops, so that the code of the common one has no gaps.
        for (; page < end && !state->NeedsRules(page, seen); ++page) {
          state->template Page<false>(source->Wait(), page, head, walk);
          source->Release();
        }
        for (; page < end && state->NeedsRules(page, seen); ++page) {
          state->template Page<true>(source->Wait(), page, head, walk);
          source->Release();
        }
      }
    }
    const Unit unit(args_, walk->seq, walk->row);
    const uint32_t index = walk->seq * args_.rows.value() + walk->row;
    const bool is_whole = walk->offset == 0 && walk->Take() == walk->work.items;
    const bool is_last = walk->Take() == walk->left;
    // The last part can have the stages, which are empty by then.
    float* out = is_last ? reinterpret_cast<float*>(StagesOf(warp_))
                         : args_.spill + static_cast<size_t>(index) * kQueries * kDim;
    const uint32_t part = 2 * warp_ + is_last;
    float* const top = is_whole ? parts_.alone_top[warp_] : parts_.top[part];
    float* const sum = is_whole ? parts_.alone_sum[warp_] : parts_.sum[part];
    state->Store(out, top, sum);
    if (is_whole) FinishAlone(unit, out);
    if (!is_whole && lane_ == 0) {
      parts_.slot[part] = static_cast<int32_t>(index - batch_.unit);
      parts_.out[part] = out;
    }
  }

  __device__ __forceinline__ void FinishAlone(const Unit& unit, const float* from) {
    const typename Rotation::Tables tables(args_.a.v_rotation, lane_);
    __syncwarp();
#pragma unroll 1
    for (int x = 0; x < kQueries; ++x) {
      LaneValues<kDim> values;
      values.Load(from + x * kDim, lane_);
      WriteResult<kDim>(unit, x, parts_.alone_top[warp_][x], parts_.alone_sum[warp_][x], values,
                        tables, Scratch(), lane_);
    }
    __syncwarp();
  }

  template <bool kHalf>
  __device__ __forceinline__ void RunOpen(const Walk& walk, State* state) {
    const Unit unit(args_, walk.seq, walk.row);
    OpenTokens<kDim, kQueries, kHalf> open(args_, unit, lane_);
    open.Run(walk.work, walk.ChunkBegin(), walk.ChunkEnd());
    state->Reset();
    open.Finish(args_.a.v_rotation, lane_, scratch_, state);
  }

  __device__ float* PartialsOf(uint32_t block, uint32_t unit) const {
    return args_.partials + (static_cast<size_t>(block) + unit) * kPartial;
  }

  // Brings the warps' parts together: results, or the block's part of units that
  // other blocks have parts of. Block b leaves its part of unit u in partial b + u,
  // which no other pair has.
  __device__ __forceinline__ void MergeShares(const typename Rotation::Tables& tables) {
    const Batch& batch = batch_;
    for (uint32_t task = warp_; task < batch.num_units * kQueries; task += warps_) {
      const uint32_t slot = task / kQueries;
      const int x = task % kQueries;
      float top, sum;
      LaneValues<kDim> values;
      if (!MergeWarps<kDim>(parts_, warps_, slot, x, lane_, &top, &sum, &values)) continue;
      const bool is_whole = (slot != 0 || batch.first_begin >= batch.block_begin) &&
                            (slot != batch.num_units - 1 || batch.last_end <= batch.block_end);
      if (is_whole) {
        WriteResult<kDim>(UnitOf(batch.unit + slot), x, top, sum, values, tables, Scratch(),
                          lane_);
        continue;
      }
      float* to = PartialsOf(blockIdx.x, batch.unit + slot) + x * PartialFloats<kDim>();
      values.Store(to, lane_);
      if (lane_ == 0) to[kDim] = top, to[kDim + 1] = sum;
    }
  }

  // The last block to arrive at a unit has everyone's parts in sight.
  __device__ __forceinline__ void FinishUnits(const typename Rotation::Tables& tables) {
    const Batch batch = batch_;
    // Of a block's units the first and the last one can be shared.
    const bool is_one = batch.num_units == 1;
    const bool shared[2] = {
        batch.first_begin < batch.block_begin || (is_one && batch.last_end > batch.block_end),
        !is_one && batch.last_end > batch.block_end};
    if (!shared[0] && !shared[1]) return;
    const uint32_t units[2] = {batch.unit, batch.unit + batch.num_units - 1};
    uint32_t first[2], count[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      first[i] = PartOf(batch.total, i == 0 ? batch.first_begin : batch.last_begin, args_.blocks);
      const uint32_t last = (i == 0 ? batch.first_end : batch.last_end) - 1;
      count[i] = PartOf(batch.total, last, args_.blocks) - first[i] + 1;
      if (threadIdx.x == i) {
        bool is_last = false;
        if (shared[i]) {
          is_last = ArriveAt(args_.counters + units[i]) == count[i];
          if (is_last) args_.counters[units[i]] = 0;
        }
        parts_.is_last[i] = is_last;
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      if (parts_.is_last[i] == 0) continue;
      FinishUnit(UnitOf(i == 0 ? units[0] : units[1]),
                 PartialsOf(i == 0 ? first[0] : first[1], i == 0 ? units[0] : units[1]),
                 i == 0 ? count[0] : count[1], tables);
    }
    __syncthreads();
  }

  __device__ void FinishUnit(const Unit& unit, const float* partials, uint32_t count,
                             const typename Rotation::Tables& tables) {
    // Several warps share a query where there is enough to do.
    const uint32_t groups = count <= 8 || warps_ < kQueries ? 1 : warps_ / kQueries;
    float* area = reinterpret_cast<float*>(stages_);
#pragma unroll 1
    for (uint32_t task = warp_; task < groups * kQueries; task += warps_) {
      float top, sum;
      LaneValues<kDim> values;
      MergeBlocks(partials + task % kQueries * PartialFloats<kDim>(), kPartial, count,
                  task / kQueries, groups, lane_, &top, &sum, &values);
      float* to = area + task * PartialFloats<kDim>();
      values.Store(to, lane_);
      if (lane_ == 0) to[kDim] = top, to[kDim + 1] = sum;
    }
    __syncthreads();
#pragma unroll 1
    for (uint32_t x = warp_; x < kQueries; x += warps_) {
      float sum = 0;
      LaneValues<kDim> values = {};
#pragma unroll 1
      for (uint32_t group = 0; group < groups; ++group) {
        const float* from = area + (group * kQueries + x) * PartialFloats<kDim>();
        LaneValues<kDim> other;
        other.Load(from, lane_);
        values.Add(1, other);
        sum += from[kDim + 1];
      }
      WriteResult<kDim>(unit, x, area[x * PartialFloats<kDim>() + kDim], sum, values, tables,
                        Scratch(), lane_);
    }
    __syncthreads();
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
