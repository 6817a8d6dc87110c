// A collection of an open database: the working state that the writer changes
// under the database's writer lock, and the snapshots that readers take.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "libquashdb/catalog.h"
#include "libquashdb/database.h"
#include "libquashdb/row_run.h"
#include "libquashdb/stored_segment.h"

namespace quash {

class CollectionDraft;
class PartitionIndex;
class PartitionUpkeep;
class StoredDatabase;

class StoredCollection final : public Collection {
 public:
  // Reads the state of collection `number` and checks that its parts are there.
  static Status Load(StoredDatabase* database, std::shared_ptr<Store> store,
                     const CatalogEntry& entry, std::shared_ptr<StoredCollection>* out);
  // One that has no rows and is about to be stored.
  static Status Create(StoredDatabase* database, std::shared_ptr<Store> store,
                       const CatalogEntry& entry, std::shared_ptr<StoredCollection>* out);

  Status GetSnapshot(SnapshotRef* out) const override;
  Status Write(const WriteBatch& batch, WriteMode mode, const Progress& progress,
               std::vector<Id>* assigned) override;
  Status Delete(std::span<const Id> ids, uint64_t* deleted) override;
  Status DeleteWhere(std::string_view filter, const Progress& progress,
                     uint64_t* deleted) override;
  Status AddField(const Field& field) override;
  Status SetWidths(const SearchWidths& widths) override;
  Status Find(const Snapshot& snapshot, std::span<const Id> ids,
              std::vector<Location>* out) const override;
  Status ReadRecords(const Snapshot& snapshot, std::span<const Location> rows,
                     std::vector<Record>* out) const override;
  Status Stats(quash_collection_info* out) const override;
  Status AttachGpu(std::shared_ptr<GpuGroup> gpu) override;

  // Rewrites segments with dead rows, merges small ones and seals the tail.
  Status Compact(const Progress& progress);
  // Takes one step of bounded size in building or mending the partition index.
  // Safe beside other calls.
  //   finish  all that can be done, not only what searches would feel
  //   idle    out: there was nothing to do
  Status KeepPartitions(size_t threads, bool finish, const std::function<bool()>& stop,
                        bool* idle);
  Status DropDamagedPartitions();
  // Rewrites the segments with more dead rows than a database at rest should have, one
  // at a time; writes come in between. Seals a tail of half a segment.
  Status RewriteWhenQuiet(const std::function<bool()>& stop);
  // Keeps how recall grows with probed lists.
  Status SetRecallCurve(std::vector<RecallPoint> curve);
  // Large enough to be partitioned. Under either database lock.
  bool WantsPartitions() const {
    return partitions_ != nullptr || state_.live_rows >= spec_->partition_rows;
  }
  // Reads everything and compares; appends to `problems`.
  Status Verify(const Progress& progress, uint64_t* bytes,
                std::vector<std::string>* problems) const;
  // After a drop or a close: later calls fail and nothing of the store is held.
  // Under the publish lock, as Adopt().
  void Detach();

  // Takes over the freshly loaded state of the same collection.
  void Adopt(StoredCollection* fresh);
  // Before a drop: held snapshots go on reading the state before it.
  void RetireSegments() const;

  const std::string& name() const { return name_; }
  uint32_t number() const { return number_; }
  const CollectionState& state() const { return state_; }

  // Takes a committed draft as the new state. Under both database locks. Allocates
  // nothing.
  void Publish(CollectionDraft* draft);
  // Forgets the snapshot handed out last. Under the publish lock.
  void ForgetHandedOut() { handed_out_.reset(); }

 private:
  friend class CollectionDraft;
  friend class PartitionUpkeep;
  StoredCollection(StoredDatabase* database, const CollectionSpec& spec)
      : database_(database), name_(spec.name), number_(spec.number) {}

  Status LoadRows();
  Status LoadTail();
  Status LoadPartitions();
  PartitionUpkeep Upkeep(size_t threads, bool finish, const std::function<bool()>& stop);
  Status CheckWritable() const;  // under the writer lock
  // The records of rows whose values are not at hand.
  Status ReadValues(RowRun* run) const;
  std::shared_ptr<Snapshot> NewSnapshot(const std::vector<SegmentView>& segments) const;
  Status CommitCatalogEntry(const CatalogEntry& entry);
  // Rewrites segments of which more than a fifth is dead.
  void RewriteDead();
  void CallUpkeep(uint64_t killed);  // rows that the batch killed
  Status RewriteAround(size_t* segment);
  Status RewriteSegments(size_t begin, size_t end);
  Status CompactSegments(const Progress& progress);
  Status SealTail();
  Status FindSlots(std::span<const Id> ids, const ReadView* view,
                   std::vector<uint64_t>* slots) const;
  // Kills the rows with these slots, which may be kNoSlot. Under the writer lock.
  Status KillSlots(std::vector<uint64_t> slots, bool keep_ids, CollectionDraft* draft) const;

  StoredDatabase* database_;
  const std::string name_;
  const uint32_t number_;

  // Written under the writer and publish locks, read under either.
  CatalogEntry entry_;
  CollectionState state_;
  std::shared_ptr<const CollectionSpec> spec_;
  std::shared_ptr<const Quantizer> quantizer_;
  std::shared_ptr<SegmentContext> context_;
  std::shared_ptr<const PartitionIndex> partitions_;  // null: none yet
  std::string partition_damage_;  // why a stored index could not be read; empty: it could
  std::shared_ptr<const Snapshot> published_;  // its view is null
  mutable SnapshotRef handed_out_;             // with the view of the last commit
  std::shared_ptr<GpuGroup> gpu_;              // under the publish lock
  bool detached_ = false;
  uint64_t dead_until_upkeep_ = 0;  // under the writer lock: killed since it was last called

  std::mutex upkeep_mutex_;           // taken before any other; for:
  std::set<uint64_t> unsplittable_;   // values of lists whose rows are all alike
  uint64_t restructured_ = 0;         // lists split or dissolved since rows were last added
};

inline constexpr uint64_t kNoSlot = UINT64_MAX;

// Where the live row with `slot` is; segment == kMissing if nowhere.
Status LocateSlot(const Snapshot& snapshot, uint64_t slot,
                  Collection::Location* location);

}  // namespace quash
