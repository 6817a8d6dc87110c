// Statements as the parser hands them to the executor. Offsets are bytes into
// the statement's text, for error positions.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "quashdb.h"

namespace quash::cli {

// Null, bool, integer, double, string, or a flat array of these.
using Value = nlohmann::json;

struct Name {
  std::string text;
  size_t offset = 0;
  bool quoted = false;  // "score" is a field of that name, score the built-in

  // Whether this is the given built-in column, case ignored.
  bool IsBuiltin(std::string_view builtin) const;
};

struct Option {
  Name name;
  Value value;
};

struct FieldSpec {
  Name name;
  quash_field_type type = QUASH_FIELD_STRING;
};

// Filter text as written; the library parses it.
struct FilterText {
  std::string text;
  size_t offset = 0;
};

struct CreateCollection {
  Name name;
  bool if_not_exists = false;
  std::vector<Option> options;
  std::vector<FieldSpec> fields;
};

struct DropCollection {
  Name name;
  bool if_exists = false;
};

struct AddField {
  Name collection;
  FieldSpec field;
};

struct InsertRow {
  size_t offset = 0;
  std::vector<Value> values;
};

struct Insert {
  Name collection;
  bool replace = false;
  std::vector<Name> columns;  // empty: id, vector, every field in order
  std::vector<InsertRow> rows;
};

struct Delete {
  Name collection;
  FilterText where;
};

struct Nearest {
  enum class Kind { kVector, kId, kFile };
  Kind kind = Kind::kVector;
  size_t offset = 0;
  std::vector<float> vector;
  Value id;
  std::string file;
  std::optional<uint64_t> row;  // of the file; none: every row is a query
};

struct Cursor {
  double score = 0;
  Value id;
};

struct Select {
  bool count = false;         // SELECT COUNT(*)
  std::vector<Name> columns;  // empty: *
  Name collection;
  std::optional<Nearest> nearest;
  std::optional<FilterText> where;
  std::vector<Option> options;
  std::optional<uint64_t> limit;
  std::optional<Cursor> after;
};

struct Explain {
  Select select;
};

struct ShowCollections {};

struct Describe {
  Name collection;
};

using Statement = std::variant<CreateCollection, DropCollection, AddField, Insert, Delete, Select,
                               Explain, ShowCollections, Describe>;

}  // namespace quash::cli
