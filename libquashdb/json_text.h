// JSON for the caller, put together as text. Trees of nlohmann-json allocate when
// they are destroyed, which ends the process where memory has run out.
#pragma once

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quash {

// One value, already text.
class JsonText {
 public:
  JsonText(std::nullptr_t) : text_("null") {}
  JsonText(bool value) : text_(value ? "true" : "false") {}
  JsonText(std::integral auto value) : text_(std::to_string(value)) {}
  JsonText(double value);  // finite; the shortest that reads back
  // Bytes that are no UTF-8 become question marks.
  JsonText(std::string_view value);
  JsonText(const std::string& value) : JsonText(std::string_view(value)) {}
  JsonText(const char* value) : JsonText(std::string_view(value)) {}

  const std::string& text() const { return text_; }

 protected:
  std::string text_;
};

class JsonArray : public JsonText {
 public:
  JsonArray() : JsonText(nullptr) { text_ = "[]"; }
  void Add(const JsonText& value);
};

// Members in the order in which they were added.
class JsonObject : public JsonText {
 public:
  using Member = std::pair<std::string_view, JsonText>;
  JsonObject(std::initializer_list<Member> members);
  void Add(std::string_view name, const JsonText& value);
};

// `text` as a JSON string, appended to *out. text: UTF-8.
void AppendJsonString(std::string_view text, std::string* out);
// `value` as a JSON number that is no integer, appended to *out. value: finite.
void AppendJsonNumber(double value, std::string* out);

}  // namespace quash
