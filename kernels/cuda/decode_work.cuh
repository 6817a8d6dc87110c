// The work of a decode launch as a line of items: for each unit (sequence, KV
// head, pass over its queries) kStartItems for its start, one per page, and one per chunk
// of open tokens.
// Blocks take equal stretches of it and their warps equal parts of those,
// whatever units they cover, so that all end together.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

// Not a load of constants, which the compiler may move to before earlier launches end.
__device__ __forceinline__ uint32_t LoadLength(const int32_t* from) {
  uint32_t length;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(length) : "l"(from));
  return length;
}

// What each unit of one sequence has to do.
struct SeqWork {
  uint32_t pages;       // sealed
  uint32_t first_page;  // that the window reaches
  uint32_t open;        // tokens
  uint32_t chunks;      // of open tokens; their items come last
  uint32_t items;

  __device__ static SeqWork Of(const DecodeArgs& args, uint32_t seq) {
    return Of(args, LoadLength(args.num_pages + seq), LoadLength(args.open_tokens + seq));
  }
  __device__ static SeqWork Of(const DecodeArgs& args, uint32_t pages, uint32_t open) {
    SeqWork work;
    work.pages = pages;
    work.open = open;
    work.first_page = 0;
    if (args.window != 0) {
      const int64_t end = int64_t{work.Length()} - args.query_tokens + 1;  // of the first query
      const int64_t begin = end - args.window - work.Sinks(args);
      if (begin > 0) {
        work.first_page = min(static_cast<uint32_t>(begin / kPageTokens), work.pages);
      }
    }
    work.chunks = (work.open + kOpenChunk - 1) / kOpenChunk;
    work.items = kStartItems + work.pages - work.first_page + work.chunks;
    return work;
  }
  // Chunks before an item of the unit.
  __device__ uint32_t ChunkOf(uint32_t item) const {
    const uint32_t before = kStartItems + pages - first_page;
    return min(max(item, before) - before, chunks);
  }
  __device__ uint32_t PageOf(uint32_t item) const {
    return min(first_page + max(item, kStartItems) - kStartItems, pages);
  }
  __device__ uint32_t Length() const { return open + kPageTokens * pages; }
  // Open tokens that are older than the pages.
  __device__ uint32_t Sinks(const DecodeArgs& args) const { return min(args.sink_tokens, open); }
};

// Part b of n equal parts of `total` items begins here.
__device__ __forceinline__ uint32_t PartBegin(uint32_t total, uint32_t b, const Divisor& n) {
  return b * n.Divide(total) + min(b, n.Rest(total));
}
// x / y and the rest, for quotients below 2^20.
__device__ __forceinline__ uint2 SmallQuotient(uint32_t x, uint32_t y) {
  uint32_t q = static_cast<uint32_t>(__fdividef(static_cast<float>(x), static_cast<float>(y)));
  int rest = static_cast<int>(x - q * y);
  if (rest < 0) --q, rest += y;
  if (rest >= static_cast<int>(y)) ++q, rest -= y;
  return {q, static_cast<uint32_t>(rest)};
}

// The part that an item is in.
__device__ __forceinline__ uint32_t PartOf(uint32_t total, uint32_t item, const Divisor& n) {
  const uint32_t size = n.Divide(total), longer = n.Rest(total);
  const uint32_t in_longer = longer * (size + 1);
  const bool is_longer = item < in_longer;
  return (is_longer ? 0 : longer) +
         SmallQuotient(item - (is_longer ? 0 : in_longer), size + is_longer).x;
}

// Where the sequences begin on the line; for whole warps.
class WorkLine {
 public:
  __device__ WorkLine(const KernelArgs& args, uint32_t lane) : args_(args), lane_(lane) {
    if (lane < args.a.num_seqs) {
      pages_ = LoadLength(args.a.num_pages + lane);
      open_ = LoadLength(args.a.open_tokens + lane);
      own_ = args.rows.value() * SeqWork::Of(args.a, pages_, open_).items;
    }
    prefix_ = Prefix(own_, lane);
    total_ = args.a.num_seqs <= 32 ? __shfl_sync(kAllLanes, prefix_, 31)
                                   : FindFar(args, UINT32_MAX, args.a.num_seqs, lane).begin;
  }
  __device__ uint32_t total() const { return total_; }

  struct Place {
    uint32_t seq, begin;  // a sequence, and its first item
  };
  // The sequence of an item.
  __device__ __forceinline__ Place Find(uint32_t item) const {
    if (args_.a.num_seqs > 32) return FindFar(args_, item, UINT32_MAX, lane_);
    const int seq = __ffs(__ballot_sync(kAllLanes, prefix_ > item)) - 1;
    return {static_cast<uint32_t>(seq), __shfl_sync(kAllLanes, prefix_ - own_, seq)};
  }
  __device__ __forceinline__ SeqWork WorkOf(uint32_t seq) const {
    if (args_.a.num_seqs > 32) return SeqWork::Of(args_.a, seq);
    return SeqWork::Of(args_.a, __shfl_sync(kAllLanes, pages_, seq),
                       __shfl_sync(kAllLanes, open_, seq));
  }
  // The first item of a sequence.
  __device__ uint32_t Begin(uint32_t seq) const {
    return FindFar(args_, UINT32_MAX, seq, lane_).begin;
  }

 private:
  // The sequence that an item is in or `seq`, whichever comes first. Not inlined, as
  // cold code is slow to fetch.
  __device__ __noinline__ static Place FindFar(const KernelArgs& args, uint32_t item, uint32_t seq,
                                               uint32_t lane) {
    uint32_t before = 0;
    for (uint32_t first = 0; first < args.a.num_seqs; first += 32) {
      const uint32_t own = ItemsOf(args, first + lane), prefix = Prefix(own, lane);
      const unsigned here =
          __ballot_sync(kAllLanes, before + prefix > item || first + lane == seq);
      if (here != 0) {
        const int found = __ffs(here) - 1;
        return {first + found, before + __shfl_sync(kAllLanes, prefix - own, found)};
      }
      before += __shfl_sync(kAllLanes, prefix, 31);
    }
    return {args.a.num_seqs, before};
  }
  // Of all units of a sequence.
  __device__ static uint32_t ItemsOf(const KernelArgs& args, uint32_t seq) {
    return seq < args.a.num_seqs ? args.rows.value() * SeqWork::Of(args.a, seq).items : 0;
  }
  __device__ static uint32_t Prefix(uint32_t items, uint32_t lane) {  // inclusive
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, items, step);
      if (lane >= step) items += other;
    }
    return items;
  }

  const KernelArgs& args_;
  const uint32_t lane_;
  uint32_t pages_ = 0, open_ = 0, own_ = 0, prefix_;  // of this lane's sequence of up to 32
  uint32_t total_;                                    // items of all
};

// A walk over the units of a stretch of the line.
struct Walk {
  uint32_t seq, row;  // row: KV head and pass
  uint32_t offset;    // in the items of the unit
  uint32_t left;      // items of the stretch from here on
  SeqWork work;

  __device__ uint32_t Take() const { return min(left, work.items - offset); }
  __device__ uint32_t ChunkBegin() const { return work.ChunkOf(offset); }
  __device__ uint32_t ChunkEnd() const { return work.ChunkOf(offset + Take()); }
  __device__ uint32_t PageBegin() const { return work.PageOf(offset); }
  __device__ uint32_t PageEnd() const { return work.PageOf(offset + Take()); }
  __device__ void Next(const KernelArgs& args) {
    left -= Take();
    offset = 0;
    if (left == 0) return;
    if (++row < args.rows.value()) return;
    row = 0;
    work = SeqWork::Of(args.a, ++seq);
  }
};

// A part of a block's stretch of at most `slots` units, and where each warp's
// share of it begins.
struct Batch {
  uint32_t total, block_begin, block_end;  // items of all, and those of this block
  uint32_t begin, end;        // items
  uint32_t unit, num_units;   // units are numbered along the line
  uint32_t first_begin, first_end;  // items of the first unit, maybe from before `begin`
  uint32_t last_begin, last_end;    // and of the last one

  __device__ Batch(const WorkLine& line, const KernelArgs& args, uint32_t begin, uint32_t end)
      : total(line.total()),
        block_begin(PartBegin(total, blockIdx.x, args.blocks)),
        block_end(end),
        begin(begin),
        end(end) {
    const uint32_t rows = args.rows.value();
    const auto first = line.Find(begin);
    const auto last = line.Find(end - 1);
    const uint32_t items = line.WorkOf(first.seq).items;
    uint32_t last_items = line.WorkOf(last.seq).items;
    const uint2 row = SmallQuotient(begin - first.begin, items);
    const uint2 last_row = SmallQuotient(end - 1 - last.begin, last_items);
    unit = first.seq * rows + row.x;
    first_begin = begin - row.y;
    first_end = first_begin + items;
    num_units = last.seq * rows + last_row.x + 1 - unit;
    last_begin = end - 1 - last_row.y;
    if (num_units > args.slots) {
      num_units = args.slots;
      const uint32_t seq = args.rows.Divide(unit + num_units - 1);
      last_items = line.WorkOf(seq).items;
      last_begin = line.Begin(seq) + args.rows.Rest(unit + num_units - 1) * last_items;
      this->end = last_begin + last_items;
    }
    last_end = last_begin + last_items;
  }

  // One warp's share of items [begin, end).
  __device__ static Walk ShareOf(const WorkLine& line, const KernelArgs& args, uint32_t begin,
                                 uint32_t end, uint32_t warp) {
    const uint32_t size = args.warps.Divide(end - begin), longer = args.warps.Rest(end - begin);
    const uint32_t from = begin + warp * size + min(warp, longer);
    Walk walk = {};
    walk.left = size + (warp < longer);
    if (walk.left == 0) return walk;
    const auto place = line.Find(from);
    walk.seq = place.seq;
    walk.work = line.WorkOf(walk.seq);
    const uint2 row = SmallQuotient(from - place.begin, walk.work.items);
    walk.row = row.x;
    walk.offset = row.y;
    return walk;
  }
};

}  // namespace quash::cuda
