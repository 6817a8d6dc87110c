// Growing and mending the partition index of one collection, in steps that each
// commit a batch of bounded size: train, put new rows into lists, split and
// dissolve lists (SPFresh, SOSP 2023, with reassignment around a split), rewrite
// lists of many dead rows, measure recall. What takes long runs on a snapshot,
// outside the writer lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "libquashdb/partition.h"
#include "libquashdb/partition_train.h"
#include "libquashdb/stored_collection.h"

namespace quash {

class PartitionUpkeep {
 public:
  // One at a time for a collection: the caller holds its upkeep mutex.
  //   finish  all that can be done, not only what searches would feel
  PartitionUpkeep(StoredCollection* collection, SegmentContextRef context, size_t threads,
                  bool finish, StopRequested stop)
      : collection_(*collection),
        threads_(threads),
        finish_(finish),
        stop_(std::move(stop)),
        context_(std::move(context)) {}

  // Takes the next step. *idle: there was none to take.
  Status Step(bool* idle);
  // Removes an index with damaged values, to be made anew from the segments.
  Status DropIfDamaged();

 private:
  // What becomes of the lists: each is kept, or has rows added, or is made anew.
  struct Change {
    std::shared_ptr<const Centroids> centroids;
    PartitionIndex::Lists lists;               // to keep or to add to; null: none
    std::vector<std::vector<ListRow>> rows;    // added, by list
    std::vector<Pin> pins;                     // of what `rows` refer to
    uint64_t indexed_slots = 0;
    uint64_t measured_rows = 0;
    uint64_t measured_slots = 0;
  };
  struct Member {
    uint64_t row;  // RowIndex in snapshot_
    ListRow source;
  };

  Change Unchanged() const;
  // Commits a change, in several batches where every batch alone is right.
  Status Apply(Change change, bool in_batches);
  Status CommitIndex(const std::shared_ptr<const PartitionIndex>& base,
                     std::shared_ptr<const PartitionIndex> next,
                     const std::vector<std::pair<uint64_t, BufferRef>>& values);
  // Live rows of a list that the lists stand for.
  Status Members(uint32_t list, std::vector<Member>* members, std::vector<Pin>* pins) const;

  Status Train();
  Status IndexRows();
  Status Restructure(std::span<const uint32_t> split, std::span<const uint32_t> dissolved);
  Status Sweep(bool* idle);
  Status MeasureCurve(bool* idle);

  // In sealed segments and, if that is worth it, in the tail: then with_tail_ is set.
  uint64_t UnindexedRows();
  uint64_t IndexedLiveRows() const;

  StoredCollection& collection_;
  const size_t threads_;
  const bool finish_;
  const StopRequested stop_;
  SegmentContextRef context_;
  SnapshotRef snapshot_;
  const PartitionIndex* index_ = nullptr;  // of snapshot_
  bool with_tail_ = false;                 // IndexRows() takes the tail's rows too
  std::shared_ptr<const PartitionIndex> applied_;
};

}  // namespace quash
