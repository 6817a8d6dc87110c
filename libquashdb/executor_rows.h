// Which rows of a snapshot a search may return: live rows that match its
// filter, as one u32 per block of 32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "libquashdb/filter.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

// A row of a snapshot as one number; ascending is insertion order.
inline constexpr uint64_t RowIndex(uint32_t segment, uint32_t row) {
  return uint64_t{segment} << 32 | row;
}
inline constexpr uint32_t SegmentOf(uint64_t row_index) { return row_index >> 32; }
inline constexpr uint32_t RowOf(uint64_t row_index) { return static_cast<uint32_t>(row_index); }

// The row with this slot, live or not; found false if no segment has it. Fast where
// a segment lost no rows when it was written.
Status Locate(const Snapshot& snapshot, uint64_t slot, uint64_t* row, bool* found);
// The same in two steps. The first tells the only segment that may have the row, and fetches
// into the CPU's caches what the second will read.
size_t FetchPlace(const Snapshot& snapshot, uint64_t slot);
Status LocateIn(const Snapshot& snapshot, size_t segment, uint64_t slot, uint64_t* row,
                bool* found);

// Blocks [begin, end) of one segment.
struct BlockRange {
  uint32_t segment;
  uint32_t begin;
  uint32_t end;
};

class MatchingRows {
 public:
  // Evaluates `filter` (null: every live row) on up to `threads` threads.
  Status Evaluate(const Snapshot& snapshot, const Filter* filter, size_t threads);

  // [num_blocks] of a segment. Null: no row of it matches.
  const uint32_t* mask(size_t segment) const { return masks_[segment]; }
  uint64_t count() const { return count_; }

  // Ascending row indices of all matches.
  std::vector<uint64_t> List() const;

  // Blocks of the segments with matches but those set in `without`.
  uint64_t Blocks(const std::vector<bool>* without) const;

  // The blocks of all segments with matches, cut in at most `parts` runs of
  // about equal length, ascending. Those set in `without` (null: none) are left out.
  std::vector<std::vector<BlockRange>> Partition(size_t parts,
                                                 const std::vector<bool>* without) const;

 private:
  bool LeftOut(size_t i, const std::vector<bool>* without) const {
    return masks_[i] == nullptr || (without != nullptr && (*without)[i]);
  }

  const Snapshot* snapshot_ = nullptr;
  std::vector<const uint32_t*> masks_;
  std::vector<std::vector<uint32_t>> filtered_;
  uint64_t count_ = 0;
};

}  // namespace quash
