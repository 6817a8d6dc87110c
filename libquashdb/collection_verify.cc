// Reads everything a collection has and checks that its parts agree.
#include <bit>
#include <unordered_map>
#include <unordered_set>

#include "libquashdb/collection_draft.h"
#include "libquashdb/key.h"
#include "libquashdb/partition.h"
#include "libquashdb/record.h"
#include "libquashdb/stored_database.h"

namespace quash {
namespace {

Status CollectRows(const Snapshot& snapshot, std::unordered_map<std::string, uint64_t>* slot_of) {
  for (const SegmentView& view : snapshot.segments) {
    IdColumn ids;
    std::span<const uint64_t> slots;
    Pin pins[2];
    QUASH_RETURN_IF_ERROR(view.segment->Ids(&ids, &pins[0]));
    QUASH_RETURN_IF_ERROR(view.segment->Slots(&slots, &pins[1]));
    for (size_t row = 0; row < view.segment->rows(); ++row) {
      if (((*view.live)[row / kBlockRows] >> row % kBlockRows & 1) == 0) continue;
      const Id id = snapshot.spec->id_type == QUASH_ID_INT64 ? Id(ids.ints[row])
                                                             : Id(std::string(ids.string(row)));
      if (!slot_of->emplace(IdKey(snapshot.spec->number, id), slots[row]).second) {
        return Error(QUASH_CORRUPT, "two live rows have one id");
      }
    }
  }
  return Status();
}

}  // namespace

Status StoredCollection::Verify(const Progress& progress, uint64_t* bytes,
                                std::vector<std::string>* problems) const {
  SnapshotRef snapshot;
  QUASH_RETURN_IF_ERROR(GetSnapshot(&snapshot));
  const auto* view = static_cast<const ReadView*>(snapshot->view.get());
  const auto note = [&](const std::string& what) {
    if (problems->size() < 100) {
      problems->push_back(fmt::format("collection \"{}\": {}", name_, what));
    }
  };
  size_t done = 0;
  for (const SegmentView& segment : snapshot->segments) {
    if (progress && progress(done++, snapshot->segments.size())) {
      return Error(QUASH_CANCELLED, "the progress callback cancelled the call");
    }
    if (segment.segment->is_tail()) continue;
    const auto& stored = static_cast<const StoredSegment&>(*segment.segment);
    const Status status = stored.Verify();
    if (!status.ok()) note(status.message());
    *bytes += stored.meta().code_bytes + stored.meta().rerank_bytes;
  }

  {
    const std::lock_guard lock(database_->publish_mutex());
    if (!partition_damage_.empty()) note(partition_damage_);
  }
  if (snapshot->partitions != nullptr) {
    std::vector<std::string> wrong;
    QUASH_RETURN_IF_ERROR(snapshot->partitions->Verify(&wrong));
    for (const std::string& what : wrong) note(what);
    *bytes += snapshot->partitions->stored_bytes();
  }

  std::unordered_map<std::string, uint64_t> slot_of;
  const Status collected = CollectRows(*snapshot, &slot_of);
  if (!collected.ok()) {
    note(collected.message());
    return Status();
  }
  if (slot_of.size() != snapshot->live_rows) {
    note(fmt::format("{} live rows, expected {}", slot_of.size(), snapshot->live_rows));
  }
  const uint32_t number = snapshot->spec->number;
  const std::string begin = CollectionPrefix(number);
  const std::string end = CollectionPrefix(number + 1);
  uint64_t entries = 0;
  uint64_t wrong = 0;
  Status status = view->store().Scan(
      Family::kIds, begin, end, view, [&](std::string_view key, std::string_view value) {
        uint64_t slot = 0;
        const auto row = slot_of.find(std::string(key));
        const bool agrees = TakeBigEndian(&value, &slot) && value.empty() &&
                            row != slot_of.end() && row->second == slot;
        ++entries;
        wrong += agrees ? 0 : 1;
        *bytes += key.size() + sizeof(slot);
        return Status();
      });
  if (!status.ok()) note(status.message());
  if (wrong > 0) note(fmt::format("{} entries of the id index name no live row", wrong));
  if (entries != slot_of.size()) {
    note(fmt::format("the id index has {} entries for {} rows", entries, slot_of.size()));
  }

  std::unordered_set<uint64_t> live_slots;
  for (const auto& [key, slot] : slot_of) live_slots.insert(slot);
  status = view->store().Scan(
      Family::kDocs, begin, end, view, [&](std::string_view key, std::string_view value) {
        uint32_t collection = 0;
        uint64_t slot = 0;
        *bytes += key.size() + value.size();
        if (!TakeBigEndian(&key, &collection) || !TakeBigEndian(&key, &slot) || !key.empty() ||
            !live_slots.contains(slot)) {
          note("a record belongs to no live row");
          return Status();
        }
        quash::Record record;
        const Status decoded = DecodeRecord(value, *snapshot->spec, &record);
        if (!decoded.ok()) note(decoded.message());
        return Status();
      });
  if (!status.ok()) note(status.message());
  return Status();
}

}  // namespace quash
