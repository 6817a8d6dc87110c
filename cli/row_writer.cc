#include "cli/row_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "cli/error.h"
#include "cli/output.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

constexpr std::array<std::string_view, 6> kModeNames = {"table", "json", "csv",
                                                        "line",  "list", "markdown"};

// A vector in a table is only a hint of itself: "[0.0123, -0.2001, … 384]".
std::string ShortList(const std::string& text) {
  constexpr size_t kShown = 3;
  constexpr size_t kLong = 24;
  if (text.size() <= 2 * kLong || std::count(text.begin(), text.end(), ',') < 6) return text;
  const nlohmann::json list = nlohmann::json::parse(text, nullptr, false);
  if (!list.is_array() || !list[0].is_number()) return text;
  std::string out = "[";
  for (size_t i = 0; i < kShown && i < list.size(); ++i) {
    out += list[i].is_number_float() ? fmt::format("{:.4f}, ", list[i].get<double>())
                                     : list[i].dump() + ", ";
  }
  return out + fmt::format("… {}]", list.size());
}

class Writer : public RowWriter {
 public:
  Writer(const WriterOptions& options, Sink sink) : options_(options), sink_(std::move(sink)) {}

 protected:
  const std::string& Plain(const Cell& cell) const {
    return cell.kind == Cell::Kind::kNull ? options_.null_text : cell.text;
  }
  // As shown in tables: one line, floats and vectors short.
  std::string Short(const Cell& cell) const {
    switch (cell.kind) {
      case Cell::Kind::kNull:
        return options_.null_text;
      case Cell::Kind::kReal:
        return fmt::format("{:.4f}", std::strtod(cell.text.c_str(), nullptr));
      case Cell::Kind::kJson:
        return OneLine(ShortList(cell.text));
      default:
        return OneLine(cell.text);
    }
  }

  const WriterOptions options_;
  const Sink sink_;
};

class TableWriter : public Writer {
 public:
  using Writer::Writer;

  void Begin(const std::vector<std::string>& columns) override { columns_ = columns; }
  void Add(std::vector<Cell> cells) override {
    rows_.push_back(std::move(cells));
    if (rows_.size() == kRowsMeasured) Flush();
  }
  void End() override {
    Flush();
    NameLeftOut();
  }

 private:
  // Rows looked at before widths are fixed; the rest is streamed.
  static constexpr size_t kRowsMeasured = 1000;
  static constexpr std::string_view kGap = "  ";

  void Measure(const std::vector<std::vector<std::string>>& texts) {
    widths_.assign(columns_.size(), 1);
    right_.assign(columns_.size(), true);
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (options_.headers) widths_[c] = DisplayWidth(columns_[c]);
      for (size_t r = 0; r < texts.size(); ++r) {
        widths_[c] = std::max(widths_[c], DisplayWidth(texts[r][c]));
        const Cell::Kind kind = rows_[r][c].kind;
        right_[c] = right_[c] && kind != Cell::Kind::kText && kind != Cell::Kind::kJson;
      }
    }
    shown_ = columns_.size();
    if (options_.width > 0) Fit();
  }

  size_t LineWidth(size_t limit) const {
    size_t sum = kGap.size() * (shown_ - 1);
    for (size_t c = 0; c < shown_; ++c) sum += right_[c] ? widths_[c] : std::min(widths_[c], limit);
    return sum;
  }

  // Narrows the widest columns of text to a common width until the row fits;
  // numbers are not cut. If that is not enough, the last columns are left out.
  void Fit() {
    constexpr size_t kNarrowest = 6;
    if (shown_ == 0) return;
    while (shown_ > 1 && LineWidth(kNarrowest) > options_.width) --shown_;
    size_t limit = *std::max_element(widths_.begin(), widths_.end());
    while (limit > 1 && LineWidth(limit) > options_.width) --limit;
    for (size_t c = 0; c < shown_; ++c) {
      if (!right_[c] || shown_ == 1) widths_[c] = std::min(widths_[c], limit);
    }
  }

  std::string Line(const std::vector<std::string>& texts) const {
    std::string line;
    size_t column = 1;  // of the terminal
    bool uncertain = false;
    for (size_t c = 0; c < shown_; ++c) {
      if (c > 0) line += kGap;
      // Where the terminal may have drawn more or less than was counted, go to
      // the column by its number.
      if (uncertain && options_.width > 0) line += fmt::format("\033[{}G", column);
      const bool last = c + 1 == shown_;
      const std::string text = options_.width > 0 ? Truncate(texts[c], widths_[c]) : texts[c];
      const size_t width = DisplayWidth(text);
      const std::string pad(widths_[c] > width ? widths_[c] - width : 0, ' ');
      if (right_[c]) {
        line += pad + text;
      } else {
        line += last ? text : text + pad;
      }
      uncertain = uncertain || HasUncertainWidth(text);
      column += widths_[c] + kGap.size();
    }
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
  }

  void Flush() {
    std::vector<std::vector<std::string>> texts;
    for (const auto& row : rows_) {
      texts.emplace_back();
      for (const Cell& cell : row) texts.back().push_back(Short(cell));
    }
    if (widths_.empty()) {
      Measure(texts);
      if (options_.headers && !columns_.empty()) {
        std::string rule;
        for (size_t c = 0; c < shown_; ++c) {
          if (c > 0) rule += kGap;
          rule += std::string(widths_[c], '-');
        }
        sink_(Style("1", Line(columns_), options_.color) + "\n");
        sink_(Style("2", rule, options_.color) + "\n");
      }
    }
    for (const auto& row : texts) sink_(Line(row) + "\n");
    rows_.clear();
  }

  // What the terminal was too narrow for.
  void NameLeftOut() {
    if (shown_ >= columns_.size()) return;
    const auto first = columns_.begin() + static_cast<std::ptrdiff_t>(shown_);
    const std::string note = fmt::format("not shown: {} (.mode line shows all)",
                                         fmt::join(first, columns_.end(), ", "));
    sink_(Style("2", Wrap(note, options_.width), options_.color) + "\n");
  }

  std::vector<std::string> columns_;
  std::vector<std::vector<Cell>> rows_;
  std::vector<size_t> widths_;
  std::vector<bool> right_;
  size_t shown_ = 0;  // columns, from the first
};

class JsonWriter : public Writer {
 public:
  using Writer::Writer;

  void Begin(const std::vector<std::string>& columns) override {
    for (const std::string& column : columns) keys_.push_back(JsonString(column) + ":");
  }
  void Add(std::vector<Cell> cells) override {
    std::string line = count_++ == 0 ? "[{" : ",\n{";
    for (size_t c = 0; c < cells.size(); ++c) {
      if (c > 0) line += ',';
      line += keys_[c];
      switch (cells[c].kind) {
        case Cell::Kind::kNull:
          line += "null";
          break;
        case Cell::Kind::kText:
          line += JsonString(cells[c].text);
          break;
        default:
          line += cells[c].text;
      }
    }
    sink_(line + "}");
  }
  void End() override { sink_(count_ == 0 ? "[]\n" : "]\n"); }

 private:
  std::vector<std::string> keys_;
  size_t count_ = 0;
};

class CsvWriter : public Writer {
 public:
  using Writer::Writer;

  void Begin(const std::vector<std::string>& columns) override {
    if (!options_.headers) return;
    std::string line;
    for (const std::string& column : columns) {
      if (!line.empty()) line += ',';
      line += CsvField(column);
    }
    sink_(line + "\r\n");
  }
  void Add(std::vector<Cell> cells) override {
    std::string line;
    for (size_t c = 0; c < cells.size(); ++c) {
      if (c > 0) line += ',';
      const bool empty_text = cells[c].kind == Cell::Kind::kText && cells[c].text.empty();
      line += empty_text ? "\"\"" : CsvField(Plain(cells[c]));  // NULL is the empty field
    }
    sink_(line + "\r\n");
  }
  void End() override {}
};

class LineWriter : public Writer {
 public:
  using Writer::Writer;

  void Begin(const std::vector<std::string>& columns) override {
    columns_ = columns;
    for (const std::string& column : columns) width_ = std::max(width_, DisplayWidth(column));
  }
  void Add(std::vector<Cell> cells) override {
    std::string text = count_++ == 0 ? "" : "\n";
    for (size_t c = 0; c < cells.size(); ++c) {
      text += std::string(width_ - DisplayWidth(columns_[c]), ' ');
      text += Style("1", columns_[c], options_.color) + " = ";
      const bool terminal = options_.width > 0;
      text += (terminal ? OneLine(Plain(cells[c])) : Plain(cells[c])) + "\n";
    }
    sink_(text);
  }
  void End() override {}

 private:
  std::vector<std::string> columns_;
  size_t width_ = 0;
  size_t count_ = 0;
};

class ListWriter : public Writer {
 public:
  using Writer::Writer;

  void Begin(const std::vector<std::string>& columns) override {
    if (options_.headers) sink_(fmt::format("{}\n", fmt::join(columns, "|")));
  }
  void Add(std::vector<Cell> cells) override {
    std::string line;
    for (size_t c = 0; c < cells.size(); ++c) {
      if (c > 0) line += '|';
      line += OneLine(Plain(cells[c]));
    }
    sink_(line + "\n");
  }
  void End() override {}
};

class MarkdownWriter : public Writer {
 public:
  using Writer::Writer;

  void Begin(const std::vector<std::string>& columns) override {
    std::string line = "|";
    std::string rule = "|";
    for (const std::string& column : columns) {
      line += fmt::format(" {} |", Escape(column));
      rule += " --- |";
    }
    sink_(line + "\n" + rule + "\n");
  }
  void Add(std::vector<Cell> cells) override {
    std::string line = "|";
    for (const Cell& cell : cells) line += fmt::format(" {} |", Escape(Short(cell)));
    sink_(line + "\n");
  }
  void End() override {}

 private:
  static std::string Escape(const std::string& text) {
    std::string out;
    for (const char c : text) {
      if (c == '|' || c == '\\') out += '\\';
      out += c;
    }
    return out;
  }
};

}  // namespace

Mode ParseMode(std::string_view name) {
  for (size_t i = 0; i < kModeNames.size(); ++i) {
    if (EqualsIgnoreCase(name, kModeNames[i])) return static_cast<Mode>(i);
  }
  throw Error(fmt::format("\"{}\" is not a mode; the modes are {}{}", name,
                          fmt::join(kModeNames, ", "),
                          DidYouMean(name, {kModeNames.begin(), kModeNames.end()})));
}

std::string_view ModeName(Mode mode) { return kModeNames[static_cast<size_t>(mode)]; }

std::vector<std::string> ModeNames() { return {kModeNames.begin(), kModeNames.end()}; }

Cell Cell::Real(float value) { return {Kind::kReal, FormatFloat(value)}; }
Cell Cell::Real(double value) { return {Kind::kReal, FormatDouble(value)}; }

std::unique_ptr<RowWriter> MakeRowWriter(const WriterOptions& options, Sink sink) {
  switch (options.mode) {
    case Mode::kTable:
      return std::make_unique<TableWriter>(options, std::move(sink));
    case Mode::kJson:
      return std::make_unique<JsonWriter>(options, std::move(sink));
    case Mode::kCsv:
      return std::make_unique<CsvWriter>(options, std::move(sink));
    case Mode::kLine:
      return std::make_unique<LineWriter>(options, std::move(sink));
    case Mode::kList:
      return std::make_unique<ListWriter>(options, std::move(sink));
    case Mode::kMarkdown:
      break;
  }
  return std::make_unique<MarkdownWriter>(options, std::move(sink));
}

std::string JsonString(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string CsvField(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

}  // namespace quash::cli
