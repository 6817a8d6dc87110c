#include "libquashdb/collection_draft.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "libquashdb/executor_parallel.h"
#include "libquashdb/key.h"
#include "libquashdb/stored_database.h"

namespace quash {
namespace {

constexpr size_t kTailRunRows = 128;

std::shared_ptr<std::vector<uint32_t>> AllLive(size_t rows) {
  auto live = std::make_shared<std::vector<uint32_t>>(NumBlocks(rows), ~uint32_t{0});
  if (rows % kBlockRows != 0) live->back() = (uint32_t{1} << rows % kBlockRows) - 1;
  return live;
}

SegmentView WholeView(std::shared_ptr<const Segment> segment) {
  const size_t rows = segment->rows();
  return {std::move(segment), AllLive(rows), rows};
}

const RowRun& RunOf(const SegmentView& view) { return static_cast<const RowRun&>(*view.segment); }

}  // namespace

CollectionDraft::CollectionDraft(const StoredCollection& collection)
    : collection_(collection),
      spec_(*collection.spec_),
      store_(*collection.context_->store),
      state_(collection.state_),
      segments_(collection.published_->segments) {}

size_t CollectionDraft::num_sealed() const {
  const auto first_tail = std::find_if(segments_.begin(), segments_.end(),
                                       [](const auto& view) { return view.segment->is_tail(); });
  return static_cast<size_t>(first_tail - segments_.begin());
}

std::vector<uint32_t>& CollectionDraft::MutableLive(size_t segment) {
  SegmentView& view = segments_[segment];
  auto& live = changed_live_[view.segment.get()];
  if (live == nullptr) {
    live = std::make_shared<std::vector<uint32_t>>(*view.live);
    view.live = live;
  }
  return *live;
}

Status CollectionDraft::KillRow(Collection::Location location, bool keep_id) {
  SegmentView& view = segments_[location.segment];
  const uint32_t bit = uint32_t{1} << location.row % kBlockRows;
  if (((*view.live)[location.row / kBlockRows] & bit) == 0) return Status();
  if (killed_from_.segment != view.segment.get()) {
    killed_from_ = {};
    QUASH_RETURN_IF_ERROR(view.segment->Slots(&killed_from_.slots, &killed_from_.pins[0]));
    killed_from_.segment = view.segment.get();
  }
  const uint64_t slot = killed_from_.slots[location.row];
  if (!keep_id) {
    if (!killed_from_.has_ids) {
      QUASH_RETURN_IF_ERROR(view.segment->Ids(&killed_from_.ids, &killed_from_.pins[1]));
      killed_from_.has_ids = true;
    }
    const IdColumn& ids = killed_from_.ids;
    const Id id = spec_.id_type == QUASH_ID_INT64 ? Id(ids.ints[location.row])
                                                  : Id(std::string(ids.string(location.row)));
    store_.Delete(&batch_, Family::kIds, IdKey(spec_.number, id));
  }
  store_.Delete(&batch_, Family::kDocs, SlotKey(spec_.number, slot));
  if (view.segment->is_tail()) {
    store_.Delete(&batch_, Family::kTail, SlotKey(spec_.number, slot));
    --state_.tail_rows;
  }
  MutableLive(location.segment)[location.row / kBlockRows] &= ~bit;
  --view.live_rows;
  --state_.live_rows;
  return Status();
}

std::vector<RowRef> CollectionDraft::LiveTailRows() const {
  std::vector<RowRef> rows;
  for (size_t s = num_sealed(); s < segments_.size(); ++s) {
    for (size_t row = 0; row < segments_[s].segment->rows(); ++row) {
      if ((*segments_[s].live)[row / kBlockRows] >> row % kBlockRows & 1) {
        rows.push_back({&RunOf(segments_[s]), static_cast<uint32_t>(row)});
      }
    }
  }
  return rows;
}

void CollectionDraft::StageTailRemoval(std::span<const RowRef> rows) {
  for (const RowRef& ref : rows) {
    store_.Delete(&batch_, Family::kTail, SlotKey(spec_.number, ref.run->slot(ref.row)));
  }
  state_.tail_rows -= rows.size();
}

Status CollectionDraft::BuildSegments(std::span<const RowRef> rows, size_t threads,
                                      std::vector<SegmentView>* built) {
  const size_t capacity = collection_.entry_.segment_rows;
  const size_t count = (rows.size() + capacity - 1) / capacity;
  std::vector<SegmentParts> parts(count);
  const uint64_t first_number = state_.next_segment;
  QUASH_RETURN_IF_ERROR(ParallelFor(count, threads, [&](size_t i) {
    const size_t begin = i * capacity;
    return BuildSegment(spec_, collection_.context_->layout, first_number + i,
                        rows.subspan(begin, std::min(capacity, rows.size() - begin)), &parts[i]);
  }));
  for (const SegmentParts& of_segment : parts) {
    StageSegment(store_, spec_, of_segment, &batch_);
    auto segment = std::make_shared<StoredSegment>(collection_.context_, of_segment.meta);
    segment->Warm(of_segment);
    built->push_back(WholeView(std::move(segment)));
  }
  state_.next_segment += count;
  state_.segments += count;
  return Status();
}

// Small runs grow by copying, so that readers keep theirs; a run of many rows
// stays as it is.
void CollectionDraft::AppendTail(std::span<const RowRef> rows, bool staged) {
  if (rows.empty()) return;
  std::vector<RowRef> all;
  if (segments_.size() > num_sealed() && segments_.back().live_rows + rows.size() <= kTailRunRows) {
    const SegmentView last = segments_.back();
    segments_.pop_back();
    for (size_t row = 0; row < last.segment->rows(); ++row) {
      if ((*last.live)[row / kBlockRows] >> row % kBlockRows & 1) {
        all.push_back({&RunOf(last), static_cast<uint32_t>(row)});
      }
    }
    all.insert(all.end(), rows.begin(), rows.end());
    const auto grown = std::make_shared<RowRun>(collection_.spec_, collection_.context_->layout,
                                                all.size());
    for (const RowRef& ref : all) grown->AppendRow(*ref.run, ref.row);
    segments_.push_back(WholeView(grown));
  } else {
    const auto fresh = std::make_shared<RowRun>(collection_.spec_, collection_.context_->layout,
                                                rows.size());
    for (const RowRef& ref : rows) fresh->AppendRow(*ref.run, ref.row);
    segments_.push_back(WholeView(fresh));
  }
  if (!staged) return;
  for (const RowRef& ref : rows) {
    store_.Put(&batch_, Family::kTail, SlotKey(spec_.number, ref.run->slot(ref.row)),
               ref.run->StoreTailRow(ref.row)->view());
  }
  state_.tail_rows += rows.size();
}

Status CollectionDraft::Append(RowRun* run, const std::vector<std::string>& records,
                               size_t threads) {
  const size_t n = run->rows();
  for (size_t row = 0; row < n; ++row) {
    const uint64_t slot = state_.next_slot++;
    run->AppendSlot(slot);
    std::string slot_bytes;
    AppendBigEndian(slot, &slot_bytes);
    store_.Put(&batch_, Family::kIds, IdKey(spec_.number, run->IdOf(row)), slot_bytes);
    if (!records.empty() && !records[row].empty()) {
      store_.Put(&batch_, Family::kDocs, SlotKey(spec_.number, slot), records[row]);
    }
  }
  state_.live_rows += n;

  std::vector<RowRef> fresh(n);
  for (size_t row = 0; row < n; ++row) fresh[row] = {run, static_cast<uint32_t>(row)};
  std::vector<RowRef> rows = LiveTailRows();
  const size_t in_tail = rows.size();
  const size_t capacity = collection_.entry_.segment_rows;
  if (in_tail + n < capacity) {
    AppendTail(fresh, /*staged=*/true);
    return Status();
  }
  // The tail goes first and is shorter than a segment, so all of it is sealed.
  rows.insert(rows.end(), fresh.begin(), fresh.end());
  const size_t sealed_rows = rows.size() / capacity * capacity;
  std::vector<SegmentView> built;
  QUASH_RETURN_IF_ERROR(BuildSegments(std::span(rows).first(sealed_rows), threads, &built));
  StageTailRemoval(std::span(rows).first(in_tail));
  segments_.resize(num_sealed());
  segments_.insert(segments_.end(), built.begin(), built.end());
  AppendTail(std::span(rows).subspan(sealed_rows), /*staged=*/true);
  return Status();
}

Status CollectionDraft::SealTail() {
  const std::vector<RowRef> rows = LiveTailRows();
  std::vector<SegmentView> built;
  if (!rows.empty()) QUASH_RETURN_IF_ERROR(BuildSegments(rows, 1, &built));
  StageTailRemoval(rows);
  segments_.resize(num_sealed());
  segments_.insert(segments_.end(), built.begin(), built.end());
  return Status();
}

Status CollectionDraft::Rewrite(size_t begin, size_t end) {
  size_t live_rows = 0;
  for (size_t s = begin; s < end; ++s) live_rows += segments_[s].live_rows;
  std::vector<SegmentView> built;
  if (live_rows > 0) {
    RowRun run(collection_.spec_, collection_.context_->layout, live_rows);
    for (size_t s = begin; s < end; ++s) {
      QUASH_RETURN_IF_ERROR(run.AppendSegment(*segments_[s].segment, *segments_[s].live));
    }
    std::vector<RowRef> rows(live_rows);
    for (size_t row = 0; row < live_rows; ++row) rows[row] = {&run, static_cast<uint32_t>(row)};
    QUASH_RETURN_IF_ERROR(BuildSegments(rows, 1, &built));
  }
  for (size_t s = begin; s < end; ++s) {
    const auto& segment = static_cast<const StoredSegment&>(*segments_[s].segment);
    StageSegmentRemoval(store_, spec_, segment.meta(), &batch_);
    segment.Retire(store_.NewView());
    changed_live_.erase(&segment);
    --state_.segments;
  }
  segments_.erase(segments_.begin() + begin, segments_.begin() + end);
  segments_.insert(segments_.begin() + begin, built.begin(), built.end());
  return Status();
}

Status CollectionDraft::Finish() {
  // Tail runs and segments without a live row hold nothing to search.
  for (size_t s = segments_.size(); s-- > 0;) {
    if (segments_[s].live_rows > 0) continue;
    if (segments_[s].segment->is_tail()) {
      segments_.erase(segments_.begin() + s);
    } else {
      QUASH_RETURN_IF_ERROR(Rewrite(s, s + 1));
    }
  }
  for (const SegmentView& view : segments_) {
    if (view.segment->is_tail() || !changed_live_.contains(view.segment.get())) continue;
    const uint64_t number = static_cast<const StoredSegment&>(*view.segment).meta().number;
    const size_t bytes = view.live->size() * sizeof(uint32_t);
    PartBuilder builder(bytes);
    std::memcpy(builder.Next<uint32_t>(view.live->size()), view.live->data(), bytes);
    SealPart({PartKind::kLive, spec_.number, number}, static_cast<uint32_t>(view.segment->rows()),
             spec_.dim, spec_.bits, spec_.rerank, builder.part().get());
    store_.Put(&batch_, Family::kDeletes, SegmentKey(spec_.number, number),
               builder.part()->view());
  }
  ++state_.generation;
  store_.Put(&batch_, Family::kCatalog, CatalogKey(spec_.number, 's'), EncodeState(state_));
  published_ = collection_.NewSnapshot(segments_);
  published_->generation = state_.generation;
  published_->live_rows = state_.live_rows;
  return Status();
}

}  // namespace quash
