// The partition index of a collection: rows grouped in lists around centroids, so
// that a search reads the lists near its query instead of every row. A list keeps
// the first plane, the whole codes and the slots of its rows; what else a search needs
// is in the segments, which know nothing of lists. Derived from them, hence dead
// rows may stay in lists: whoever reads one looks up the slot.
#pragma once

#include <rocksdb/write_batch.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "libquashdb/catalog.h"
#include "libquashdb/part.h"
#include "libquashdb/part_cache.h"
#include "libquashdb/partition_centroids.h"
#include "libquashdb/stored_segment.h"

namespace quash {

// Rows of a list, valid while their pin is held. Blocks as in segments.
struct ListRows {
  size_t rows = 0;
  ConstCodeArrays codes;  // plane1, scale1, norm_sq (L2)
  std::span<const uint64_t> slots;
  // From 2 bits on: whole row codes one after the other, and their scales.
  const uint8_t* row_codes = nullptr;
  const float* scale_full = nullptr;

  struct ListRow Row(const CodeLayout& layout, uint32_t i) const;
};

// One stored value. Immutable; the list of a centroid is replaced, not changed.
class PartitionList {
 public:
  //   number  of the value, never used again in the collection
  PartitionList(SegmentContextRef context, uint64_t number, uint32_t rows);
  ~PartitionList();
  PartitionList(const PartitionList&) = delete;

  uint64_t number() const { return number_; }
  uint32_t rows() const { return rows_; }
  uint64_t stored_bytes() const;
  uint64_t resident_bytes() const;

  // Fetch into the CPU's caches what Read() will look at first, and what it leads to,
  // once the first is there.
  void FetchPlace() const {
    __builtin_prefetch(&slot_);
    __builtin_prefetch(&first_byte_);
  }
  void FetchRows() const;
  // From memory if resident, else read and kept as the budget allows.
  Status Read(ListRows* rows, Pin* pin) const;
  // Reads the stored value, whatever is resident.
  Status Verify() const;
  // Makes a value just built resident.
  void Warm(BufferRef value) const;
  // Before its key is removed: reads go to `view` from then on.
  void Retire(std::shared_ptr<const ReadView> view) const {
    retired_.store(std::move(view), std::memory_order_release);
  }

 private:
  Status Load(BufferRef* out) const;

  SegmentContextRef context_;
  uint64_t number_;
  uint32_t rows_;
  uint32_t collection_;
  bool has_norm_sq_;
  mutable PartCache::Slot slot_;
  mutable std::atomic<const uint8_t*> first_byte_{nullptr};  // of what is, or was, resident
  mutable std::atomic<std::shared_ptr<const ReadView>> retired_;
};

// A row on its way into a list.
struct ListRow {
  ConstCodeArrays codes;  // of where it comes from: all of a segment, or what a list has
  uint32_t row;           // there
  uint64_t slot;
  // If it comes from a list; else they are in `codes`.
  const uint8_t* row_code = nullptr;
  float scale_full = 0;
};

// The value of list `number`: rows ascending by slot, at least one.
BufferRef BuildList(const CollectionSpec& spec, const CodeLayout& layout, uint64_t number,
                    std::span<const ListRow> rows);

class PartitionIndex {
 public:
  using Lists = std::vector<std::shared_ptr<const PartitionList>>;  // null: no rows

  PartitionIndex(PartitionHead head, std::shared_ptr<const Centroids> centroids, Lists lists);
  // Reads centroids and makes the lists that the catalog names.
  static Status Load(const SegmentContextRef& context, const CollectionSpec& spec,
                     const Quantizer& quantizer, std::string_view head_bytes,
                     std::shared_ptr<const PartitionIndex>* out);

  size_t num_lists() const { return lists_.size(); }
  uint64_t num_rows() const { return num_rows_; }  // dead ones included
  // Live rows with smaller slots are in the lists.
  uint64_t indexed_slots() const { return head_.indexed_slots; }
  const PartitionHead& head() const { return head_; }
  const Centroids& centroids() const { return *centroids_; }
  const std::shared_ptr<const Centroids>& shared_centroids() const { return centroids_; }
  const Lists& lists() const { return lists_; }
  uint64_t stored_bytes() const;
  uint64_t memory_bytes() const;  // resident

  // Reads every value; appends what is wrong to `problems`.
  Status Verify(std::vector<std::string>* problems) const;
  // Before a drop.
  void Retire(const std::shared_ptr<const ReadView>& view) const;

 private:
  PartitionHead head_;
  std::shared_ptr<const Centroids> centroids_;
  Lists lists_;
  uint64_t num_rows_ = 0;
};

// The value of centroids [first, first + n).
BufferRef BuildCentroids(const CollectionSpec& spec, uint64_t number, const Centroids& centroids,
                         size_t first, size_t n);

}  // namespace quash
