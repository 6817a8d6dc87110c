// libFuzzer: filters. Any bytes either parse, print no more rows than they were
// given and treat NOT as three-valued logic does, or fail with an offset inside
// the text.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libquashdb/filter.h"
#include "tests/libquashdb/column_segment.h"

namespace {

using quash::Value;

struct Table {
  explicit Table(quash_id_type id_type) {
    spec.name = "fuzz";
    spec.id_type = id_type;
    spec.fields = {{"s", QUASH_FIELD_STRING},      {"i", QUASH_FIELD_INT},
                   {"f", QUASH_FIELD_FLOAT},       {"b", QUASH_FIELD_BOOL},
                   {"t", QUASH_FIELD_STRING_LIST}, {"n", QUASH_FIELD_INT_LIST}};
    const std::vector<Value> strings = {Value(), "", "a", "ab", "B%_", "\xC3\xA9"};
    std::vector<quash::Id> ids;
    for (int64_t row = 0; row < 70; ++row) {
      std::vector<Value> values(6);
      values[0] = strings[static_cast<size_t>(row) % strings.size()];
      if (row % 5 != 0) values[1] = row * row * row - 500;
      if (row % 7 != 0) values[2] = static_cast<double>(row - 30) / 4;
      if (row % 3 != 0) values[3] = row % 2 == 0;
      if (row % 4 != 0) values[4] = std::vector<std::string>(static_cast<size_t>(row % 4), "a");
      if (row % 6 != 0) values[5] = std::vector<int64_t>{row, row % 8};
      rows.push_back(values);
      if (id_type == QUASH_ID_INT64) {
        ids.emplace_back(row - 10);
      } else {
        ids.emplace_back(std::string(1, 'k').append(std::to_string(row)));
      }
    }
    segment = std::make_unique<quash::ColumnSegment>(spec, rows, ids);
  }

  quash::CollectionSpec spec;
  std::vector<std::vector<Value>> rows;
  std::unique_ptr<quash::ColumnSegment> segment;
};

// The rows that match, or false if the text is refused.
bool Matching(const Table& table, std::string_view text, std::vector<uint32_t>* rows) {
  std::shared_ptr<const quash::Filter> filter;
  const quash::Status status = quash::Filter::Parse(text, table.spec, &filter);
  if (!status.ok()) {
    if (status.message().empty() || filter != nullptr) std::abort();
    if (status.offset() < 0 || static_cast<size_t>(status.offset()) > text.size()) std::abort();
    return false;
  }
  *rows = AllRows(*table.segment);
  if (!filter->Apply(*table.segment, rows).ok()) std::abort();
  return true;
}

void Check(const Table& table, const std::string& text) {
  std::vector<uint32_t> rows, negated;
  if (!Matching(table, text, &rows)) return;
  const std::vector<uint32_t> all = AllRows(*table.segment);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] & ~all[i]) std::abort();
  }
  // No row is true of a condition and of its negation. The parentheses may be
  // one level too many, and a comment may swallow the closing one.
  if (!Matching(table, "NOT (" + text + "\n)", &negated)) return;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] & negated[i]) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Table* int_table = new Table(QUASH_ID_INT64);
  static const Table* string_table = new Table(QUASH_ID_STRING);
  // One of the two, for speed: only conditions on ids differ.
  const Table& table = size % 2 == 0 ? *int_table : *string_table;
  Check(table, std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}
