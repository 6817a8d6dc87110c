#include "cli/result_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "cli/error.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

using Kind = ResultColumn::Kind;

Cell FieldCell(const nlohmann::json& metadata, const std::string& field) {
  const auto value = metadata.find(field);
  if (value == metadata.end() || value->is_null()) return Cell::Null();
  if (value->is_string()) return Cell::Text(value->get<std::string>());
  if (value->is_structured()) return Cell::Json(value->dump());
  return {Cell::Kind::kNumber, value->dump()};
}

ResultColumn ResolveColumn(const Name& name, const Schema& schema, bool search) {
  if (name.IsBuiltin("id")) return {Kind::kId, "id"};
  if (name.IsBuiltin("vector")) return {Kind::kVector, "vector"};
  if (name.IsBuiltin("document")) return {Kind::kDocument, "document"};
  if (name.IsBuiltin("score") || name.IsBuiltin("distance")) {
    if (!search) {
      throw Error(fmt::format("{} needs NEAREST TO", ToLower(name.text)), name.offset);
    }
    return name.IsBuiltin("score") ? ResultColumn{Kind::kScore, "score"}
                                   : ResultColumn{Kind::kDistance, "distance"};
  }
  if (schema.FindField(name.text) == nullptr) {
    throw Error(fmt::format("{} has no field \"{}\"{}", QuoteName(schema.name), name.text,
                            DidYouMean(name.text, schema.ColumnNames())),
                name.offset);
  }
  return {Kind::kField, name.text};
}

}  // namespace

std::vector<ResultColumn> ResolveColumns(const std::vector<Name>& columns, const Schema& schema,
                                         bool search) {
  std::vector<ResultColumn> resolved;
  for (const Name& name : columns) resolved.push_back(ResolveColumn(name, schema, search));
  if (!columns.empty()) return resolved;
  resolved.push_back({Kind::kId, "id"});
  if (search) {
    resolved.push_back({Kind::kScore, "score"});
    resolved.push_back({Kind::kDistance, "distance"});
  }
  for (const Field& field : schema.fields) resolved.push_back({Kind::kField, field.name});
  resolved.push_back({Kind::kDocument, "document"});
  return resolved;
}

std::vector<std::string> Headings(const std::vector<ResultColumn>& columns, bool many) {
  std::vector<std::string> names;
  if (many) names.push_back("query");
  for (const ResultColumn& column : columns) {
    std::string name = column.name;
    const auto taken = [&](const std::string& other) { return other == name; };
    for (int n = 2; std::any_of(names.begin(), names.end(), taken); ++n) {
      name = fmt::format("{}_{}", column.name, n);
    }
    names.push_back(std::move(name));
  }
  return names;
}

uint32_t Includes(const std::vector<ResultColumn>& columns) {
  uint32_t include = 0;
  for (const ResultColumn& column : columns) {
    if (column.kind == Kind::kField) include |= QUASH_INCLUDE_METADATA;
    if (column.kind == Kind::kDocument) include |= QUASH_INCLUDE_DOCUMENTS;
    if (column.kind == Kind::kVector) include |= QUASH_INCLUDE_VECTORS;
  }
  return include;
}

std::vector<Cell> RowCells(const std::vector<ResultColumn>& columns, const Schema& schema,
                           const quash_result* result, size_t row) {
  nlohmann::json metadata;
  const char* text = quash_result_metadata(result, row);
  if (text != nullptr) metadata = nlohmann::json::parse(text);
  std::vector<Cell> cells;
  for (const ResultColumn& column : columns) {
    switch (column.kind) {
      case Kind::kId: {
        const nlohmann::json id = RowId(result, row);
        cells.push_back(id.is_string() ? Cell::Text(id.get<std::string>())
                                       : Cell::Integer(id.get<int64_t>()));
        break;
      }
      case Kind::kScore:
        cells.push_back(Cell::Real(quash_result_scores(result)[row]));
        break;
      case Kind::kDistance:
        cells.push_back(
            Cell::Real(quash_distance(schema.metric_code(), quash_result_scores(result)[row])));
        break;
      case Kind::kVector:
        cells.push_back(
            Cell::Json(VectorJson(quash_result_vectors(result) + row * schema.dim, schema.dim)));
        break;
      case Kind::kDocument: {
        const char* document = quash_result_document(result, row);
        cells.push_back(document == nullptr ? Cell::Null() : Cell::Text(document));
        break;
      }
      case Kind::kField:
        cells.push_back(FieldCell(metadata, column.name));
        break;
    }
  }
  return cells;
}

nlohmann::json RowId(const quash_result* result, size_t row) {
  const int64_t* ids = quash_result_int_ids(result);
  if (ids != nullptr) return ids[row];
  const char* id = quash_result_string_id(result, row);
  return id == nullptr ? "" : id;
}

std::string VectorJson(const float* vector, uint32_t dim) {
  fmt::memory_buffer text;
  for (uint32_t i = 0; i < dim; ++i) {
    fmt::format_to(std::back_inserter(text), "{}{}", i == 0 ? '[' : ',', vector[i]);
  }
  text.push_back(']');
  return fmt::to_string(text);
}

}  // namespace quash::cli
