// One batch in the making: a changed copy of a collection's state together with
// the WriteBatch that makes it durable. Nothing is visible until both are
// committed. Used under the writer lock.
#pragma once

#include <rocksdb/write_batch.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "libquashdb/stored_collection.h"

namespace quash {

class CollectionDraft {
 public:
  explicit CollectionDraft(const StoredCollection& collection);

  rocksdb::WriteBatch& batch() { return batch_; }
  CollectionState& state() { return state_; }
  const std::vector<SegmentView>& segments() const { return segments_; }

  // Marks a row dead and stages the removal of its record, and of its id unless
  // the same batch writes it anew. Already dead rows are left alone. Rows of one
  // segment are best killed one after the other.
  Status KillRow(Collection::Location location, bool keep_id);
  // Appends rows with ids and values, giving them slots, and stages ids and
  // records.
  //   records  encoded, [run rows] or empty
  Status Append(RowRun* run, const std::vector<std::string>& records, size_t threads);
  // Turns the whole tail into a sealed segment.
  Status SealTail();
  // Replaces sealed segments [begin, end) by fresh ones of their live rows.
  Status Rewrite(size_t begin, size_t end);

  // Stages live bitmaps and state. Call once, last.
  Status Finish();

 private:
  friend class PartitionUpkeep;
  friend class StoredCollection;

  std::vector<uint32_t>& MutableLive(size_t segment);
  size_t num_sealed() const;
  std::vector<RowRef> LiveTailRows() const;
  Status BuildSegments(std::span<const RowRef> rows, size_t threads,
                       std::vector<SegmentView>* built);
  void AppendTail(std::span<const RowRef> rows, bool staged);
  void StageTailRemoval(std::span<const RowRef> rows);

  const StoredCollection& collection_;
  const CollectionSpec& spec_;
  Store& store_;
  rocksdb::WriteBatch batch_;
  CollectionState state_;
  std::vector<SegmentView> segments_;  // sealed, then tail
  std::map<const Segment*, std::shared_ptr<std::vector<uint32_t>>> changed_live_;
  // The segment of the row killed last: where memory is short its parts do not stay.
  struct {
    const Segment* segment = nullptr;
    std::span<const uint64_t> slots;
    bool has_ids = false;  // read when first wanted: rows that are replaced keep theirs
    IdColumn ids;
    Pin pins[2];
  } killed_from_;
  std::shared_ptr<Snapshot> published_;       // made by Finish(), for Publish()
  std::shared_ptr<const Snapshot> replaced_;  // by it: freed with the draft, under no publish lock
};

}  // namespace quash
