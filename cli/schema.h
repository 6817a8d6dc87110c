// A collection's description, read from the library's JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quashdb.h"

namespace quash::cli {

struct Field {
  std::string name;
  quash_field_type type = QUASH_FIELD_STRING;
};

struct Schema {
  std::string name;
  uint32_t dim = 0;
  std::string metric;
  std::string id_type;  // "int64" or "string"
  uint32_t bits = 0;
  std::string rerank;
  std::string rotation;
  uint64_t seed = 0;
  std::optional<uint64_t> partition_rows;  // none: never
  uint64_t rows = 0;
  std::vector<Field> fields;

  bool has_string_ids() const { return id_type == "string"; }
  quash_metric metric_code() const;
  std::string partition_rows_text() const;  // as statements take it
  const Field* FindField(std::string_view field) const;
  // Names of fields and built-in columns, for suggestions.
  std::vector<std::string> ColumnNames() const;
};

Schema DescribeCollection(quash_collection* collection);

// The statement that makes an empty copy of the collection.
std::string CreateStatement(const Schema& schema);

// Names of enum values as the statements and flags take them; any case. Each
// throws Error naming the choices.
quash_metric ParseMetric(std::string_view name);
quash_rerank ParseRerank(std::string_view name);
quash_rotation ParseRotation(std::string_view name);
quash_id_type ParseIdType(std::string_view name);

}  // namespace quash::cli
