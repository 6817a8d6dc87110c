// Rows in memory to the parts of a sealed segment.
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <cstring>

#include "libquashdb/key.h"
#include "libquashdb/stored_segment.h"

namespace quash {
namespace {

// Members of CodeArrays inside freshly allocated parts.
struct CodeParts {
  std::shared_ptr<AlignedBuffer> buffers[3];
  CodeArrays arrays;
};

CodeParts AllocateCodes(const CollectionSpec& spec, const CodeLayout& layout, size_t rows) {
  CodeParts parts;
  const size_t blocks = NumBlocks(rows);
  const size_t plane_bytes = blocks * layout.block_bytes();
  const size_t floats = blocks * kBlockRows;
  const size_t float_bytes = AlignUp(floats * sizeof(float));
  const bool has_norm_sq = spec.metric == QUASH_METRIC_L2;
  PartBuilder first(AlignUp(plane_bytes) + float_bytes * (has_norm_sq ? 2 : 1));
  parts.arrays.plane1 = first.Next<uint8_t>(plane_bytes);
  parts.arrays.scale1 = first.Next<float>(floats);
  if (has_norm_sq) parts.arrays.norm_sq = first.Next<float>(floats);
  parts.buffers[0] = first.part();
  if (layout.bits >= 2) {
    PartBuilder second(AlignUp(plane_bytes) + float_bytes);
    parts.arrays.plane2 = second.Next<uint8_t>(plane_bytes);
    parts.arrays.scale2 = second.Next<float>(floats);
    parts.buffers[1] = second.part();
  }
  if (layout.bits >= 3) {
    const size_t rest_bytes = floats * layout.rest_stride();
    PartBuilder rest(AlignUp(rest_bytes) + float_bytes);
    parts.arrays.rest = rest.Next<uint8_t>(rest_bytes);
    parts.arrays.scale_full = rest.Next<float>(floats);
    parts.buffers[2] = rest.part();
  }
  return parts;
}

std::shared_ptr<AlignedBuffer> BuildIds(const CollectionSpec& spec,
                                        std::span<const RowRef> rows) {
  if (spec.id_type == QUASH_ID_INT64) {
    PartBuilder builder(rows.size() * sizeof(int64_t));
    int64_t* ids = builder.Next<int64_t>(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      ids[i] = std::get<int64_t>(rows[i].run->IdOf(rows[i].row));
    }
    return builder.part();
  }
  std::string bytes;
  std::vector<uint32_t> offsets{0};
  for (const RowRef& ref : rows) {
    bytes += std::get<std::string>(ref.run->IdOf(ref.row));
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
  }
  PartBuilder builder(AlignUp(offsets.size() * sizeof(uint32_t)) + bytes.size());
  std::memcpy(builder.Next<uint32_t>(offsets.size()), offsets.data(),
              offsets.size() * sizeof(uint32_t));
  std::memcpy(builder.Next<char>(bytes.size()), bytes.data(), bytes.size());
  return builder.part();
}

std::shared_ptr<AlignedBuffer> BuildSlots(std::span<const RowRef> rows) {
  PartBuilder builder(rows.size() * sizeof(uint64_t));
  uint64_t* slots = builder.Next<uint64_t>(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) slots[i] = rows[i].run->slot(rows[i].row);
  return builder.part();
}

// One block of the rerank tier: rows [32][row bytes], for int8 scales [32].
std::shared_ptr<AlignedBuffer> BuildRerankBlock(const CollectionSpec& spec,
                                                std::span<const RowRef> rows) {
  const size_t row_bytes = RerankRowBytes(spec);
  const bool has_scales = spec.rerank == QUASH_RERANK_INT8;
  const size_t scale_bytes = has_scales ? kBlockRows * sizeof(float) : 0;
  PartBuilder builder(AlignUp(kBlockRows * row_bytes) + scale_bytes);
  uint8_t* tier = builder.Next<uint8_t>(kBlockRows * row_bytes);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(tier + i * row_bytes, rows[i].run->rerank_row(rows[i].row), row_bytes);
  }
  if (has_scales) {
    float* scales = builder.Next<float>(kBlockRows);
    for (size_t i = 0; i < rows.size(); ++i) scales[i] = rows[i].run->rerank_scale(rows[i].row);
  }
  return builder.part();
}

std::shared_ptr<const Column> BuildColumn(const Field& field, size_t index,
                                          std::span<const RowRef> rows) {
  std::vector<Value> values(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::vector<Value>& of_row = rows[i].run->values(rows[i].row);
    if (index < of_row.size()) values[i] = of_row[index];
  }
  return Column::Build(field.type, values);
}

}  // namespace

Status BuildSegment(const CollectionSpec& spec, const CodeLayout& layout, uint64_t number,
                    std::span<const RowRef> rows, SegmentParts* out) {
  CodeParts codes = AllocateCodes(spec, layout, rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    CopyRow(layout, rows[i].run->const_codes(), rows[i].row, codes.arrays, i);
  }
  SegmentParts& parts = *out;
  const uint32_t num_rows = static_cast<uint32_t>(rows.size());
  SegmentMeta& meta = parts.meta;
  meta.number = number;
  meta.rows = num_rows;
  meta.first_slot = rows.front().run->slot(rows.front().row);
  meta.last_slot = rows.back().run->slot(rows.back().row);
  meta.columns = static_cast<uint32_t>(spec.fields.size());

  const auto seal = [&](PartKind kind, uint32_t item, const std::shared_ptr<AlignedBuffer>& part) {
    SealPart({kind, spec.number, number, item}, num_rows, spec.dim, spec.bits, spec.rerank,
             part.get());
    return part;
  };
  for (size_t i = 0; i < 3; ++i) {
    if (codes.buffers[i] == nullptr) continue;
    parts.codes[i] = seal(static_cast<PartKind>(i + 1), 0, codes.buffers[i]);
    meta.code_bytes += parts.codes[i]->size();
  }
  parts.codes[3] = seal(PartKind::kIds, 0, BuildIds(spec, rows));
  parts.codes[4] = seal(PartKind::kSlots, 0, BuildSlots(rows));
  if (spec.rerank != QUASH_RERANK_NONE) {
    for (size_t begin = 0; begin < rows.size(); begin += kBlockRows) {
      const auto block = rows.subspan(begin, std::min(kBlockRows, rows.size() - begin));
      parts.rerank.push_back(seal(PartKind::kRerank, static_cast<uint32_t>(begin / kBlockRows),
                                  BuildRerankBlock(spec, block)));
      meta.rerank_bytes += parts.rerank.back()->size();
    }
  }
  for (size_t f = 0; f < spec.fields.size(); ++f) {
    parts.columns.push_back(BuildColumn(spec.fields[f], f, rows));
    if (parts.columns.back() == nullptr) {
      return Error(QUASH_LIMIT, "values of field \"{}\" are too large: write smaller batches",
                   spec.fields[f].name);
    }
  }
  return Status();
}

void StageSegment(const Store& store, const CollectionSpec& spec, const SegmentParts& parts,
                  rocksdb::WriteBatch* batch) {
  const uint64_t number = parts.meta.number;
  for (uint32_t i = 0; i < 5; ++i) {
    if (parts.codes[i] == nullptr) continue;
    store.Put(batch, Family::kCodes, SegmentKey(spec.number, number, i + 1),
              parts.codes[i]->view());
  }
  for (uint32_t i = 0; i < parts.rerank.size(); ++i) {
    store.Put(batch, Family::kRerank, SegmentKey(spec.number, number, i),
              parts.rerank[i]->view());
  }
  for (uint32_t f = 0; f < parts.columns.size(); ++f) {
    store.Put(batch, Family::kMetaIndex, SegmentKey(spec.number, number, f),
              parts.columns[f]->Serialize());
  }
  store.Put(batch, Family::kCatalog, SegmentMetaKey(spec.number, number),
            EncodeSegmentMeta(parts.meta));
}

void StageSegmentRemoval(const Store& store, const CollectionSpec& spec, const SegmentMeta& meta,
                         rocksdb::WriteBatch* batch) {
  for (uint32_t i = 1; i <= 5; ++i) {
    store.Delete(batch, Family::kCodes, SegmentKey(spec.number, meta.number, i));
  }
  if (spec.rerank != QUASH_RERANK_NONE) {
    for (uint32_t i = 0; i < NumBlocks(meta.rows); ++i) {
      store.Delete(batch, Family::kRerank, SegmentKey(spec.number, meta.number, i));
    }
  }
  for (uint32_t f = 0; f < meta.columns; ++f) {
    store.Delete(batch, Family::kMetaIndex, SegmentKey(spec.number, meta.number, f));
  }
  store.Delete(batch, Family::kDeletes, SegmentKey(spec.number, meta.number));
  store.Delete(batch, Family::kCatalog, SegmentMetaKey(spec.number, meta.number));
}

}  // namespace quash
