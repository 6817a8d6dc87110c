// What one reader sees of a collection: published whole after each committed
// batch, never changed afterwards.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/encode.h"
#include "libquashdb/schema.h"
#include "libquashdb/segment.h"

namespace quash {

class GpuGroup;
class PartitionIndex;

struct Snapshot {
  std::shared_ptr<const CollectionSpec> spec;
  std::shared_ptr<const Quantizer> quantizer;
  SearchWidths widths;
  uint64_t generation = 0;
  uint64_t live_rows = 0;
  std::vector<SegmentView> segments;  // ascending slots: sealed, then tail
  std::vector<uint64_t> first_slots;  // of segments; empty in tests
  Pin view;                           // storage state of ids and records; null in tests
  std::shared_ptr<GpuGroup> gpu;      // null: searched on the CPU
  std::shared_ptr<const PartitionIndex> partitions;  // null: none yet
};
using SnapshotRef = std::shared_ptr<const Snapshot>;

}  // namespace quash
