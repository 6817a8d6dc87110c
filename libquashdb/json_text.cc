#include "libquashdb/json_text.h"

#include <fmt/format.h>

#include <iterator>

#include "libquashdb/utf8.h"

namespace quash {

JsonText::JsonText(double value) { AppendJsonNumber(value, &text_); }

JsonText::JsonText(std::string_view value) {
  if (IsUtf8(value)) {
    AppendJsonString(value, &text_);
    return;
  }
  std::string ascii(value);
  for (char& c : ascii) {
    if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  }
  AppendJsonString(ascii, &text_);
}

void JsonArray::Add(const JsonText& value) {
  text_.pop_back();
  if (text_.size() > 1) text_ += ',';
  text_ += value.text();
  text_ += ']';
}

JsonObject::JsonObject(std::initializer_list<Member> members) : JsonText(nullptr) {
  text_ = "{}";
  for (const auto& [name, value] : members) Add(name, value);
}

void JsonObject::Add(std::string_view name, const JsonText& value) {
  text_.pop_back();
  if (text_.size() > 1) text_ += ',';
  AppendJsonString(name, &text_);
  text_ += ':';
  text_ += value.text();
  text_ += '}';
}

void AppendJsonString(std::string_view text, std::string* out) {
  *out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      constexpr std::string_view kShort = "\b\t\n\f\r";
      const size_t at = kShort.find(c);
      if (at != std::string_view::npos) {
        *out += '\\';
        *out += "btnfr"[at];
      } else {
        fmt::format_to(std::back_inserter(*out), "\\u{:04x}", static_cast<unsigned>(c));
      }
    } else {
      *out += c;
    }
  }
  *out += '"';
}

void AppendJsonNumber(double value, std::string* out) {
  const std::string text = fmt::format("{}", value);
  *out += text;
  if (text.find_first_of(".e") == std::string::npos) *out += ".0";
}

}  // namespace quash
