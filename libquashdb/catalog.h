// Stored form of collections, their state and segments (catalog.fbs).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/codebook.h"
#include "libquashdb/schema.h"
#include "libquashdb/status.h"

namespace quash {

// What is stored of a collection beside its rows.
struct CatalogEntry {
  CollectionSpec spec;
  LevelCodebook codebook;
  uint32_t segment_rows = 0;
  SearchWidths widths;
};

struct CollectionState {
  uint64_t generation = 0;
  uint64_t live_rows = 0;
  uint64_t next_slot = 0;
  int64_t next_int_id = 0;
  uint64_t next_segment = 0;
  uint64_t segments = 0;
  uint64_t tail_rows = 0;
};

struct SegmentMeta {
  uint64_t number = 0;
  uint32_t rows = 0;
  uint64_t first_slot = 0;
  uint64_t last_slot = 0;
  uint32_t columns = 0;
  uint64_t code_bytes = 0;
  uint64_t rerank_bytes = 0;
};

// What the catalog says of a partition index.
struct PartitionHead {
  struct List {
    uint64_t value = 0;
    uint32_t rows = 0;
  };
  uint64_t indexed_slots = 0;
  uint64_t next_value = 1;
  std::vector<List> lists;
  std::vector<uint64_t> centroids;
  uint64_t measured_rows = 0;
  uint64_t measured_slots = 0;
};
inline constexpr size_t kCentroidsPerValue = 256;

std::string EncodeCatalogEntry(const CatalogEntry& entry);
std::string EncodeState(const CollectionState& state);
std::string EncodeSegmentMeta(const SegmentMeta& meta);
std::string EncodePartitionHead(const PartitionHead& head);

// QUASH_CORRUPT on anything that Encode... cannot have written.
Status DecodeCatalogEntry(std::string_view bytes, CatalogEntry* out);
Status DecodeState(std::string_view bytes, CollectionState* out);
Status DecodeSegmentMeta(std::string_view bytes, SegmentMeta* out);
Status DecodePartitionHead(std::string_view bytes, PartitionHead* out);

// Rows of a full segment: the largest power of two from 256 to 4,096 whose
// first plane fits in 256 KiB.
uint32_t SegmentRows(uint32_t dim);

}  // namespace quash
