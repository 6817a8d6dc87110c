// Rows of a quash_result as cells, for SELECT and export.
#pragma once

#include <string>
#include <vector>

#include "cli/ast.h"
#include "cli/row_writer.h"
#include "cli/schema.h"

namespace quash::cli {

struct ResultColumn {
  enum class Kind { kId, kScore, kDistance, kVector, kDocument, kField };
  Kind kind = Kind::kField;
  std::string name;
};

// What a SELECT's columns stand for; `*` (no columns) is id, score and
// distance of a search, every field, and document. Throws Error with the
// column's offset, suggesting the nearest name.
//   search  whether there are scores
std::vector<ResultColumn> ResolveColumns(const std::vector<Name>& columns, const Schema& schema,
                                         bool search);

// Their names; a second "score" (a field beside the built-in) is "score_2", so
// that JSON and CSV have no name twice.
//   many  a column "query" comes first
std::vector<std::string> Headings(const std::vector<ResultColumn>& columns, bool many = false);

// QUASH_INCLUDE_ flags that the columns need.
uint32_t Includes(const std::vector<ResultColumn>& columns);

// Cells of one row, in the columns' order.
std::vector<Cell> RowCells(const std::vector<ResultColumn>& columns, const Schema& schema,
                           const quash_result* result, size_t row);

// The id of one row as JSON: an integer or a string.
nlohmann::json RowId(const quash_result* result, size_t row);

// "[0.1,0.2]", every coordinate exact.
std::string VectorJson(const float* vector, uint32_t dim);

}  // namespace quash::cli
