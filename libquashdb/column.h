// One metadata field of one segment, in columnar form: what filters read.
// Immutable once built. Serialized as FORMAT.md's "column" table.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "libquashdb/schema.h"
#include "libquashdb/status.h"

namespace quash {

class Column {
 public:
  // Builds from one value per row; null and absent are the same, and so is a
  // value of another type. Null pointer if the distinct strings together pass
  // 4 GiB or the list elements 2^32.
  static std::shared_ptr<const Column> Build(quash_field_type type, std::span<const Value> values);
  // A column of nulls, for rows older than the field.
  static std::shared_ptr<const Column> Nulls(quash_field_type type, size_t rows);
  // Checks every offset and code; QUASH_CORRUPT on damage.
  static Status Parse(std::string_view bytes, std::shared_ptr<const Column>* out);
  std::string Serialize() const;

  quash_field_type type() const { return type_; }
  size_t rows() const { return rows_; }
  bool is_null(size_t row) const { return (valid_[row / 32] >> (row % 32) & 1) == 0; }
  size_t memory_bytes() const;

  // Bit r of word r / 32 set: row r is not null. [ceil(rows / 32)]
  std::span<const uint32_t> valid() const { return valid_; }

  // bool (0, 1) and int64 fields: [rows], 0 where null.
  std::span<const int64_t> ints() const { return ints_; }
  // float fields: [rows], 0 where null.
  std::span<const double> floats() const { return floats_; }

  // String fields and both lists: the distinct values of the segment, sorted,
  // and the index of each row's (string: codes()[row]; lists:
  // codes()[offsets()[row] .. offsets()[row + 1]) in list order).
  size_t dictionary_size() const;
  std::string_view dictionary_string(size_t code) const;              // string types
  std::span<const int64_t> dictionary_ints() const { return ints_; }  // int lists
  std::span<const uint32_t> codes() const { return codes_; }
  std::span<const uint32_t> offsets() const { return offsets_; }

 private:
  // The invariants that the public accessors rely on; bool values still in bits.
  Status CheckContent(const std::vector<uint32_t>& bool_bits) const;

  quash_field_type type_ = QUASH_FIELD_INT;
  size_t rows_ = 0;
  std::vector<uint32_t> valid_;
  std::vector<int64_t> ints_;
  std::vector<double> floats_;
  std::vector<uint32_t> codes_;
  std::vector<uint32_t> offsets_;             // [rows + 1], lists
  std::vector<uint32_t> dictionary_offsets_;  // [dictionary_size + 1]
  std::string dictionary_bytes_;
};

}  // namespace quash
