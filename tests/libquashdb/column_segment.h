// A segment of ids and metadata columns only: all that filters read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "libquashdb/column.h"
#include "libquashdb/filter.h"
#include "libquashdb/segment.h"

namespace quash {

class ColumnSegment : public Segment {
 public:
  //   rows  [n][spec.fields.size()], possibly shorter
  //   ids   [n] of the collection's type
  ColumnSegment(const CollectionSpec& spec, const std::vector<std::vector<Value>>& rows,
                const std::vector<Id>& ids) {
    rows_ = rows.size();
    last_slot_ = rows_ > 0 ? rows_ - 1 : 0;
    for (size_t f = 0; f < spec.fields.size(); ++f) {
      std::vector<Value> values;
      for (const auto& row : rows) values.push_back(f < row.size() ? row[f] : Value());
      columns_.push_back(Column::Build(spec.fields[f].type, values));
    }
    id_offsets_.push_back(0);
    for (const Id& id : ids) {
      if (const auto* number = std::get_if<int64_t>(&id)) {
        int_ids_.push_back(*number);
      } else {
        id_bytes_ += std::get<std::string>(id);
        id_offsets_.push_back(static_cast<uint32_t>(id_bytes_.size()));
      }
    }
    if (spec.id_type == QUASH_ID_INT64) id_offsets_.clear();
  }

  // Puts another column in the place of one.
  void Replace(size_t field, std::shared_ptr<const Column> column) {
    columns_[field] = std::move(column);
  }
  // Makes reading a column fail, as a damaged disk would.
  void FailColumn(size_t field) { failing_ = field; }
  size_t columns_read() const { return columns_read_; }

  Status Codes(SegmentPart, ConstCodeArrays*, Pin*) const override { return None(); }
  Status RerankRow(size_t, const void**, float*, std::vector<Pin>*) const override {
    return None();
  }
  Status RerankBlock(size_t, const void**, const float**, Pin*) const override { return None(); }
  Status Slots(std::span<const uint64_t>*, Pin*) const override { return None(); }
  Status Ids(IdColumn* ids, Pin*) const override {
    *ids = {int_ids_, id_offsets_, id_bytes_};
    return Status();
  }
  Status MetadataColumn(size_t field, std::shared_ptr<const Column>* column) const override {
    ++columns_read_;
    if (field == failing_) return Error(QUASH_IO, "read refused");
    *column = columns_[field];
    return Status();
  }

 private:
  static Status None() { return Error(QUASH_INTERNAL, "a filter read more than columns"); }

  std::vector<std::shared_ptr<const Column>> columns_;
  std::vector<int64_t> int_ids_;
  std::vector<uint32_t> id_offsets_;
  std::string id_bytes_;
  size_t failing_ = SIZE_MAX;
  mutable size_t columns_read_ = 0;
};

// A bitmap of all rows.
inline std::vector<uint32_t> AllRows(const Segment& segment) {
  std::vector<uint32_t> rows(segment.num_blocks(), ~0u);
  if (segment.rows() % 32 != 0) rows.back() = (1u << segment.rows() % 32) - 1;
  return rows;
}

}  // namespace quash
