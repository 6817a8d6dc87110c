#include "libquashdb/metadata.h"

#include <bitset>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "libquashdb/filter_lexer.h"
#include "libquashdb/json_text.h"
#include "libquashdb/names.h"
#include "libquashdb/suggest.h"

namespace quash {
namespace {

using Json = nlohmann::json;

// What a field of a type takes, for messages.
const char* Expected(quash_field_type type) {
  switch (type) {
    case QUASH_FIELD_BOOL:
      return "true or false";
    case QUASH_FIELD_INT:
      return "a 64-bit integer";
    case QUASH_FIELD_FLOAT:
      return "a finite number";
    case QUASH_FIELD_STRING:
      return "a string";
    case QUASH_FIELD_INT_LIST:
      return "an array of 64-bit integers";
    case QUASH_FIELD_STRING_LIST:
      return "an array of strings";
  }
  return "another type";
}

// Receives the parser's events, so that values go straight to their fields
// without a document in between. Every event returns false to stop, with the
// reason in status(). Only a list field lets an array begin and nothing lets an
// inner object, so nesting is bounded by construction.
class MetadataHandler : public nlohmann::json_sax<Json> {
 public:
  MetadataHandler(const CollectionSpec& spec, size_t row, std::vector<Value>* values)
      : spec_(spec), row_(row), values_(*values) {}

  const Status& status() const { return status_; }

  bool null() override {
    if (place_ == Place::kValue) return true;
    return WrongType("null");
  }

  bool boolean(bool value) override {
    if (place_ != Place::kValue || type() != QUASH_FIELD_BOOL) {
      return WrongType(value ? "true" : "false");
    }
    values_[field_] = value;
    return true;
  }

  bool number_integer(int64_t value) override {
    if (place_ == Place::kList && type() == QUASH_FIELD_INT_LIST) {
      std::get<std::vector<int64_t>>(values_[field_]).push_back(value);
    } else if (place_ == Place::kValue && type() == QUASH_FIELD_INT) {
      values_[field_] = value;
    } else if (place_ == Place::kValue && type() == QUASH_FIELD_FLOAT) {
      values_[field_] = static_cast<double>(value);
    } else {
      return WrongType(fmt::to_string(value));
    }
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (value <= uint64_t{std::numeric_limits<int64_t>::max()}) {
      return number_integer(static_cast<int64_t>(value));
    }
    if (place_ != Place::kValue || type() != QUASH_FIELD_FLOAT) {
      return WrongType(fmt::to_string(value));
    }
    values_[field_] = static_cast<double>(value);
    return true;
  }

  // Decimals, and integers beyond 64 bits.
  bool number_float(double value, const std::string& text) override {
    if (place_ != Place::kValue || type() != QUASH_FIELD_FLOAT || !std::isfinite(value)) {
      return WrongType(text);
    }
    values_[field_] = value;
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == Place::kList && type() == QUASH_FIELD_STRING_LIST) {
      std::get<std::vector<std::string>>(values_[field_]).push_back(std::move(value));
    } else if (place_ == Place::kValue && type() == QUASH_FIELD_STRING) {
      values_[field_] = std::move(value);
    } else {
      return WrongType(QuoteForMessage(value));
    }
    return true;
  }

  bool binary(Json::binary_t&) override { return WrongType("binary data"); }

  bool start_object(size_t) override {
    if (place_ != Place::kOutside) return WrongType("an object");
    place_ = Place::kValue;
    return true;
  }
  bool end_object() override { return true; }

  bool start_array(size_t) override {
    if (place_ != Place::kValue) return WrongType("an array");
    if (type() == QUASH_FIELD_INT_LIST) {
      values_[field_].emplace<std::vector<int64_t>>();
    } else if (type() == QUASH_FIELD_STRING_LIST) {
      values_[field_].emplace<std::vector<std::string>>();
    } else {
      return WrongType("an array");
    }
    place_ = Place::kList;
    return true;
  }
  bool end_array() override {
    place_ = Place::kValue;
    return true;
  }

  bool key(std::string& name) override {
    // Rows tend to give fields in declared order, so look after the last first.
    const size_t n = spec_.fields.size();
    size_t tried = 0;
    do {
      if (++field_ >= n) field_ = 0;
    } while (tried++ < n && spec_.fields[field_].name != name);
    if (tried > n) return UnknownField(name);
    if (seen_[field_]) {
      return Fail(Error(QUASH_INVALID, "metadata of row {} has field \"{}\" twice", row_, name));
    }
    seen_.set(field_);
    return true;
  }

  bool parse_error(size_t position, const std::string& token,
                   const Json::exception& error) override {
    constexpr int kNumberOverflow = 406;
    if (error.id == kNumberOverflow && place_ != Place::kOutside) return WrongType(token);
    const std::string_view what = error.what();
    if (what.find("ill-formed UTF-8") != std::string_view::npos) {
      return Fail(Error(QUASH_INVALID, "metadata of row {} is not valid UTF-8 at byte {}", row_,
                        position > 0 ? position - 1 : 0));
    }
    // The library's text up to what it echoes of the input.
    const size_t reason = what.find("syntax error");
    std::string_view shown = reason == std::string_view::npos ? what : what.substr(reason);
    if (const size_t echo = shown.find("; last read"); echo != std::string_view::npos) {
      shown = shown.substr(0, echo);
    }
    return Fail(Error(QUASH_INVALID, "metadata of row {} is not a valid JSON object: byte {}: {}",
                      row_, position > 0 ? position - 1 : 0, shown));
  }

 private:
  enum class Place { kOutside, kValue, kList };

  quash_field_type type() const { return spec_.fields[field_].type; }

  bool Fail(Status status) {
    status_ = std::move(status);
    return false;
  }

  bool WrongType(std::string_view found) {
    constexpr size_t kShown = 60;
    const std::string_view cut = found.size() > kShown ? "..." : "";
    found = found.substr(0, found.size() > kShown ? kShown - 3 : kShown);
    if (place_ == Place::kOutside) {
      return Fail(Error(QUASH_INVALID, "metadata of row {} is {}{}, expected a JSON object", row_,
                        found, cut));
    }
    return Fail(Error(QUASH_TYPE, "metadata of row {}: field \"{}\" {} {}{}, expected {}", row_,
                      spec_.fields[field_].name, place_ == Place::kList ? "lists" : "is", found,
                      cut, Expected(type())));
  }

  bool UnknownField(std::string_view name) {
    std::vector<std::string_view> names;
    for (const Field& field : spec_.fields) names.push_back(field.name);
    return Fail(Error(QUASH_NOT_FOUND, "metadata of row {}: no field {} in collection \"{}\"{}",
                      row_, QuoteForMessage(name), spec_.name, Suggestion(name, names)));
  }

  const CollectionSpec& spec_;
  const size_t row_;
  std::vector<Value>& values_;
  Place place_ = Place::kOutside;
  size_t field_ = std::numeric_limits<size_t>::max();  // of the last key
  std::bitset<QUASH_FIELDS_MAX> seen_;
  Status status_;
};

template <typename T, typename Append>
void AppendList(const std::vector<T>& list, Append append, std::string* out) {
  *out += '[';
  for (size_t i = 0; i < list.size(); ++i) {
    if (i > 0) *out += ',';
    append(list[i]);
  }
  *out += ']';
}

void AppendValue(const Value& value, std::string* out) {
  const auto append_int = [&](int64_t number) {
    const fmt::format_int text(number);
    out->append(text.data(), text.size());
  };
  const auto append_string = [&](const std::string& text) { AppendJsonString(text, out); };
  if (const auto* flag = std::get_if<bool>(&value)) {
    *out += *flag ? "true" : "false";
  } else if (const auto* number = std::get_if<int64_t>(&value)) {
    append_int(*number);
  } else if (const auto* real = std::get_if<double>(&value)) {
    AppendJsonNumber(*real, out);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    append_string(*text);
  } else if (const auto* numbers = std::get_if<std::vector<int64_t>>(&value)) {
    AppendList(*numbers, append_int, out);
  } else if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) {
    AppendList(*texts, append_string, out);
  }
}

}  // namespace

Status ParseMetadata(const char* json, const CollectionSpec& spec, size_t row,
                     std::vector<Value>* values) {
  values->assign(spec.fields.size(), Value());
  MetadataHandler handler(spec, row, values);
  Json::sax_parse(json, json + std::strlen(json), &handler);
  return handler.status();
}

std::string FormatMetadata(const CollectionSpec& spec, const std::vector<Value>& values) {
  std::string json = "{";
  for (size_t i = 0; i < values.size() && i < spec.fields.size(); ++i) {
    if (std::holds_alternative<std::monostate>(values[i])) continue;
    if (json.size() > 1) json += ',';
    AppendJsonString(spec.fields[i].name, &json);
    json += ':';
    AppendValue(values[i], &json);
  }
  json += '}';
  return json;
}

Status CheckFields(const std::vector<Field>& fields) {
  if (fields.size() > QUASH_FIELDS_MAX) {
    return Error(QUASH_LIMIT, "collection has {} fields, expected at most {}", fields.size(),
                 QUASH_FIELDS_MAX);
  }
  std::unordered_set<std::string_view> names;
  for (const Field& field : fields) {
    const std::string shown = QuoteForMessage(field.name);
    if (field.name.size() > QUASH_NAME_BYTES_MAX) {
      return Error(QUASH_LIMIT, "field name {} is longer than {} bytes", shown,
                   QUASH_NAME_BYTES_MAX);
    }
    if (!IsFilterName(field.name)) {
      return Error(QUASH_INVALID,
                   "field name {} is not valid, expected a letter or _, then letters, digits or _",
                   shown);
    }
    if (field.name == "id") {
      return Error(QUASH_INVALID, "field name \"id\" is taken by the row's id");
    }
    if (IsFilterKeyword(field.name)) {
      return Error(QUASH_INVALID, "field name {} is a keyword of filters", shown);
    }
    if (static_cast<unsigned>(field.type) > QUASH_FIELD_STRING_LIST) {
      return Error(QUASH_INVALID, "field {} has type {}, expected a quash_field_type", shown,
                   static_cast<unsigned>(field.type));
    }
    if (!names.insert(field.name).second) {
      return Error(QUASH_INVALID, "field {} is declared twice", shown);
    }
  }
  return Status();
}

}  // namespace quash
