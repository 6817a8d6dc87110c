#include "libquashdb/executor_rows.h"

#include <algorithm>
#include <bit>

#include "libquashdb/executor_parallel.h"

namespace quash {

namespace {

// The last segment that begins at or before `slot`, or else the first. No branch depends on
// the slots, which come in no order that a CPU could foresee.
size_t SegmentBefore(const std::vector<uint64_t>& first_slots, uint64_t slot) {
  size_t at = 0;
  for (size_t left = first_slots.size(); left > 1;) {
    const size_t half = left / 2;
    at += first_slots[at + half] <= slot ? half : 0;
    left -= half;
  }
  return at;
}

}  // namespace

size_t FetchPlace(const Snapshot& snapshot, uint64_t slot) {
  const size_t index = SegmentBefore(snapshot.first_slots, slot);
  if (index < snapshot.segments.size()) snapshot.segments[index].segment->FetchPlaceOfSlot(slot);
  return index;
}

Status LocateIn(const Snapshot& snapshot, size_t index, uint64_t slot, uint64_t* row,
                bool* found) {
  *found = false;
  if (index >= snapshot.segments.size()) return Status();
  const Segment& segment = *snapshot.segments[index].segment;
  const uint64_t first = segment.first_slot(), last = segment.last_slot();
  if (slot < first || slot > last) return Status();
  auto at = static_cast<uint32_t>(slot - first);
  *found = true;
  if (last - first + 1 != segment.rows()) {
    QUASH_RETURN_IF_ERROR(segment.FindSlot(slot, &at, found));
  }
  *row = RowIndex(static_cast<uint32_t>(index), at);
  return Status();
}

Status Locate(const Snapshot& snapshot, uint64_t slot, uint64_t* row, bool* found) {
  return LocateIn(snapshot, SegmentBefore(snapshot.first_slots, slot), slot, row, found);
}

Status MatchingRows::Evaluate(const Snapshot& snapshot, const Filter* filter, size_t threads) {
  snapshot_ = &snapshot;
  const size_t n = snapshot.segments.size();
  masks_.assign(n, nullptr);
  if (filter == nullptr) {
    for (size_t i = 0; i < n; ++i) {
      if (snapshot.segments[i].live_rows != 0) masks_[i] = snapshot.segments[i].live->data();
    }
    count_ = snapshot.live_rows;
    return Status();
  }
  filtered_.resize(n);
  std::vector<uint64_t> counts(n);
  QUASH_RETURN_IF_ERROR(ParallelFor(n, threads, [&](size_t i) -> Status {
    const SegmentView& view = snapshot.segments[i];
    if (view.live_rows == 0) return Status();
    filtered_[i] = *view.live;
    QUASH_RETURN_IF_ERROR(filter->Apply(*view.segment, &filtered_[i]));
    for (uint32_t word : filtered_[i]) counts[i] += std::popcount(word);
    return Status();
  }));
  count_ = 0;
  for (size_t i = 0; i < n; ++i) {
    count_ += counts[i];
    if (counts[i] != 0) masks_[i] = filtered_[i].data();
  }
  return Status();
}

std::vector<uint64_t> MatchingRows::List() const {
  std::vector<uint64_t> rows;
  rows.reserve(count_);
  for (uint32_t i = 0; i < masks_.size(); ++i) {
    if (masks_[i] == nullptr) continue;
    const size_t blocks = snapshot_->segments[i].segment->num_blocks();
    for (uint32_t b = 0; b < blocks; ++b) {
      for (uint32_t word = masks_[i][b]; word != 0; word &= word - 1) {
        rows.push_back(RowIndex(i, b * kBlockRows + std::countr_zero(word)));
      }
    }
  }
  return rows;
}

uint64_t MatchingRows::Blocks(const std::vector<bool>* without) const {
  uint64_t total = 0;
  for (size_t i = 0; i < masks_.size(); ++i) {
    if (!LeftOut(i, without)) total += snapshot_->segments[i].segment->num_blocks();
  }
  return total;
}

std::vector<std::vector<BlockRange>> MatchingRows::Partition(
    size_t parts, const std::vector<bool>* without) const {
  const uint64_t total = Blocks(without);
  std::vector<std::vector<BlockRange>> runs;
  const uint64_t part_blocks = (total + parts - 1) / parts;
  uint64_t room = 0;
  for (uint32_t i = 0; i < masks_.size(); ++i) {
    if (LeftOut(i, without)) continue;
    const auto blocks = static_cast<uint32_t>(snapshot_->segments[i].segment->num_blocks());
    for (uint32_t begin = 0; begin < blocks;) {
      if (room == 0) {
        runs.emplace_back();
        room = part_blocks;
      }
      const auto length = static_cast<uint32_t>(std::min<uint64_t>(room, blocks - begin));
      runs.back().push_back({i, begin, begin + length});
      begin += length;
      room -= length;
    }
  }
  return runs;
}

}  // namespace quash
