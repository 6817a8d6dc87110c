// CSV (RFC 4180) with a header line: the vector column holds JSON lists, the
// other columns are told from their text. An empty field is NULL; in quotes it
// is an empty text where the column holds texts.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "cli/field_inference.h"
#include "cli/import.h"
#include "cli/matrix.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

struct CsvText {
  std::string text;
  bool quoted = false;
};

// Records of a CSV file; quoted fields may span lines.
class CsvReader {
 public:
  explicit CsvReader(const std::string& path) : file_(path) {}

  bool Next(std::vector<CsvText>* record) {
    record->clear();
    int c = Get();
    if (c == 0xEF && std::ftell(file_.stream()) == 1) {  // a byte order mark
      const bool mark = Get() == 0xBB && Get() == 0xBF;
      if (!mark) throw Error(fmt::format("{}: the header is not UTF-8", file_.path()));
      c = Get();
    }
    while (c == '\n' || c == '\r') c = Get();  // blank lines
    if (c == EOF) return false;
    record_line_ = line_ + 1;
    while (true) {
      CsvText field;
      field.quoted = c == '"';
      c = field.quoted ? QuotedText(&field.text) : PlainText(c, &field.text);
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
  int PlainText(int c, std::string* text) {
    for (; c != ',' && c != '\n' && c != EOF; c = Get()) *text += static_cast<char>(c);
    if (c != ',' && text->ends_with('\r')) text->pop_back();
    return c;
  }
  int QuotedText(std::string* text) {
    while (true) {
      int c = Get();
      if (c == EOF) throw Error(fmt::format("{}: no closing \" in this record", Where()));
      if (c == '"') {
        c = Get();
        if (c == '\r') c = Get();
        if (c == ',' || c == '\n' || c == EOF) return c;
        if (c != '"') throw Error(fmt::format("{}: text after a closing \"", Where()));
      }
      *text += static_cast<char>(c);
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
    std::vector<CsvText> record;
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
    std::vector<CsvText> header;
    if (!reader_.Next(&header)) throw Error(fmt::format("{}: the file is empty", options_.file));
    columns_.clear();
    for (CsvText& field : header) columns_.push_back(std::move(field.text));
    bool has_vector = false;
    for (size_t c = 0; c < columns_.size(); ++c) {
      if (!IsUtf8(columns_[c])) throw Error(fmt::format("{}: the header is not UTF-8", Where()));
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
  bool HasColumn(std::string_view column) const override {
    return std::find(columns_.begin(), columns_.end(), column) != columns_.end();
  }
  void SetTypes(const std::vector<Field>& fields, bool string_ids) override {
    for (const Field& field : fields) types_[field.name] = field.type;
    string_ids_ = string_ids;
  }

 private:
  void TakeField(const std::string& column, const CsvText& field, ImportRow* row) const {
    const std::string& text = field.text;
    if (!IsUtf8(text)) {
      throw Error(fmt::format("{}: column \"{}\" is not UTF-8", Where(), column));
    }
    if (column == options_.vector_field) {
      const OrderedJson value = OrderedJson::parse(text, nullptr, false);
      if (value.is_discarded()) {
        throw Error(fmt::format("{}: the vector is no JSON list of numbers", Where()));
      }
      row->vector = VectorFromJson(value, Where());
    } else if (column == options_.id_field) {
      if (text.empty()) return;
      const std::optional<int64_t> integer = IntegerFromText(text);
      row->id = integer && !string_ids_ ? nlohmann::json(*integer) : nlohmann::json(text);
    } else if (column == options_.document_field) {
      if (!text.empty() || field.quoted) row->document = text;
    } else if (TakesField(options_, column) && (!text.empty() || field.quoted)) {
      const auto type = types_.find(column);
      const bool as_text = type != types_.end() && type->second == QUASH_FIELD_STRING;
      row->metadata[column] = as_text ? OrderedJson(text) : Natural(text);
    }
  }

  // What the text looks like: true, false, a number, a list, else text; null if
  // it is empty.
  static OrderedJson Natural(const std::string& text) {
    if (text.empty()) return nullptr;
    if (const std::optional<int64_t> integer = IntegerFromText(text)) return *integer;
    const char* begin = text.data();
    const char* end = begin + text.size();
    double real = 0;
    const auto as_real = std::from_chars(begin, end, real);
    const bool decimal = text.find_first_not_of("+-0123456789.eE") == std::string::npos;
    const bool digits = text.find_first_of(".eE") == std::string::npos;
    if (as_real.ec == std::errc() && as_real.ptr == end && decimal && !digits) return real;
    if (EqualsIgnoreCase(text, "true")) return true;
    if (EqualsIgnoreCase(text, "false")) return false;
    if (text[0] == '[') {
      OrderedJson list = OrderedJson::parse(text, nullptr, false);
      if (FieldInference::IsList(list)) return list;
    }
    return text;
  }

  const ImportOptions options_;
  CsvReader reader_;
  std::vector<std::string> columns_;
  std::map<std::string, quash_field_type> types_;
  bool string_ids_ = false;
};

}  // namespace

std::optional<int64_t> IntegerFromText(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  if (digits.starts_with('0') && text != "0") return std::nullopt;
  int64_t integer = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), integer);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return integer;
}

std::unique_ptr<RowSource> OpenCsvSource(const ImportOptions& options) {
  return std::make_unique<CsvSource>(options);
}

}  // namespace quash::cli
