// Rows held in memory, as a Segment: a batch just encoded, the unsealed tail,
// and the source that sealed segments are built from.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/encode.h"
#include "libquashdb/part.h"
#include "libquashdb/schema.h"
#include "libquashdb/segment.h"

namespace quash {

// Bytes of one row of the rerank tier, without the int8 scale.
size_t RerankRowBytes(const CollectionSpec& spec);

// Filled by one thread (distinct 32-row blocks by several), then shared as a
// constant.
class RowRun final : public Segment {
 public:
  // `spec` is that of the rows' metadata.
  RowRun(std::shared_ptr<const CollectionSpec> spec, const CodeLayout& layout, size_t capacity);

  size_t capacity() const { return capacity_; }

  // Encodes vectors into rows first.. : codes and rerank tier, normalising
  // first for cosine.
  //   vectors  [n, dim]
  void Encode(const Quantizer& quantizer, const float* vectors, size_t first, size_t n);
  // The rows become visible once their ids and slots are there.
  void SetRows(size_t n) { rows_ = n; }
  void AppendId(const Id& id);
  void AppendSlot(uint64_t slot);
  void AppendValues(std::vector<Value> values) { values_.push_back(std::move(values)); }

  // Appends a row of another run of the same collection, with all it has.
  void AppendRow(const RowRun& from, size_t row);
  // Appends the rows of any segment whose bit is set.
  Status AppendSegment(const Segment& from, const std::vector<uint32_t>& rows);

  // One tail row as stored, and back. The values come from the docs family.
  std::shared_ptr<AlignedBuffer> StoreTailRow(size_t row) const;
  Status AppendTailRow(std::string_view stored, uint64_t slot);

  Id IdOf(size_t row) const;
  uint64_t slot(size_t row) const { return slots_[row]; }
  const std::vector<Value>& values(size_t row) const { return values_[row]; }
  const CollectionSpec& spec() const { return *spec_; }
  const CodeLayout& layout() const { return layout_; }
  ConstCodeArrays const_codes() const;
  const uint8_t* rerank_row(size_t row) const { return rerank_->data() + row * rerank_row_bytes_; }
  float rerank_scale(size_t row) const { return rerank_scales_[row]; }

  Status Codes(SegmentPart part, ConstCodeArrays* arrays, Pin* pin) const override;
  Status RerankRow(size_t row, const void** data, float* scale,
                   std::vector<Pin>* pins) const override;
  Status RerankBlock(size_t block, const void** data, const float** scales,
                     Pin* pin) const override;
  Status Ids(IdColumn* ids, Pin* pin) const override;
  Status Slots(std::span<const uint64_t>* slots, Pin* pin) const override;
  Status MetadataColumn(size_t field, std::shared_ptr<const Column>* column) const override;

  // Bytes of codes and rerank tier.
  size_t memory_bytes() const;

 private:
  size_t next_row() const { return slots_.size(); }

  std::shared_ptr<const CollectionSpec> spec_;
  CodeLayout layout_;
  size_t capacity_;
  size_t rerank_row_bytes_;
  std::unique_ptr<AlignedBuffer> code_memory_;
  CodeArrays codes_;
  std::unique_ptr<AlignedBuffer> rerank_;
  std::vector<float> rerank_scales_;  // [capacity rounded up to 32], 1 unless int8
  std::vector<int64_t> int_ids_;
  std::vector<uint32_t> id_offsets_{0};
  std::string id_bytes_;
  std::vector<uint64_t> slots_;
  std::vector<std::vector<Value>> values_;  // [rows], each possibly short

  mutable std::mutex columns_mutex_;
  mutable std::vector<std::shared_ptr<const Column>> columns_;  // built on first use
};

// The value of one row of a column.
Value ColumnValue(const Column& column, size_t row);

}  // namespace quash
