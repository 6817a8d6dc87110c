// Sealed segments: immutable runs of up to a few thousand rows whose parts are
// values of RocksDB, kept resident within the memory budget.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "libquashdb/catalog.h"
#include "libquashdb/part.h"
#include "libquashdb/part_cache.h"
#include "libquashdb/row_run.h"
#include "libquashdb/slot_map.h"
#include "libquashdb/segment.h"
#include "libquashdb/store.h"
#include "libquashdb/tier_block.h"

namespace rocksdb {
class WriteBatch;
}

namespace quash {

// What the segments of one collection share. Thread-safe.
struct SegmentContext {
  std::shared_ptr<Store> store;
  std::shared_ptr<PartCache> cache;
  CodeLayout layout;
  // The latest spec: fields that a segment does not know yet have their type here.
  std::atomic<std::shared_ptr<const CollectionSpec>> spec;
};
using SegmentContextRef = std::shared_ptr<const SegmentContext>;

// A segment's parts before they are written.
struct SegmentParts {
  SegmentMeta meta;
  BufferRef codes[5];  // by SegmentPart - 1; null where `bits` has none
  std::vector<BufferRef> rerank;  // per block, empty without a tier
  std::vector<std::shared_ptr<const Column>> columns;
};

// A row of a run, as a source to build from.
struct RowRef {
  const RowRun* run;
  uint32_t row;
};

// Lays out the parts of segment `number`: rows ascending by slot, at most 4096.
Status BuildSegment(const CollectionSpec& spec, const CodeLayout& layout, uint64_t number,
                    std::span<const RowRef> rows, SegmentParts* out);

// Stages all parts and the catalog entry.
void StageSegment(const Store& store, const CollectionSpec& spec, const SegmentParts& parts,
                  rocksdb::WriteBatch* batch);
// Stages the removal of all that StageSegment() wrote, and of the live bitmap.
void StageSegmentRemoval(const Store& store, const CollectionSpec& spec, const SegmentMeta& meta,
                         rocksdb::WriteBatch* batch);

class StoredSegment final : public Segment {
 public:
  StoredSegment(SegmentContextRef context, const SegmentMeta& meta);
  ~StoredSegment() override;

  const SegmentMeta& meta() const { return meta_; }

  // Makes freshly built parts resident as far as the budget allows.
  void Warm(const SegmentParts& parts);
  // Before its keys are removed: reads go to `view` from then on.
  void Retire(std::shared_ptr<const ReadView> view) const {
    retired_.store(std::move(view), std::memory_order_release);
  }

  Status Codes(SegmentPart part, ConstCodeArrays* arrays, Pin* pin) const override;
  Status RerankRow(size_t row, const void** data, float* scale,
                   std::vector<Pin>* pins) const override;
  void FetchPlaceOfRow(size_t row) const override {
    __builtin_prefetch(&blocks_[row / kBlockRows]);
  }
  void FetchOwnerOfRow(size_t row) const override { blocks_[row / kBlockRows].Fetch(); }
  Status RerankBlock(size_t block, const void** data, const float** scales,
                     Pin* pin) const override;
  Status Ids(IdColumn* ids, Pin* pin) const override;
  void FetchIds() const override { parts_[static_cast<size_t>(SegmentPart::kIds) - 1].Fetch(); }
  Status Slots(std::span<const uint64_t>* slots, Pin* pin) const override;
  Status FindSlot(uint64_t slot, uint32_t* row, bool* found) const override;
  void FetchPlaceOfSlot(uint64_t slot) const override {
    const SlotMap* map = slot_map_.load(std::memory_order_acquire);
    if (map != nullptr) map->Fetch(slot);
  }
  Status MetadataColumn(size_t field, std::shared_ptr<const Column>* column) const override;

  // Reads and checks every part, past the cache. `verify` names the first
  // problem in its status.
  Status Verify() const;

  uint64_t resident_bytes() const;

 private:
  Status Load(Family family, uint32_t item, rocksdb::PinnableSlice* value) const;
  Status ReadPart(SegmentPart part, BufferRef* out) const;
  Status ReadBlock(size_t block, BufferRef* out) const;
  Status ReadColumn(size_t field, std::shared_ptr<const Column>* out) const;
  Status CachedPart(SegmentPart part, BufferRef* out) const;
  Status CachedBlock(size_t block, BufferRef* out) const;
  Status ReadRow(size_t row, const std::shared_ptr<const TierBlock>& before,
                 std::shared_ptr<const TierBlock>* out) const;
  size_t TierBytes() const;
  Status CheckPart(SegmentPart part, const AlignedBuffer& buffer) const;

  SegmentContextRef context_;
  SegmentMeta meta_;
  uint32_t collection_;
  uint32_t dim_;
  quash_rerank rerank_;
  TierBlock::Shape tier_;
  quash_id_type id_type_;
  bool has_norm_sq_;
  mutable PartCache::Slot parts_[5];
  mutable std::atomic<const SlotMap*> slot_map_{nullptr};  // made when first asked for; owned
  mutable std::vector<PartCache::Slot> blocks_;   // rerank tier: TierBlock
  mutable std::vector<PartCache::Slot> columns_;  // [meta_.columns]
  mutable std::atomic<std::shared_ptr<const ReadView>> retired_;
};

}  // namespace quash
