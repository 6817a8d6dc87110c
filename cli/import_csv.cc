// CSV (RFC 4180) with a header line: the vector column holds JSON lists, the
// other columns are told from their text.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "cli/import.h"
#include "cli/matrix.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

// Records of a CSV file; quoted fields may span lines.
class CsvReader {
 public:
  explicit CsvReader(const std::string& path) : file_(path) {}

  bool Next(std::vector<std::string>* record) {
    record->clear();
    int c = Get();
    while (c == '\n' || c == '\r') c = Get();  // blank lines
    if (c == EOF) return false;
    record_line_ = line_ + 1;
    while (true) {
      std::string field;
      c = c == '"' ? QuotedField(&field) : PlainField(c, &field);
      record->push_back(std::move(field));
      if (c != ',') return true;
      c = Get();
    }
  }
  void Rewind() {
    std::rewind(file_.stream());
    line_ = 0;
  }
  std::string Where() const { return fmt::format("{}:{}", file_.path(), record_line_); }

 private:
  int Get() {
    const int c = getc_unlocked(file_.stream());
    if (c == '\n') ++line_;
    if (c == EOF && std::ferror(file_.stream()) != 0) {
      throw Error(fmt::format("{}: cannot read line {}", file_.path(), line_ + 1));
    }
    return c;
  }

  // Each returns what ended the field: ',', '\n' or EOF.
  int PlainField(int c, std::string* field) {
    for (; c != ',' && c != '\n' && c != EOF; c = Get()) *field += static_cast<char>(c);
    if (c != ',' && field->ends_with('\r')) field->pop_back();
    return c;
  }
  int QuotedField(std::string* field) {
    while (true) {
      int c = Get();
      if (c == EOF) throw Error(fmt::format("{}: no closing \" in this record", Where()));
      if (c == '"') {
        c = Get();
        if (c == '\r') c = Get();
        if (c == ',' || c == '\n' || c == EOF) return c;
        if (c != '"') throw Error(fmt::format("{}: text after a closing \"", Where()));
      }
      *field += static_cast<char>(c);
    }
  }

  InputFile file_;
  uint64_t line_ = 0;  // line ends read
  uint64_t record_line_ = 1;
};

class CsvSource : public RowSource {
 public:
  explicit CsvSource(const ImportOptions& options) : options_(options), reader_(options.file) {
    Rewind();
  }

  bool Next(ImportRow* row) override {
    std::vector<std::string> record;
    if (!reader_.Next(&record)) return false;
    if (record.size() != columns_.size()) {
      throw Error(
          fmt::format("{}: {} fields; the header has {}", Where(), record.size(), columns_.size()));
    }
    *row = ImportRow();
    for (size_t c = 0; c < columns_.size(); ++c) TakeField(columns_[c], record[c], row);
    return true;
  }
  std::string Where() const override { return reader_.Where(); }
  void Rewind() override {
    reader_.Rewind();
    if (!reader_.Next(&columns_)) throw Error(fmt::format("{}: the file is empty", options_.file));
    if (columns_[0].starts_with("\xEF\xBB\xBF")) columns_[0].erase(0, 3);
    bool has_vector = false;
    for (size_t c = 0; c < columns_.size(); ++c) {
      has_vector |= columns_[c] == options_.vector_field;
      if (std::find(columns_.begin(), columns_.begin() + c, columns_[c]) != columns_.begin() + c) {
        throw Error(fmt::format("{}: two columns are named \"{}\"", options_.file, columns_[c]));
      }
    }
    if (!has_vector) {
      throw Error(fmt::format("{}: no column \"{}\" (--vector-field names the vector's column)",
                              options_.file, options_.vector_field));
    }
  }
  bool is_text() const override { return true; }
  void SetTypes(const std::vector<Field>& fields) override {
    for (const Field& field : fields) types_[field.name] = field.type;
  }

 private:
  void TakeField(const std::string& column, const std::string& text, ImportRow* row) const {
    if (column == options_.vector_field) {
      const OrderedJson value = OrderedJson::parse(text, nullptr, false);
      if (value.is_discarded()) {
        throw Error(fmt::format("{}: the vector is no JSON list of numbers", Where()));
      }
      row->vector = VectorFromJson(value, Where());
    } else if (column == options_.id_field) {
      if (text.empty()) return;
      const auto type = types_.find(column);
      const bool as_text = type != types_.end() && type->second == QUASH_FIELD_STRING;
      row->id = as_text ? OrderedJson(text) : Natural(text);
      if (!row->id.is_number_integer()) row->id = text;
    } else if (column == options_.document_field) {
      if (!text.empty()) row->document = text;
    } else if (TakesField(options_, column) && !text.empty()) {
      const auto type = types_.find(column);
      const bool as_text = type != types_.end() && type->second == QUASH_FIELD_STRING;
      row->metadata[column] = as_text ? OrderedJson(text) : Natural(text);
    }
  }

  // What the text looks like: true, false, a number, a list, else text.
  static OrderedJson Natural(const std::string& text) {
    const char* begin = text.data();
    const char* end = begin + text.size();
    int64_t integer = 0;
    const auto as_integer = std::from_chars(begin, end, integer);
    const bool leading_zero = text.size() > 1 && text[0] == '0';
    if (as_integer.ec == std::errc() && as_integer.ptr == end && !leading_zero) return integer;
    double real = 0;
    const auto as_real = std::from_chars(begin, end, real);
    const bool decimal = text.find_first_not_of("+-0123456789.eE") == std::string::npos;
    if (as_real.ec == std::errc() && as_real.ptr == end && decimal && as_integer.ptr != end) {
      return real;
    }
    if (EqualsIgnoreCase(text, "true")) return true;
    if (EqualsIgnoreCase(text, "false")) return false;
    if (text[0] == '[') {
      OrderedJson list = OrderedJson::parse(text, nullptr, false);
      if (list.is_array()) return list;
    }
    return text;
  }

  const ImportOptions options_;
  CsvReader reader_;
  std::vector<std::string> columns_;
  std::map<std::string, quash_field_type> types_;
};

}  // namespace

std::unique_ptr<RowSource> OpenCsvSource(const ImportOptions& options) {
  return std::make_unique<CsvSource>(options);
}

}  // namespace quash::cli
