#include "cli/statements.h"

#include <fmt/format.h>

#include <cmath>
#include <set>
#include <utility>

#include "cli/parser.h"
#include "cli/row_batch.h"
#include "cli/schema.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

const std::vector<std::string> kCollectionOptions = {"dim", "metric",   "bits", "rerank",
                                                     "id",  "rotation", "seed", "partition_rows"};

uint64_t Unsigned(const Option& option) {
  if (!option.value.is_number_integer() || option.value < 0) {
    throw Error(
        fmt::format("{} must be a whole number, not {}", option.name.text, option.value.dump()),
        option.name.offset);
  }
  return option.value.get<uint64_t>();
}

uint32_t Unsigned32(const Option& option) {
  const uint64_t value = Unsigned(option);
  if (value > UINT32_MAX) {
    throw Error(fmt::format("{} is too large", option.name.text), option.name.offset);
  }
  return static_cast<uint32_t>(value);
}

std::string Word(const Option& option) {
  if (!option.value.is_string()) {
    throw Error(fmt::format("{} must be a word, not {}", option.name.text, option.value.dump()),
                option.name.offset);
  }
  return option.value;
}

void SetOption(const Option& option, quash_collection_options* options) {
  const auto is = [&](std::string_view name) { return EqualsIgnoreCase(option.name.text, name); };
  try {
    if (is("dim")) {
      options->dim = Unsigned32(option);
    } else if (is("bits")) {
      options->bits = Unsigned32(option);
    } else if (is("seed")) {
      options->seed = Unsigned(option);
    } else if (is("metric")) {
      options->metric = ParseMetric(Word(option));
    } else if (is("rerank")) {
      options->rerank = ParseRerank(Word(option));
    } else if (is("rotation")) {
      options->rotation = ParseRotation(Word(option));
    } else if (is("partition_rows")) {
      const bool never = option.value.is_string() && EqualsIgnoreCase(Word(option), "never");
      options->partition_rows = never ? UINT64_MAX : Unsigned(option);
    } else if (is("id") || is("id_type")) {
      options->id_type = ParseIdType(Word(option));
    } else {
      throw Error(fmt::format("no option \"{}\"; the options are {}{}", option.name.text,
                              fmt::join(kCollectionOptions, ", "),
                              DidYouMean(option.name.text, kCollectionOptions)));
    }
  } catch (const Error& error) {
    throw Error(error.what(), option.name.offset);
  }
}

void Run(Session& session, const CreateCollection& create) {
  quash_collection_options options;
  quash_collection_options_init(&options);
  for (const Option& option : create.options) SetOption(option, &options);
  if (options.dim == 0) {
    throw Error("dim is missing: the number of coordinates, as in (dim 384)", create.name.offset);
  }
  std::vector<quash_field> fields;
  for (const FieldSpec& field : create.fields) {
    fields.push_back({field.name.text.c_str(), field.type});
  }
  options.fields = fields.data();
  options.num_fields = fields.size();
  const quash_status status =
      quash_collection_create(session.db(), create.name.text.c_str(), &options, nullptr);
  if (status == QUASH_EXISTS && create.if_not_exists) return;
  Check(status, create.name.offset);
}

void Run(Session& session, const DropCollection& drop) {
  const quash_status status = quash_collection_drop(session.db(), drop.name.text.c_str());
  if (status == QUASH_NOT_FOUND) {
    if (drop.if_exists) return;
    session.OpenCollection(drop.name.text, drop.name.offset);  // throws with a suggestion
  }
  Check(status, drop.name.offset);
}

void Run(Session& session, const AddField& alter) {
  const Collection collection =
      session.OpenCollection(alter.collection.text, alter.collection.offset);
  const quash_field field = {alter.field.name.text.c_str(), alter.field.type};
  Check(quash_collection_add_field(collection.get(), &field), alter.field.name.offset);
}

// The columns of an INSERT, or of one that names none.
std::vector<Name> InsertColumns(const Insert& insert, const Schema& schema) {
  if (!insert.columns.empty()) return insert.columns;
  std::vector<Name> columns = {{"id", 0, false}, {"vector", 0, false}};
  for (const Field& field : schema.fields) columns.push_back({field.name, 0, true});
  const size_t values = insert.rows.front().values.size();
  if (values == columns.size() + 1) columns.push_back({"document", 0, false});
  for (const InsertRow& row : insert.rows) {
    if (row.values.size() == columns.size()) continue;
    throw Error(fmt::format("{} values; without column names the values are id, vector{}, "
                            "and optionally document",
                            row.values.size(), schema.fields.empty() ? "" : ", every field"),
                row.offset);
  }
  return columns;
}

std::vector<float> ToVector(const Value& value) {
  if (!value.is_array()) throw Error("vector must be a list of numbers, as [0.1, 0.2]");
  std::vector<float> vector;
  vector.reserve(value.size());
  for (const Value& x : value) {
    if (!x.is_number() || !std::isfinite(x.get<float>())) {
      throw Error(fmt::format("coordinate {} of the vector is {}, not a number in float range",
                              vector.size(), x.dump()));
    }
    vector.push_back(x.get<float>());
  }
  return vector;
}

void AddRow(const std::vector<Name>& columns, const InsertRow& row, RowBatch* batch) {
  Value id;
  std::optional<std::vector<float>> vector;
  std::optional<std::string> document;
  Value metadata = Value::object();
  for (size_t c = 0; c < columns.size(); ++c) {
    const Value& value = row.values[c];
    if (columns[c].IsBuiltin("id")) {
      id = value;
    } else if (columns[c].IsBuiltin("vector")) {
      vector = ToVector(value);
    } else if (columns[c].IsBuiltin("document")) {
      if (!value.is_null() && !value.is_string()) throw Error("document must be text or NULL");
      if (value.is_string()) document = value.get<std::string>();
    } else if (!value.is_null()) {
      metadata[columns[c].text] = value;
    }
  }
  if (!vector) throw Error("the row has no vector");
  batch->Add(id, *vector,
             metadata.empty() ? "" : metadata.dump(-1, ' ', false, Value::error_handler_t::strict),
             std::move(document));
}

void Run(Session& session, const Insert& insert) {
  const Collection collection =
      session.OpenCollection(insert.collection.text, insert.collection.offset);
  const Schema schema = DescribeCollection(collection.get());
  const std::vector<Name> columns = InsertColumns(insert, schema);
  std::set<std::pair<bool, std::string>> named;  // built-in columns, and fields
  for (const Name& column : columns) {
    const bool builtin =
        column.IsBuiltin("id") || column.IsBuiltin("vector") || column.IsBuiltin("document");
    if (!named.emplace(builtin, builtin ? ToLower(column.text) : column.text).second) {
      throw Error(fmt::format("column {} is named twice", QuoteName(column.text)), column.offset);
    }
    if (builtin || schema.FindField(column.text) != nullptr) continue;
    throw Error(fmt::format("{} has no field \"{}\"{}", QuoteName(schema.name), column.text,
                            DidYouMean(column.text, schema.ColumnNames())),
                column.offset);
  }
  RowBatch batch(schema.has_string_ids(), schema.dim);
  for (const InsertRow& row : insert.rows) {
    try {
      AddRow(columns, row, &batch);
    } catch (const Error& error) {
      throw Error(error.what(), row.offset);
    } catch (const Value::exception&) {
      throw Error("a text value is not valid UTF-8", row.offset);
    }
  }
  const size_t rows = batch.rows();
  batch.Write(collection.get(), insert.replace, "INSERT OR REPLACE");
  session.Remark(fmt::format("{} row{} written", FormatCount(rows), rows == 1 ? "" : "s"));
}

void Run(Session& session, const Delete& remove) {
  const Collection collection =
      session.OpenCollection(remove.collection.text, remove.collection.offset);
  uint64_t deleted = 0;
  {
    const WithProgress progress(session, "deleting");
    CheckFilter(quash_delete_where(collection.get(), remove.where.text.c_str(), &deleted),
                remove.where.offset);
  }
  session.Remark(fmt::format("{} row{} deleted", FormatCount(deleted), deleted == 1 ? "" : "s"));
}

void Run(Session& session, const Select& select) { RunSelect(session, select); }

void Run(Session& session, const Explain& explain) { RunExplain(session, explain.select); }

void Run(Session& session, const ShowCollections&) {
  std::vector<std::vector<Cell>> rows;
  for (const std::string& name : session.CollectionNames()) {
    const Schema schema = DescribeCollection(session.OpenCollection(name).get());
    rows.push_back({Cell::Text(name), Cell::Count(schema.rows), Cell::Count(schema.dim),
                    Cell::Text(schema.metric), Cell::Count(schema.bits), Cell::Text(schema.rerank),
                    Cell::Text(schema.id_type), Cell::Count(schema.fields.size())});
  }
  session.Print({"collection", "rows", "dim", "metric", "bits", "rerank", "id", "fields"},
                std::move(rows));
}

void Run(Session& session, const Describe& describe) {
  const Collection collection =
      session.OpenCollection(describe.collection.text, describe.collection.offset);
  const Schema schema = DescribeCollection(collection.get());
  const std::string vector =
      fmt::format("{}, {} bits, rerank {}, rotation {}, seed {}, partition_rows {}",
                  schema.metric, schema.bits, schema.rerank, schema.rotation, schema.seed,
                  schema.partition_rows_text());
  const std::string id_type = schema.has_string_ids() ? "STRING" : "INT";
  std::vector<std::vector<Cell>> rows = {
      {Cell::Text("id"), Cell::Text(id_type), Cell::Text("unique")},
      {Cell::Text("vector"), Cell::Text(fmt::format("FLOAT[{}]", schema.dim)), Cell::Text(vector)}};
  for (const Field& field : schema.fields) {
    rows.push_back({Cell::Text(field.name), Cell::Text(FieldTypeName(field.type)), Cell::Null()});
  }
  rows.push_back({Cell::Text("document"), Cell::Text("STRING"), Cell::Null()});
  session.Print({"column", "type", "notes"}, std::move(rows));
}

}  // namespace

void RunStatement(Session& session, std::string_view text) {
  std::visit([&](const auto& statement) { Run(session, statement); }, ParseStatement(text));
}

}  // namespace quash::cli
