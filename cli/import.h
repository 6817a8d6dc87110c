// Importing files: sources of rows, and the two passes over them.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/schema.h"
#include "cli/session.h"

namespace quash::cli {

struct ImportOptions {
  std::string file;
  std::string collection;  // empty: named after the file
  bool create = false;     // make the collection if it is missing
  bool replace = false;    // replace rows whose id is stored
  std::string metadata;    // JSON Lines beside a vector file, row by row
  std::string ids;         // ids beside a vector file: .npy integers, or lines
  std::string id_field = "id";
  std::string vector_field = "vector";
  std::string document_field = "document";
  std::vector<std::string> fields;  // the only ones to take; empty: all
  // For a new collection:
  std::string metric = "cosine";
  std::string rerank = "f16";
  uint32_t bits = 4;
  uint64_t partition_rows = 0;
};

// Keeps the order of keys, and so of the fields of a new collection.
using OrderedJson = nlohmann::ordered_json;

struct ImportRow {
  nlohmann::json id;  // null: none
  std::vector<float> vector;
  OrderedJson metadata = OrderedJson::object();
  std::optional<std::string> document;
};

// Rows of one file, in order. Errors name the file and the line or row.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // The next row, or false at the end.
  virtual bool Next(ImportRow* row) = 0;
  // The place of the row last given, for messages: "docs.jsonl:17".
  virtual std::string Where() const = 0;
  // Starts over.
  virtual void Rewind() = 0;
  // Whether values are told from text, see FieldInference.
  virtual bool is_text() const { return false; }
  // The same for ids: those that are all integers may go to either id type.
  virtual bool ids_are_text() const { return is_text(); }
  // Whether the file names this column, be it empty in every row.
  virtual bool HasColumn(std::string_view) const { return false; }
  // The types that fields and ids are to have; for sources that tell them from text.
  virtual void SetTypes(const std::vector<Field>& fields, bool string_ids) {
    static_cast<void>(fields), static_cast<void>(string_ids);
  }
};

std::unique_ptr<RowSource> OpenJsonlSource(const ImportOptions& options);
std::unique_ptr<RowSource> OpenCsvSource(const ImportOptions& options);
std::unique_ptr<RowSource> OpenMatrixSource(const ImportOptions& options);
// By extension; Error for others, saying how to convert them.
std::unique_ptr<RowSource> OpenSource(const ImportOptions& options);

// A line of JSON, or Error naming `where`.
OrderedJson ParseLine(std::string_view line, const std::string& where);
// Splits a JSON object into id, vector (if wanted), document and metadata.
//   vector_field  empty: none is expected
void TakeObject(OrderedJson object, const ImportOptions& options, const std::string& vector_field,
                const std::string& where, ImportRow* row);
// A list of finite numbers, or Error naming `where`.
std::vector<float> VectorFromJson(const OrderedJson& value, const std::string& where);
bool TakesField(const ImportOptions& options, const std::string& name);
// A 64-bit integer as a program would write it; "007" and "-0" are text.
std::optional<int64_t> IntegerFromText(std::string_view text);

// Reads the whole file once to check it and to infer types, then again to
// write it in batches. Nothing is written unless all of the file is good.
//   source  of these options, if it is open already
void Import(Session& session, ImportOptions options, std::unique_ptr<RowSource> source = nullptr);

}  // namespace quash::cli
