// Runs of rows as readers see them. A Segment is immutable: a sealed one reads
// its parts from RocksDB through the cache, a tail one has them in memory; the
// search treats both alike. Slots are row numbers given once and for ever,
// ascending within and across segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/layout.h"
#include "libquashdb/column.h"
#include "libquashdb/schema.h"
#include "libquashdb/status.h"

namespace quash {

// Bytes that stay valid while held; 64-byte aligned.
using Pin = std::shared_ptr<const void>;

enum class SegmentPart : uint8_t {
  kPlane1 = 1,  // plane1, scale1, norm_sq (L2)
  kPlane2 = 2,  // plane2, scale2 (bits >= 2)
  kRest = 3,    // rest, scale_full (bits >= 3)
  kIds = 4,
  kSlots = 5,
};

// External ids of a segment's rows.
struct IdColumn {
  std::span<const int64_t> ints;      // [rows], id type int64
  std::span<const uint32_t> offsets;  // [rows + 1] into bytes, id type string
  std::string_view bytes;

  std::string_view string(size_t row) const {
    return bytes.substr(offsets[row], offsets[row + 1] - offsets[row]);
  }
};

class Segment {
 public:
  virtual ~Segment() = default;

  size_t rows() const { return rows_; }
  size_t num_blocks() const { return NumBlocks(rows_); }
  uint64_t first_slot() const { return first_slot_; }
  uint64_t last_slot() const { return last_slot_; }
  bool is_tail() const { return is_tail_; }

  // Fills the members of `arrays` that belong to `part` (kPlane1..kRest) and
  // gives a pin that keeps them valid. From memory if resident, else read.
  virtual Status Codes(SegmentPart part, ConstCodeArrays* arrays, Pin* pin) const = 0;

  // Row of the rerank tier: f32, f16 (u16) or int8 [dim]; *scale is the int8
  // scale, else 1. `pins` collects what keeps it valid until cleared.
  virtual Status RerankRow(size_t row, const void** data, float* scale,
                           std::vector<Pin>* pins) const = 0;
  // Fetches into the CPU's caches what RerankRow() will read first to find the row, and
  // what it reads after that, once the first is there.
  virtual void FetchPlaceOfRow(size_t) const {}
  virtual void FetchOwnerOfRow(size_t) const {}
  // The whole tier of up to 32 rows from row 32 * block on, contiguous, with
  // scales [32] (null unless int8).
  virtual Status RerankBlock(size_t block, const void** data, const float** scales,
                             Pin* pin) const = 0;

  virtual Status Ids(IdColumn* ids, Pin* pin) const = 0;
  // Fetches into the CPU's caches what Ids() will read.
  virtual void FetchIds() const {}
  virtual Status Slots(std::span<const uint64_t>* slots, Pin* pin) const = 0;
  // The row with a slot of [first_slot, last_slot]; *found false if there is none.
  virtual Status FindSlot(uint64_t slot, uint32_t* row, bool* found) const;
  // Fetches into the CPU's caches what FindSlot() will read.
  virtual void FetchPlaceOfSlot(uint64_t) const {}

  // Metadata column of spec.fields[field]; nulls if the field is younger.
  virtual Status MetadataColumn(size_t field, std::shared_ptr<const Column>* column) const = 0;

 protected:
  size_t rows_ = 0;
  uint64_t first_slot_ = 0;
  uint64_t last_slot_ = 0;
  bool is_tail_ = false;
};

// One segment in one snapshot. live: bit r of word r / 32 is set for rows that
// exist and are not deleted, [num_blocks].
struct SegmentView {
  std::shared_ptr<const Segment> segment;
  std::shared_ptr<const std::vector<uint32_t>> live;
  size_t live_rows = 0;
};

}  // namespace quash
