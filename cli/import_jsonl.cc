// JSON Lines: one object per line with a vector, and optionally an id, a
// document and fields.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/import.h"
#include "cli/line_reader.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

class JsonlSource : public RowSource {
 public:
  explicit JsonlSource(const ImportOptions& options) : options_(options), lines_(options.file) {}

  bool Next(ImportRow* row) override {
    std::string_view line;
    do {
      if (!lines_.Next(&line)) return false;
    } while (Trim(line).empty());
    TakeObject(ParseLine(line, Where()), options_, options_.vector_field, Where(), row);
    return true;
  }
  std::string Where() const override { return lines_.Where(); }
  void Rewind() override { lines_.Rewind(); }

 private:
  const ImportOptions options_;
  LineReader lines_;
};

}  // namespace

std::unique_ptr<RowSource> OpenJsonlSource(const ImportOptions& options) {
  return std::make_unique<JsonlSource>(options);
}

bool TakesField(const ImportOptions& options, const std::string& name) {
  return options.fields.empty() ||
         std::find(options.fields.begin(), options.fields.end(), name) != options.fields.end();
}

OrderedJson ParseLine(std::string_view line, const std::string& where) {
  try {
    return OrderedJson::parse(line);
  } catch (const nlohmann::json::parse_error& error) {
    throw Error(fmt::format("{}: not valid JSON at byte {} of the line", where, error.byte));
  } catch (const nlohmann::json::out_of_range&) {
    throw Error(fmt::format("{}: a number beyond the range of a double", where));
  }
}

std::vector<float> VectorFromJson(const OrderedJson& value, const std::string& where) {
  if (!value.is_array()) {
    throw Error(
        fmt::format("{}: the vector is {}; expected a list of numbers", where, value.type_name()));
  }
  std::vector<float> vector;
  vector.reserve(value.size());
  for (const OrderedJson& x : value) {
    const float coordinate = x.is_number() ? x.get<float>() : NAN;
    if (!std::isfinite(coordinate)) {
      throw Error(fmt::format("{}: coordinate {} of the vector is no number in float range", where,
                              vector.size()));
    }
    vector.push_back(coordinate);
  }
  return vector;
}

void TakeObject(OrderedJson object, const ImportOptions& options, const std::string& vector_field,
                const std::string& where, ImportRow* row) {
  if (!object.is_object()) {
    throw Error(fmt::format("{}: a JSON {}; expected an object", where, object.type_name()));
  }
  *row = ImportRow();
  if (!vector_field.empty()) {
    const auto vector = object.find(vector_field);
    if (vector == object.end()) {
      throw Error(fmt::format("{}: no \"{}\" (--vector-field names the vector's key)", where,
                              vector_field));
    }
    row->vector = VectorFromJson(*vector, where);
    object.erase(vector);
  }
  if (const auto id = object.find(options.id_field); id != object.end()) {
    row->id = std::move(*id);
    object.erase(id);
  }
  if (const auto text = object.find(options.document_field); text != object.end()) {
    if (text->is_string()) {
      row->document = text->get<std::string>();
    } else if (!text->is_null()) {
      throw Error(fmt::format("{}: the document \"{}\" is a {}; expected text", where,
                              options.document_field, text->type_name()));
    }
    object.erase(text);
  }
  for (auto& [name, value] : object.items()) {
    if (TakesField(options, name)) row->metadata[name] = std::move(value);
  }
}

}  // namespace quash::cli
