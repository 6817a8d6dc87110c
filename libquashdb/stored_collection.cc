// Loading, snapshots and reading of a collection. Writing: collection_write.cc.
#include "libquashdb/stored_collection.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "libquashdb/collection_draft.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/key.h"
#include "libquashdb/partition_upkeep.h"
#include "libquashdb/record.h"
#include "libquashdb/stored_database.h"

namespace quash {
namespace {

Status Damaged(std::string_view collection, const std::string& what) {
  return Error(QUASH_CORRUPT, "collection \"{}\": {}", collection, what);
}

Status ReadLive(const Store& store, const CollectionSpec& spec, const StoredSegment& segment,
                SegmentView* view) {
  const size_t rows = segment.rows();
  auto live = std::make_shared<std::vector<uint32_t>>(NumBlocks(rows), ~uint32_t{0});
  const uint32_t last_mask =
      rows % kBlockRows == 0 ? ~uint32_t{0} : (uint32_t{1} << rows % kBlockRows) - 1;
  live->back() = last_mask;
  rocksdb::PinnableSlice value;
  bool found = false;
  const uint64_t number = segment.meta().number;
  QUASH_RETURN_IF_ERROR(store.Get(Family::kDeletes, SegmentKey(spec.number, number), nullptr,
                                  &value, &found));
  if (found) {
    BufferRef part;
    QUASH_RETURN_IF_ERROR(OpenPart({value.data(), value.size()},
                                   {PartKind::kLive, spec.number, number}, &part));
    PartCursor cursor(*part);
    const auto words = cursor.Next<uint32_t>(live->size());
    if (cursor.failed() || cursor.remaining() != 0 || (words.back() & ~last_mask) != 0) {
      return Damaged(spec.name, fmt::format("the live bitmap of segment {} is damaged", number));
    }
    live->assign(words.begin(), words.end());
  }
  view->live_rows = 0;
  for (const uint32_t word : *live) view->live_rows += std::popcount(word);
  view->live = std::move(live);
  return Status();
}

}  // namespace

Status LocateSlot(const Snapshot& snapshot, uint64_t slot, Collection::Location* location) {
  *location = {Collection::kMissing, 0};
  uint64_t row = 0;
  bool found = false;
  QUASH_RETURN_IF_ERROR(Locate(snapshot, slot, &row, &found));
  if (!found) return Status();
  const std::vector<uint32_t>& live = *snapshot.segments[SegmentOf(row)].live;
  if ((live[RowOf(row) / kBlockRows] >> RowOf(row) % kBlockRows & 1) == 0) return Status();
  *location = {SegmentOf(row), RowOf(row)};
  return Status();
}

Status StoredCollection::Load(StoredDatabase* database, std::shared_ptr<Store> store,
                              const CatalogEntry& entry,
                              std::shared_ptr<StoredCollection>* out) {
  std::shared_ptr<StoredCollection> collection;
  QUASH_RETURN_IF_ERROR(Create(database, std::move(store), entry, &collection));
  QUASH_RETURN_IF_ERROR(collection->LoadRows());
  *out = std::move(collection);
  return Status();
}

Status StoredCollection::Create(StoredDatabase* database, std::shared_ptr<Store> store,
                                const CatalogEntry& entry,
                                std::shared_ptr<StoredCollection>* out) {
  std::shared_ptr<StoredCollection> collection(new StoredCollection(database, entry.spec));
  collection->entry_ = entry;
  collection->spec_ = std::make_shared<const CollectionSpec>(entry.spec);
  const RotationKind rotation = entry.spec.rotation == QUASH_ROTATION_DENSE
                                    ? RotationKind::kDense
                                    : RotationKind::kHadamard;
  try {
    collection->quantizer_ = std::make_shared<const Quantizer>(entry.spec.dim, entry.codebook,
                                                               rotation, entry.spec.seed);
  } catch (const std::invalid_argument& e) {
    return Damaged(entry.spec.name, e.what());
  }
  collection->context_ = std::make_shared<SegmentContext>();
  collection->context_->store = std::move(store);
  collection->context_->cache = database->cache();
  collection->context_->layout = collection->quantizer_->layout();
  collection->context_->spec = collection->spec_;
  collection->published_ = collection->NewSnapshot({});
  *out = std::move(collection);
  return Status();
}

Status StoredCollection::LoadRows() {
  const Store& store = *context_->store;
  const uint32_t number = spec_->number;
  rocksdb::PinnableSlice value;
  bool found = false;
  QUASH_RETURN_IF_ERROR(
      store.Get(Family::kCatalog, CatalogKey(number, 's'), nullptr, &value, &found));
  if (!found) return Damaged(name_, "its state is missing");
  QUASH_RETURN_IF_ERROR(DecodeState({value.data(), value.size()}, &state_));

  std::vector<SegmentView> segments;
  QUASH_RETURN_IF_ERROR(store.Scan(
      Family::kCatalog, CatalogKey(number, 'g'), CatalogKey(number, 'g' + 1), nullptr,
      [&](std::string_view, std::string_view bytes) -> Status {
        SegmentMeta meta;
        QUASH_RETURN_IF_ERROR(DecodeSegmentMeta(bytes, &meta));
        if (meta.columns > spec_->fields.size()) {
          return Damaged(name_, fmt::format("segment {} has unknown fields", meta.number));
        }
        auto segment = std::make_shared<StoredSegment>(context_, meta);
        SegmentView view;
        QUASH_RETURN_IF_ERROR(ReadLive(store, *spec_, *segment, &view));
        view.segment = std::move(segment);
        segments.push_back(std::move(view));
        return Status();
      }));
  if (segments.size() != state_.segments) {
    return Damaged(name_, fmt::format("{} segments are stored, expected {}", segments.size(),
                                      state_.segments));
  }
  // Numbers follow writing, slots follow rows: rewriting makes them differ.
  std::sort(segments.begin(), segments.end(), [](const SegmentView& a, const SegmentView& b) {
    return a.segment->first_slot() < b.segment->first_slot();
  });
  if (!segments.empty()) {
    // A family that lost its newest files lacks the newest segment.
    const auto newest = std::max_element(
        segments.begin(), segments.end(), [](const SegmentView& a, const SegmentView& b) {
          return static_cast<const StoredSegment&>(*a.segment).meta().number <
                 static_cast<const StoredSegment&>(*b.segment).meta().number;
        });
    QUASH_RETURN_IF_ERROR(static_cast<const StoredSegment&>(*newest->segment).Verify());
  }
  published_ = NewSnapshot(segments);
  return LoadTail();
}

Status StoredCollection::LoadTail() {
  const uint32_t number = spec_->number;
  auto run = std::make_shared<RowRun>(spec_, context_->layout,
                                      std::max<size_t>(state_.tail_rows, 1));
  QUASH_RETURN_IF_ERROR(context_->store->Scan(
      Family::kTail, CollectionPrefix(number), CollectionPrefix(number + 1), nullptr,
      [&](std::string_view key, std::string_view stored) -> Status {
        uint32_t collection = 0;
        uint64_t slot = 0;
        if (!TakeBigEndian(&key, &collection) || !TakeBigEndian(&key, &slot) || !key.empty() ||
            run->rows() >= state_.tail_rows) {
          return Damaged(name_, "its tail has rows that it should not have");
        }
        return run->AppendTailRow(stored, slot);
      }));
  if (run->rows() != state_.tail_rows) {
    return Damaged(name_, fmt::format("{} tail rows are stored, expected {}", run->rows(),
                                      state_.tail_rows));
  }
  std::vector<SegmentView> segments = published_->segments;
  if (run->rows() > 0) {
    QUASH_RETURN_IF_ERROR(ReadValues(run.get()));
    auto live = std::make_shared<std::vector<uint32_t>>(run->num_blocks(), ~uint32_t{0});
    if (run->rows() % kBlockRows != 0) {
      live->back() = (uint32_t{1} << run->rows() % kBlockRows) - 1;
    }
    const size_t rows = run->rows();
    segments.push_back({std::move(run), std::move(live), rows});
  }
  uint64_t live_rows = 0;
  uint64_t next_slot = 0;
  for (const SegmentView& view : segments) {
    if (view.segment->first_slot() < next_slot) return Damaged(name_, "its segments overlap");
    next_slot = view.segment->last_slot() + 1;
    live_rows += view.live_rows;
  }
  if (live_rows != state_.live_rows || next_slot > state_.next_slot) {
    return Damaged(name_, fmt::format("{} rows are stored, expected {}", live_rows,
                                      state_.live_rows));
  }
  published_ = NewSnapshot(segments);
  return LoadPartitions();
}

Status StoredCollection::LoadPartitions() {
  rocksdb::PinnableSlice value;
  bool found = false;
  QUASH_RETURN_IF_ERROR(context_->store->Get(Family::kCatalog, PartitionHeadKey(spec_->number),
                                             nullptr, &value, &found));
  if (!found) return Status();
  Status status = PartitionIndex::Load(context_, *spec_, *quantizer_,
                                       {value.data(), value.size()}, &partitions_);
  if (status.ok() && partitions_->indexed_slots() > state_.next_slot) {
    status = Damaged(name_, "its partition index is of a later state");
  }
  if (status.code() == QUASH_CORRUPT) {
    // Searches are right without it, and a writer makes it anew.
    partitions_ = nullptr;
    partition_damage_ = status.message();
    return Status();
  }
  QUASH_RETURN_IF_ERROR(status);
  published_ = NewSnapshot(published_->segments);
  return Status();
}

PartitionUpkeep StoredCollection::Upkeep(size_t threads, bool finish,
                                         const std::function<bool()>& stop) {
  const std::lock_guard lock(database_->publish_mutex());
  return PartitionUpkeep(this, context_, threads, finish, stop);
}

Status StoredCollection::KeepPartitions(size_t threads, bool finish,
                                        const std::function<bool()>& stop, bool* idle) {
  const std::lock_guard lock(upkeep_mutex_);
  return Upkeep(threads, finish, stop).Step(idle);
}

Status StoredCollection::DropDamagedPartitions() {
  const std::lock_guard lock(upkeep_mutex_);
  return Upkeep(1, /*finish=*/true, nullptr).DropIfDamaged();
}

Status StoredCollection::ReadValues(RowRun* run) const {
  std::vector<std::string> keys(run->rows());
  for (size_t row = 0; row < keys.size(); ++row) keys[row] = SlotKey(spec_->number, run->slot(row));
  std::vector<rocksdb::PinnableSlice> values;
  std::vector<uint8_t> found;
  QUASH_RETURN_IF_ERROR(context_->store->MultiGet(Family::kDocs, keys, nullptr, &values, &found));
  for (size_t row = 0; row < keys.size(); ++row) {
    quash::Record record;
    if (found[row]) {
      QUASH_RETURN_IF_ERROR(
          DecodeRecord({values[row].data(), values[row].size()}, *spec_, &record));
    }
    run->AppendValues(std::move(record.values));
  }
  return Status();
}

std::shared_ptr<Snapshot> StoredCollection::NewSnapshot(
    const std::vector<SegmentView>& segments) const {
  auto snapshot = std::make_shared<Snapshot>();
  snapshot->spec = spec_;
  snapshot->quantizer = quantizer_;
  snapshot->widths = entry_.widths;
  snapshot->generation = state_.generation;
  snapshot->live_rows = state_.live_rows;
  snapshot->segments = segments;
  snapshot->first_slots.reserve(segments.size());
  for (const SegmentView& view : segments) {
    snapshot->first_slots.push_back(view.segment->first_slot());
  }
  snapshot->partitions = partitions_;
  return snapshot;
}

void StoredCollection::Publish(CollectionDraft* draft) {
  state_ = draft->state_;
  draft->replaced_ = std::exchange(published_, std::move(draft->published_));
}

void StoredCollection::Detach() {
  detached_ = true;
  handed_out_.reset();
  published_.reset();
  partitions_.reset();
  context_.reset();
}

void StoredCollection::Adopt(StoredCollection* fresh) {
  entry_ = fresh->entry_;
  state_ = fresh->state_;
  spec_ = fresh->spec_;
  quantizer_ = fresh->quantizer_;
  context_ = fresh->context_;
  published_ = fresh->published_;
  partitions_ = fresh->partitions_;
  partition_damage_ = fresh->partition_damage_;
  handed_out_.reset();
  detached_ = false;
}

void StoredCollection::RetireSegments() const {
  const std::shared_ptr<const ReadView> view = context_->store->NewView();
  for (const SegmentView& segment : published_->segments) {
    if (segment.segment->is_tail()) continue;
    static_cast<const StoredSegment&>(*segment.segment).Retire(view);
  }
  if (partitions_ != nullptr) partitions_->Retire(view);
}

Status StoredCollection::GetSnapshot(SnapshotRef* out) const {
  const std::lock_guard lock(database_->publish_mutex());
  if (detached_) return Error(QUASH_NOT_FOUND, "collection \"{}\" was dropped", name_);
  if (handed_out_ == nullptr) {
    auto snapshot = std::make_shared<Snapshot>(*published_);
    snapshot->view = database_->view();
    snapshot->gpu = gpu_;
    handed_out_ = std::move(snapshot);
  }
  *out = handed_out_;
  return Status();
}

Status StoredCollection::AttachGpu(std::shared_ptr<GpuGroup> gpu) {
  const std::lock_guard lock(database_->publish_mutex());
  if (detached_) return Error(QUASH_NOT_FOUND, "collection \"{}\" was dropped", name_);
  gpu_ = std::move(gpu);
  handed_out_.reset();
  return Status();
}

Status StoredCollection::FindSlots(std::span<const Id> ids, const ReadView* view,
                                   std::vector<uint64_t>* slots) const {
  slots->assign(ids.size(), kNoSlot);
  std::vector<std::string> keys(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) keys[i] = IdKey(number_, ids[i]);
  std::vector<rocksdb::PinnableSlice> values;
  std::vector<uint8_t> found;
  const Store& store = view != nullptr ? view->store() : *context_->store;
  QUASH_RETURN_IF_ERROR(store.MultiGet(Family::kIds, keys, view, &values, &found));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!found[i]) continue;
    std::string_view bytes(values[i].data(), values[i].size());
    if (!TakeBigEndian(&bytes, &(*slots)[i]) || !bytes.empty()) {
      return Damaged(name_, "an entry of its id index is damaged");
    }
  }
  return Status();
}

Status StoredCollection::Find(const Snapshot& snapshot, std::span<const Id> ids,
                              std::vector<Location>* out) const {
  const auto* view = static_cast<const ReadView*>(snapshot.view.get());
  std::vector<uint64_t> slots;
  QUASH_RETURN_IF_ERROR(FindSlots(ids, view, &slots));
  out->assign(ids.size(), {kMissing, 0});
  for (size_t i = 0; i < ids.size(); ++i) {
    if (slots[i] == kNoSlot) continue;
    QUASH_RETURN_IF_ERROR(LocateSlot(snapshot, slots[i], &(*out)[i]));
    if ((*out)[i].segment == kMissing) {
      return Damaged(name_, "its id index names a row that is not there");
    }
  }
  return Status();
}

Status StoredCollection::ReadRecords(const Snapshot& snapshot, std::span<const Location> rows,
                                     std::vector<quash::Record>* out) const {
  const auto* view = static_cast<const ReadView*>(snapshot.view.get());
  const uint32_t number = snapshot.spec->number;
  out->assign(rows.size(), quash::Record());
  std::vector<std::pair<uint64_t, size_t>> slots;  // and the place in `out`
  slots.reserve(rows.size());
  Pin pin;
  std::span<const uint64_t> of_segment;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i == 0 || rows[i].segment != rows[i - 1].segment) {
      QUASH_RETURN_IF_ERROR(
          snapshot.segments[rows[i].segment].segment->Slots(&of_segment, &pin));
    }
    slots.emplace_back(of_segment[rows[i].row], i);
  }
  const auto decode = [&](std::string_view bytes, size_t place) {
    return DecodeRecord(bytes, *snapshot.spec, &(*out)[place]);
  };
  std::sort(slots.begin(), slots.end());
  // Stepping over a record costs a fraction of finding one.
  constexpr size_t kFewestScanned = 8, kScannedPerRow = 4;
  if (slots.size() >= kFewestScanned &&
      slots.back().first - slots.front().first < kScannedPerRow * slots.size()) {
    auto next = slots.begin();
    return view->store().Scan(
        Family::kDocs, SlotKey(number, slots.front().first),
        SlotKey(number, slots.back().first + 1), view,
        [&](std::string_view key, std::string_view value) {
          while (next != slots.end() && SlotKey(number, next->first) < key) ++next;
          for (; next != slots.end() && SlotKey(number, next->first) == key; ++next) {
            QUASH_RETURN_IF_ERROR(decode(value, next->second));
          }
          return Status();
        });
  }
  std::vector<std::string> keys;
  for (const auto& [slot, place] : slots) keys.push_back(SlotKey(number, slot));
  std::vector<rocksdb::PinnableSlice> values;
  std::vector<uint8_t> found;
  QUASH_RETURN_IF_ERROR(view->store().MultiGet(Family::kDocs, keys, view, &values, &found));
  for (size_t i = 0; i < slots.size(); ++i) {
    if (!found[i]) continue;
    QUASH_RETURN_IF_ERROR(decode({values[i].data(), values[i].size()}, slots[i].second));
  }
  return Status();
}

Status StoredCollection::Stats(quash_collection_info* out) const {
  SnapshotRef snapshot;
  QUASH_RETURN_IF_ERROR(GetSnapshot(&snapshot));
  quash_collection_info info = {};
  info.struct_size = sizeof(info);
  const CollectionSpec& spec = *snapshot->spec;
  info.dim = spec.dim;
  info.bits = spec.bits;
  info.metric = spec.metric;
  info.id_type = spec.id_type;
  info.rerank = spec.rerank;
  info.rows = snapshot->live_rows;
  info.generation = snapshot->generation;
  const CodeLayout& layout = snapshot->quantizer->layout();
  const uint64_t hot_row_bytes = layout.plane_bytes() + sizeof(float) +
                                 (spec.metric == QUASH_METRIC_L2 ? sizeof(float) : 0);
  for (const SegmentView& view : snapshot->segments) {
    info.hot_bytes += view.segment->num_blocks() * kBlockRows * hot_row_bytes;
    if (view.segment->is_tail()) {
      const auto& run = static_cast<const RowRun&>(*view.segment);
      info.tail_rows += view.live_rows;
      info.code_bytes += run.rows() * (layout.row_code_bytes() + layout.num_scales() * 4);
      info.rerank_bytes += run.rows() * RerankRowBytes(spec);
      info.resident_bytes += run.memory_bytes();
      continue;
    }
    const auto& segment = static_cast<const StoredSegment&>(*view.segment);
    ++info.segments;
    info.dead_rows += segment.rows() - view.live_rows;
    info.code_bytes += segment.meta().code_bytes;
    info.rerank_bytes += segment.meta().rerank_bytes;
    info.resident_bytes += segment.resident_bytes();
  }
  if (snapshot->partitions != nullptr) {
    info.lists = snapshot->partitions->num_lists();
    info.indexed_rows = snapshot->partitions->num_rows();
    info.list_bytes = snapshot->partitions->stored_bytes();
    info.resident_bytes += snapshot->partitions->memory_bytes();
  }
  *out = info;
  return Status();
}

}  // namespace quash
