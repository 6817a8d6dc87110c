// Results as text: one writer per .mode, fed row by row.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quash::cli {

enum class Mode { kTable, kJson, kCsv, kLine, kList, kMarkdown };

// Throws Error naming the modes.
Mode ParseMode(std::string_view name);
std::string_view ModeName(Mode mode);
std::vector<std::string> ModeNames();

struct Cell {
  enum class Kind {
    kNull,
    kNumber,  // valid JSON, right-aligned
    kReal,    // the same, shown with 4 decimals in tables
    kText,
    kJson  // list or object text
  };
  Kind kind = Kind::kNull;
  std::string text;  // full precision

  static Cell Null() { return {}; }
  static Cell Integer(int64_t value) { return {Kind::kNumber, std::to_string(value)}; }
  static Cell Count(uint64_t value) { return {Kind::kNumber, std::to_string(value)}; }
  static Cell Real(float value);
  static Cell Real(double value);
  static Cell Text(std::string value) { return {Kind::kText, std::move(value)}; }
  static Cell Json(std::string value) { return {Kind::kJson, std::move(value)}; }
};

struct WriterOptions {
  Mode mode = Mode::kTable;
  bool headers = true;
  std::string null_text;  // shown for NULL, except in JSON
  size_t width = 0;       // terminal columns a table must fit; 0: no limit
  bool color = false;
};

using Sink = std::function<void(std::string_view)>;

// Begin once, Add any number of times with as many cells as columns, End once.
class RowWriter {
 public:
  virtual ~RowWriter() = default;
  virtual void Begin(const std::vector<std::string>& columns) = 0;
  virtual void Add(std::vector<Cell> cells) = 0;
  virtual void End() = 0;
};

std::unique_ptr<RowWriter> MakeRowWriter(const WriterOptions& options, Sink sink);

// "text" as a JSON string; bytes that are no UTF-8 become U+FFFD.
std::string JsonString(std::string_view text);
// A CSV field, quoted where RFC 4180 asks for it.
std::string CsvField(std::string_view text);

}  // namespace quash::cli
