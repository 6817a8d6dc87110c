// Writing to a collection: adds, upserts, deletes, schema changes, compaction.
#include <algorithm>
#include <atomic>
#include <bit>
#include <limits>
#include <new>
#include <thread>

#include "libquashdb/collection_draft.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/filter.h"
#include "libquashdb/key.h"
#include "libquashdb/metadata.h"
#include "libquashdb/record.h"
#include "libquashdb/stored_database.h"

namespace quash {
namespace {

// Rows encoded between two looks at the progress callback.
constexpr size_t kEncodeRows = 8192;

std::string IdText(const Id& id) {
  if (const int64_t* number = std::get_if<int64_t>(&id)) return fmt::format("{}", *number);
  return fmt::format("'{}'", std::get<std::string>(id));
}

// A segment is rewritten once more than one row in so many is dead: by the write that
// killed it, or when nothing is written.
constexpr size_t kDeadWhileWriting = 5;
constexpr size_t kDeadWhenQuiet = 16;

// In a collection without partition index, so many rows die before the upkeep thread is
// called: it has nothing else to do for it than to give their space back.
constexpr uint64_t kDeadUntilUpkeep = 1024;

bool HasManyDead(const SegmentView& view, size_t one_in) {
  const size_t rows = view.segment->rows();
  return !view.segment->is_tail() && (rows - view.live_rows) * one_in > rows;
}

Status Cancelled() { return Error(QUASH_CANCELLED, "the progress callback cancelled the call"); }

}  // namespace

Status StoredCollection::CheckWritable() const {
  QUASH_RETURN_IF_ERROR(database_->CheckWritable());
  if (detached_) return Error(QUASH_NOT_FOUND, "collection \"{}\" was dropped", name_);
  return Status();
}

Status StoredCollection::Write(const WriteBatch& batch, WriteMode mode, const Progress& progress,
                               std::vector<Id>* assigned) {
  SnapshotRef before;
  QUASH_RETURN_IF_ERROR(GetSnapshot(&before));
  const size_t n = batch.n;
  const size_t threads = ThreadCount(database_->options().threads);

  // All that needs no lock: codes, rerank tier, records.
  RowRun run(before->spec, before->quantizer->layout(), n);
  for (size_t begin = 0; begin < n; begin += kEncodeRows) {
    if (progress && progress(begin, n)) return Cancelled();
    const size_t rows = std::min(kEncodeRows, n - begin);
    const size_t blocks = NumBlocks(rows);  // blocks are the unit that threads may share out
    const size_t per_task = std::max<size_t>(1, (blocks + 4 * threads - 1) / (4 * threads));
    QUASH_RETURN_IF_ERROR(
        ParallelFor((blocks + per_task - 1) / per_task, threads, [&](size_t task) {
          const size_t first = begin + task * per_task * kBlockRows;
          const size_t last = std::min(begin + rows, first + per_task * kBlockRows);
          run.Encode(*before->quantizer, batch.vectors + first * before->spec->dim, first,
                     last - first);
          return Status();
        }));
  }
  std::vector<std::string> records(batch.records.size());
  for (size_t i = 0; i < records.size(); ++i) records[i] = EncodeRecord(batch.records[i]);

  const std::lock_guard lock(database_->writer_mutex());
  QUASH_RETURN_IF_ERROR(CheckWritable());
  std::vector<Id> ids = batch.ids;
  int64_t& next_int_id = state_.next_int_id;
  const int64_t largest = std::numeric_limits<int64_t>::max();
  const bool is_int = spec_->id_type == QUASH_ID_INT64;
  if (ids.empty()) {
    if (next_int_id > largest - static_cast<int64_t>(n)) {
      return Error(QUASH_LIMIT, "collection \"{}\" has no more ids to assign: give ids", name_);
    }
    for (size_t i = 0; i < n; ++i) ids.emplace_back(next_int_id + static_cast<int64_t>(i));
  }

  CollectionDraft draft(*this);
  // Integer ids above all former ones cannot be stored already.
  const bool all_new = is_int && next_int_id < largest &&
                       std::all_of(ids.begin(), ids.end(), [&](const Id& id) {
                         return std::get<int64_t>(id) >= next_int_id;
                       });
  const uint64_t rows_before = state_.live_rows;
  if (!all_new) {
    std::vector<uint64_t> slots;
    QUASH_RETURN_IF_ERROR(FindSlots(ids, nullptr, &slots));
    for (size_t i = 0; mode == WriteMode::kAdd && i < n; ++i) {
      if (slots[i] == kNoSlot) continue;
      return Error(QUASH_EXISTS, "id {} is stored already in collection \"{}\"", IdText(ids[i]),
                   name_);
    }
    QUASH_RETURN_IF_ERROR(KillSlots(std::move(slots), /*keep_ids=*/true, &draft));
  }
  const uint64_t replaced = rows_before - draft.state().live_rows;
  for (size_t i = 0; i < n; ++i) {
    run.AppendId(ids[i]);
    run.AppendValues(i < batch.records.size() ? batch.records[i].values : std::vector<Value>());
    if (is_int) {
      const int64_t id = std::get<int64_t>(ids[i]);
      int64_t& next = draft.state().next_int_id;
      if (id >= next) next = id == largest ? largest : id + 1;
    }
  }
  run.SetRows(n);
  QUASH_RETURN_IF_ERROR(draft.Append(&run, records, threads));
  QUASH_RETURN_IF_ERROR(draft.Finish());
  QUASH_RETURN_IF_ERROR(database_->Commit(&draft.batch(), [&] { Publish(&draft); }));
  if (assigned != nullptr) *assigned = std::move(ids);
  if (replaced > 0) RewriteDead();
  CallUpkeep(replaced);
  return Status();
}

Status StoredCollection::KillSlots(std::vector<uint64_t> slots, bool keep_ids,
                                   CollectionDraft* draft) const {
  std::sort(slots.begin(), slots.end());  // segment by segment
  for (const uint64_t slot : slots) {
    if (slot == kNoSlot) break;
    Location location;
    QUASH_RETURN_IF_ERROR(LocateSlot(*published_, slot, &location));
    if (location.segment == kMissing) {
      return Error(QUASH_CORRUPT, "collection \"{}\": its id index names a row that is not there",
                   name_);
    }
    QUASH_RETURN_IF_ERROR(draft->KillRow(location, keep_ids));
  }
  return Status();
}

Status StoredCollection::Delete(std::span<const Id> ids, uint64_t* deleted) {
  const std::lock_guard lock(database_->writer_mutex());
  QUASH_RETURN_IF_ERROR(CheckWritable());
  std::vector<uint64_t> slots;
  QUASH_RETURN_IF_ERROR(FindSlots(ids, nullptr, &slots));
  CollectionDraft draft(*this);
  QUASH_RETURN_IF_ERROR(KillSlots(std::move(slots), /*keep_ids=*/false, &draft));
  const uint64_t count = state_.live_rows - draft.state().live_rows;
  if (deleted != nullptr) *deleted = count;
  if (count == 0) return Status();
  QUASH_RETURN_IF_ERROR(draft.Finish());
  QUASH_RETURN_IF_ERROR(database_->Commit(&draft.batch(), [&] { Publish(&draft); }));
  RewriteDead();
  CallUpkeep(count);
  return Status();
}

Status StoredCollection::DeleteWhere(std::string_view text, const Progress& progress,
                                     uint64_t* deleted) {
  const std::lock_guard lock(database_->writer_mutex());
  QUASH_RETURN_IF_ERROR(CheckWritable());
  std::shared_ptr<const Filter> filter;
  QUASH_RETURN_IF_ERROR(Filter::Parse(text, *spec_, &filter));
  CollectionDraft draft(*this);
  const std::vector<SegmentView>& segments = published_->segments;
  for (uint32_t s = 0; s < segments.size(); ++s) {
    if (progress && progress(s, segments.size())) return Cancelled();
    std::vector<uint32_t> rows = *segments[s].live;
    QUASH_RETURN_IF_ERROR(filter->Apply(*segments[s].segment, &rows));
    for (uint32_t block = 0; block < rows.size(); ++block) {
      for (uint32_t left = rows[block]; left != 0; left &= left - 1) {
        const uint32_t row =
            block * static_cast<uint32_t>(kBlockRows) + static_cast<uint32_t>(std::countr_zero(left));
        QUASH_RETURN_IF_ERROR(draft.KillRow({s, row}, /*keep_id=*/false));
      }
    }
  }
  const uint64_t count = state_.live_rows - draft.state().live_rows;
  if (deleted != nullptr) *deleted = count;
  if (count == 0) return Status();
  QUASH_RETURN_IF_ERROR(draft.Finish());
  QUASH_RETURN_IF_ERROR(database_->Commit(&draft.batch(), [&] { Publish(&draft); }));
  RewriteDead();
  CallUpkeep(count);
  return Status();
}

// Under the writer lock.
Status StoredCollection::CommitCatalogEntry(const CatalogEntry& entry) {
  const auto spec = std::make_shared<const CollectionSpec>(entry.spec);
  CollectionDraft draft(*this);
  draft.store_.Put(&draft.batch(), Family::kCatalog, CatalogKey(spec->number, 'c'),
                   EncodeCatalogEntry(entry));
  // Tail runs carry their own spec and are made again.
  std::vector<SegmentView> segments;
  for (const SegmentView& view : draft.segments_) {
    if (!view.segment->is_tail()) {
      segments.push_back(view);
      continue;
    }
    const auto& run = static_cast<const RowRun&>(*view.segment);
    auto copy = std::make_shared<RowRun>(spec, context_->layout, run.rows());
    for (size_t row = 0; row < run.rows(); ++row) copy->AppendRow(run, row);
    segments.push_back({std::move(copy), view.live, view.live_rows});
  }
  draft.segments_ = std::move(segments);
  CatalogEntry kept = entry;
  QUASH_RETURN_IF_ERROR(draft.Finish());
  draft.published_->spec = spec;
  draft.published_->widths = entry.widths;
  return database_->Commit(&draft.batch(), [&] {
    // Segments ask the context for the types of fields younger than they are.
    context_->spec.store(spec);
    entry_ = std::move(kept);
    spec_ = spec;
    Publish(&draft);
  });
}

Status StoredCollection::AddField(const Field& field) {
  const std::lock_guard lock(database_->writer_mutex());
  QUASH_RETURN_IF_ERROR(CheckWritable());
  CatalogEntry entry = entry_;
  entry.spec.fields.push_back(field);
  QUASH_RETURN_IF_ERROR(CheckFields(entry.spec.fields));
  return CommitCatalogEntry(entry);
}

Status StoredCollection::SetWidths(const SearchWidths& widths) {
  const std::lock_guard lock(database_->writer_mutex());
  QUASH_RETURN_IF_ERROR(CheckWritable());
  CatalogEntry entry = entry_;
  entry.widths = widths;
  if (widths.recall_curve.empty()) entry.widths.recall_curve = entry_.widths.recall_curve;
  return CommitCatalogEntry(entry);
}

Status StoredCollection::SetRecallCurve(std::vector<RecallPoint> curve) {
  const std::lock_guard lock(database_->writer_mutex());
  QUASH_RETURN_IF_ERROR(CheckWritable());
  CatalogEntry entry = entry_;
  entry.widths.recall_curve = std::move(curve);
  return CommitCatalogEntry(entry);
}

// What was asked for is done and durable by now; a rewrite that fails leaves
// the dead rows where they are, and a failed disk refuses the next write.
void StoredCollection::RewriteDead() {
  for (size_t s = 0; s < published_->segments.size(); ++s) {
    if (!HasManyDead(published_->segments[s], kDeadWhileWriting)) continue;
    try {
      if (!RewriteAround(&s).ok()) return;
    } catch (const std::bad_alloc&) {
      return;
    }
  }
}

// Under the writer lock, after a batch.
void StoredCollection::CallUpkeep(uint64_t killed) {
  dead_until_upkeep_ += killed;
  if (!WantsPartitions() && dead_until_upkeep_ < kDeadUntilUpkeep) return;
  dead_until_upkeep_ = 0;
  database_->WakeUpkeep();
}

// With the neighbours that fit, so that shrinking segments do not pile up. Under the
// writer lock.
Status StoredCollection::RewriteAround(size_t* s) {
  size_t begin = *s;
  size_t end = begin + 1;
  size_t rows = published_->segments[begin].live_rows;
  const auto fits = [&](size_t other) {
    const SegmentView& view = published_->segments[other];
    return !view.segment->is_tail() && rows + view.live_rows <= entry_.segment_rows;
  };
  while (begin > 0 && fits(begin - 1)) rows += published_->segments[--begin].live_rows;
  while (end < published_->segments.size() && fits(end)) {
    rows += published_->segments[end++].live_rows;
  }
  *s = begin;
  return RewriteSegments(begin, end);
}

Status StoredCollection::RewriteWhenQuiet(const std::function<bool()>& stop) {
  for (bool found = true; found && !stop();) {
    const std::lock_guard lock(database_->writer_mutex());
    QUASH_RETURN_IF_ERROR(CheckWritable());
    found = false;
    for (size_t s = 0; s < published_->segments.size() && !found; ++s) {
      found = HasManyDead(published_->segments[s], kDeadWhenQuiet);
      if (found) QUASH_RETURN_IF_ERROR(RewriteAround(&s));
    }
  }
  // All of the tail is in memory. Half a segment is worth being one.
  const std::lock_guard lock(database_->writer_mutex());
  QUASH_RETURN_IF_ERROR(CheckWritable());
  return 2 * state_.tail_rows >= entry_.segment_rows ? SealTail() : Status();
}

// Under the writer lock.
Status StoredCollection::RewriteSegments(size_t begin, size_t end) {
  CollectionDraft draft(*this);
  QUASH_RETURN_IF_ERROR(draft.Rewrite(begin, end));
  QUASH_RETURN_IF_ERROR(draft.Finish());
  return database_->Commit(&draft.batch(), [&] { Publish(&draft); });
}

// Under the writer lock.
Status StoredCollection::SealTail() {
  if (published_->segments.empty() || !published_->segments.back().segment->is_tail()) {
    return Status();
  }
  CollectionDraft draft(*this);
  QUASH_RETURN_IF_ERROR(draft.SealTail());
  QUASH_RETURN_IF_ERROR(draft.Finish());
  return database_->Commit(&draft.batch(), [&] { Publish(&draft); });
}

Status StoredCollection::Compact(const Progress& progress) {
  QUASH_RETURN_IF_ERROR(DropDamagedPartitions());
  QUASH_RETURN_IF_ERROR(CompactSegments(progress));
  // Lists are made by several threads; the callback is for this one alone.
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> stopped{false};
  const auto stop = [&] {
    if (progress && !stopped && std::this_thread::get_id() == caller) stopped = progress(0, 0);
    return stopped.load();
  };
  const size_t threads = ThreadCount(database_->options().threads);
  for (bool idle = false; !idle;) {
    const Status status = KeepPartitions(threads, /*finish=*/true, stop, &idle);
    if (status.code() == QUASH_CANCELLED) return Cancelled();
    QUASH_RETURN_IF_ERROR(status);
  }
  return Status();
}

Status StoredCollection::CompactSegments(const Progress& progress) {
  size_t full = 0;
  {
    const std::lock_guard lock(database_->writer_mutex());
    QUASH_RETURN_IF_ERROR(CheckWritable());
    QUASH_RETURN_IF_ERROR(SealTail());
    full = entry_.segment_rows;
  }
  // Runs of neighbours that are not full, a few segments at a time; other
  // writers come in between.
  constexpr size_t kSegmentsAtOnce = 4;
  uint64_t next_slot = 0;  // all rows below are in order
  while (true) {
    const std::lock_guard lock(database_->writer_mutex());
    QUASH_RETURN_IF_ERROR(CheckWritable());
    const std::vector<SegmentView>& segments = published_->segments;
    const auto is_full = [&](const SegmentView& view) {
      return view.segment->rows() == full && view.live_rows == full;
    };
    size_t begin = 0;
    while (begin < segments.size() && (segments[begin].segment->first_slot() < next_slot ||
                                       is_full(segments[begin]))) {
      ++begin;
    }
    if (progress && progress(begin, segments.size())) return Cancelled();
    if (begin == segments.size() || segments[begin].segment->is_tail()) return Status();
    size_t end = begin;
    size_t rows = 0;
    bool has_dead = false;
    while (end < segments.size() && !segments[end].segment->is_tail() && !is_full(segments[end]) &&
           rows < kSegmentsAtOnce * full) {
      rows += segments[end].live_rows;
      has_dead |= segments[end].live_rows < segments[end].segment->rows();
      ++end;
    }
    const bool at_end = end == segments.size() || segments[end].segment->is_tail() ||
                        is_full(segments[end]);
    const uint64_t last_slot = segments[end - 1].segment->last_slot();
    if (end - begin > 1 || has_dead) QUASH_RETURN_IF_ERROR(RewriteSegments(begin, end));
    if (at_end) {
      next_slot = last_slot + 1;
      continue;
    }
    // The last of the new segments may be part full: it joins the next round.
    next_slot = 0;
    for (const SegmentView& view : published_->segments) {
      if (view.segment->first_slot() > last_slot) break;
      next_slot = is_full(view) ? view.segment->last_slot() + 1 : view.segment->first_slot();
    }
  }
}

}  // namespace quash
