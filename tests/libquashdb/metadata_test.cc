#include "libquashdb/metadata.h"

#include <doctest/doctest.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace quash {
namespace {

using Strings = std::vector<std::string>;
using Ints = std::vector<int64_t>;

CollectionSpec Spec() {
  CollectionSpec spec;
  spec.name = "packages";
  spec.fields = {{"lang", QUASH_FIELD_STRING},      {"year", QUASH_FIELD_INT},
                 {"score", QUASH_FIELD_FLOAT},      {"active", QUASH_FIELD_BOOL},
                 {"tags", QUASH_FIELD_STRING_LIST}, {"sizes", QUASH_FIELD_INT_LIST}};
  return spec;
}

std::vector<Value> Parsed(const std::string& json) {
  std::vector<Value> values;
  const Status status = ParseMetadata(json.c_str(), Spec(), 0, &values);
  REQUIRE_MESSAGE(status.ok(), status.message());
  REQUIRE(values.size() == Spec().fields.size());
  return values;
}

void Refuses(const std::string& json, quash_status code, const std::string& message) {
  std::vector<Value> values;
  const Status status = ParseMetadata(json.c_str(), Spec(), 3, &values);
  CAPTURE(json);
  CHECK(status.code() == code);
  CHECK(status.message() == message);
}

TEST_CASE("every type of field is read, in any order, and the rest is null") {
  const std::vector<Value> values = Parsed(
      R"( {"sizes": [1, -2], "active": true, "lang": "d\u00e9", "year": 2020, "score": 0.25,
           "tags": ["a", "", "a"]} )");
  CHECK(values[0] == Value("d\xC3\xA9"));
  CHECK(values[1] == Value(int64_t{2020}));
  CHECK(values[2] == Value(0.25));
  CHECK(values[3] == Value(true));
  CHECK(values[4] == Value(Strings{"a", "", "a"}));
  CHECK(values[5] == Value(Ints{1, -2}));

  for (const Value& value : Parsed("{}")) CHECK(value == Value());
  const std::vector<Value> few = Parsed(R"({"year": null, "active": false, "tags": []})");
  CHECK(few[0] == Value());
  CHECK(few[1] == Value());
  CHECK(few[3] == Value(false));
  CHECK(few[4] == Value(Strings{}));
}

TEST_CASE("values of an earlier row do not linger") {
  std::vector<Value> values = Parsed(R"({"year": 1, "lang": "x"})");
  REQUIRE(ParseMetadata("{}", Spec(), 0, &values).ok());
  CHECK(values == std::vector<Value>(6));
}

TEST_CASE("integers are exact and floats take every finite number") {
  CHECK(Parsed(R"({"year": 9223372036854775807})")[1] ==
        Value(std::numeric_limits<int64_t>::max()));
  CHECK(Parsed(R"({"year": -9223372036854775808})")[1] ==
        Value(std::numeric_limits<int64_t>::min()));
  CHECK(Parsed(R"({"score": 3})")[2] == Value(3.0));
  CHECK(Parsed(R"({"score": -3})")[2] == Value(-3.0));
  CHECK(Parsed(R"({"score": 18446744073709551615})")[2] == Value(18446744073709551616.0));
  CHECK(Parsed(R"({"score": 100000000000000000000000})")[2] == Value(1e23));
  CHECK(Parsed(R"({"score": 1.7976931348623157e308})")[2] == Value(DBL_MAX));
}

TEST_CASE("a value of another type is refused with row, field and both types") {
  Refuses(R"({"year": "2020"})", QUASH_TYPE,
          R"(metadata of row 3: field "year" is "2020", expected a 64-bit integer)");
  Refuses(R"({"year": 2020.0})", QUASH_TYPE,
          R"(metadata of row 3: field "year" is 2020.0, expected a 64-bit integer)");
  Refuses(R"({"year": 9223372036854775808})", QUASH_TYPE,
          R"(metadata of row 3: field "year" is 9223372036854775808, expected a 64-bit integer)");
  Refuses(R"({"year": -9223372036854775809})", QUASH_TYPE,
          R"(metadata of row 3: field "year" is -9223372036854775809, expected a 64-bit integer)");
  Refuses(R"({"year": true})", QUASH_TYPE,
          R"(metadata of row 3: field "year" is true, expected a 64-bit integer)");
  Refuses(R"({"year": [1]})", QUASH_TYPE,
          R"(metadata of row 3: field "year" is an array, expected a 64-bit integer)");
  Refuses(R"({"year": {"a": 1}})", QUASH_TYPE,
          R"(metadata of row 3: field "year" is an object, expected a 64-bit integer)");
  Refuses(R"({"score": "0.5"})", QUASH_TYPE,
          R"(metadata of row 3: field "score" is "0.5", expected a finite number)");
  Refuses(R"({"score": 1e999})", QUASH_TYPE,
          R"(metadata of row 3: field "score" is 1e999, expected a finite number)");
  Refuses(R"({"lang": 5})", QUASH_TYPE,
          R"(metadata of row 3: field "lang" is 5, expected a string)");
  Refuses(R"({"active": 1})", QUASH_TYPE,
          R"(metadata of row 3: field "active" is 1, expected true or false)");
  Refuses(R"({"tags": "a"})", QUASH_TYPE,
          R"(metadata of row 3: field "tags" is "a", expected an array of strings)");
  Refuses(R"({"tags": ["a", 1]})", QUASH_TYPE,
          R"(metadata of row 3: field "tags" lists 1, expected an array of strings)");
  Refuses(R"({"tags": ["a", null]})", QUASH_TYPE,
          R"(metadata of row 3: field "tags" lists null, expected an array of strings)");
  Refuses(R"({"sizes": [1, 2.5]})", QUASH_TYPE,
          R"(metadata of row 3: field "sizes" lists 2.5, expected an array of 64-bit integers)");
  Refuses(
      R"({"sizes": [[1]]})", QUASH_TYPE,
      R"(metadata of row 3: field "sizes" lists an array, expected an array of 64-bit integers)");
  Refuses(
      R"({"sizes": [{}]})", QUASH_TYPE,
      R"(metadata of row 3: field "sizes" lists an object, expected an array of 64-bit integers)");
}

TEST_CASE("an unknown field is named with the nearest, a repeated one is refused") {
  Refuses(R"({"yaer": 1})", QUASH_NOT_FOUND,
          R"(metadata of row 3: no field "yaer" in collection "packages"; did you mean "year"?)");
  Refuses(R"({"Year": 1})", QUASH_NOT_FOUND,
          R"(metadata of row 3: no field "Year" in collection "packages"; did you mean "year"?)");
  Refuses(R"({"": 1})", QUASH_NOT_FOUND,
          R"(metadata of row 3: no field "" in collection "packages"; expected "lang", "year", )"
          R"("score", "active", "tags" or "sizes")");
  Refuses(R"({"year": 1, "lang": "x", "year": 1})", QUASH_INVALID,
          R"(metadata of row 3 has field "year" twice)");
  Refuses(R"({"year": null, "year": 1})", QUASH_INVALID,
          R"(metadata of row 3 has field "year" twice)");
  std::vector<Value> values;
  const Status status = ParseMetadata(R"({"a": 1})", CollectionSpec(), 0, &values);
  CHECK(status.code() == QUASH_NOT_FOUND);
}

TEST_CASE("what is no JSON object is refused") {
  Refuses("[1]", QUASH_INVALID, "metadata of row 3 is an array, expected a JSON object");
  Refuses("null", QUASH_INVALID, "metadata of row 3 is null, expected a JSON object");
  Refuses("5", QUASH_INVALID, "metadata of row 3 is 5, expected a JSON object");
  Refuses("\"x\"", QUASH_INVALID, "metadata of row 3 is \"x\", expected a JSON object");
  const auto refused_at = [](const std::string& json, const std::string& where) {
    std::vector<Value> values;
    const Status status = ParseMetadata(json.c_str(), Spec(), 3, &values);
    CAPTURE(json);
    CAPTURE(status.message());
    CHECK(status.code() == QUASH_INVALID);
    CHECK(status.message().starts_with("metadata of row 3 is not " + where));
  };
  refused_at("", "a valid JSON object: byte 0: ");
  refused_at("{", "a valid JSON object: byte 1: ");
  refused_at("{\"year\": 5", "a valid JSON object: byte 10: ");
  refused_at("{\"year\": 5} x", "a valid JSON object: byte 12: ");
  refused_at("{\"year\": 05}", "a valid JSON object: byte 10: ");
  refused_at("{\"year\": 5,}", "a valid JSON object: byte 11: ");
  refused_at("{year: 5}", "a valid JSON object: byte 1: ");
  refused_at("{'year': 5}", "a valid JSON object: byte 1: ");
  refused_at("{\"score\": NaN}", "a valid JSON object: byte 10: ");
  refused_at("{\"lang\": \"\xC3\"}", "valid UTF-8 at byte 11");
  refused_at("{\"lang\": \"\xED\xA0\x80\"}", "valid UTF-8 at byte 11");
  refused_at("{\"lang\": \"\\ud800\"}", "a valid JSON object: byte ");
  refused_at("{\"l\xFFng\": 1}", "valid UTF-8 at byte 3");
  // Depth costs no stack: the first inner array is refused already.
  refused_at(std::string(500'000, '{'), "a valid JSON object: byte 1: ");
  Refuses(
      "{\"sizes\": " + std::string(500'000, '['), QUASH_TYPE,
      R"(metadata of row 3: field "sizes" lists an array, expected an array of 64-bit integers)");
}

TEST_CASE("formatting leaves nulls out and reads back the same") {
  const CollectionSpec spec = Spec();
  CHECK(FormatMetadata(spec, {}) == "{}");
  CHECK(FormatMetadata(spec, std::vector<Value>(6)) == "{}");
  CHECK(FormatMetadata(spec, {"x"}) == R"({"lang":"x"})");
  CHECK(FormatMetadata(spec, {Value(), int64_t{-5}, 1.0, false, Strings{"a", "b"}, Ints{}}) ==
        R"({"year":-5,"score":1.0,"active":false,"tags":["a","b"],"sizes":[]})");
  CHECK(FormatMetadata(spec, {"\"\\\b\f\n\r\t\x01\x7F/\xC3\xA9"}) ==
        R"({"lang":"\"\\\b\f\n\r\t\u0001\u007f/)"
        "\xC3\xA9\"}");

  std::mt19937_64 random(7);
  for (int i = 0; i < 2000; ++i) {
    double real;
    do {
      const uint64_t bits = random();
      std::memcpy(&real, &bits, sizeof(real));
    } while (!std::isfinite(real));
    std::string text;
    for (int j = 0; j < 6; ++j) text += static_cast<char>(random() % 128);
    const std::vector<Value> values = {text,
                                       static_cast<int64_t>(random()),
                                       real,
                                       random() % 2 == 0,
                                       Strings{text, ""},
                                       Ints{static_cast<int64_t>(random())}};
    const std::string json = FormatMetadata(spec, values);
    CAPTURE(json);
    REQUIRE(Parsed(json) == values);
  }
  for (const double real : {0.0, 5e-324, DBL_MIN, DBL_MAX, -1e15, 1e16, 1e21, 123456789.0}) {
    REQUIRE(std::get<double>(Parsed(FormatMetadata(spec, {Value(), Value(), real}))[2]) == real);
  }
  const std::string minus_zero = FormatMetadata(spec, {Value(), Value(), -0.0});
  CHECK(std::signbit(std::get<double>(Parsed(minus_zero)[2])));
}

TEST_CASE("field names and types are checked") {
  const auto check = [](std::vector<Field> fields) { return CheckFields(fields); };
  CHECK(check({}).ok());
  CHECK(check({{"a", QUASH_FIELD_INT}, {"_b9", QUASH_FIELD_BOOL}, {"A", QUASH_FIELD_INT}}).ok());
  CHECK(check({{"identifier", QUASH_FIELD_INT}, {"nullable", QUASH_FIELD_INT}}).ok());
  for (const char* name : {"", "9a", "a-b", "a b", "\xC3\xA9", "a\n"}) {
    const Status status = check({{name, QUASH_FIELD_INT}});
    CHECK(status.code() == QUASH_INVALID);
    CHECK(status.message() ==
          fmt::format("field name \"{}\" is not valid, expected a letter or _, then letters, "
                      "digits or _",
                      name));
  }
  CHECK(check({{"id", QUASH_FIELD_INT}}).message() == "field name \"id\" is taken by the row's id");
  for (const char* name : {"AND", "or", "Not", "in", "between", "LIKE", "is", "null", "contains",
                           "any", "ALL", "true", "False"}) {
    const Status status = check({{name, QUASH_FIELD_INT}});
    CHECK(status.code() == QUASH_INVALID);
    CHECK(status.message() == fmt::format("field name \"{}\" is a keyword of filters", name));
  }
  CHECK(
      check({{"a", QUASH_FIELD_INT}, {"b", QUASH_FIELD_INT}, {"a", QUASH_FIELD_BOOL}}).message() ==
      "field \"a\" is declared twice");
  CHECK(check({{"a", static_cast<quash_field_type>(6)}}).message() ==
        "field \"a\" has type 6, expected a quash_field_type");
  CHECK(check({{std::string(QUASH_NAME_BYTES_MAX, 'a'), QUASH_FIELD_INT}}).ok());
  CHECK(check({{std::string(QUASH_NAME_BYTES_MAX + 1, 'a'), QUASH_FIELD_INT}}).code() ==
        QUASH_LIMIT);
  std::vector<Field> fields;
  for (unsigned i = 0; i < QUASH_FIELDS_MAX; ++i) {
    fields.push_back({fmt::format("f{}", i), QUASH_FIELD_INT});
  }
  CHECK(CheckFields(fields).ok());
  fields.push_back({"one_more", QUASH_FIELD_INT});
  CHECK(CheckFields(fields).code() == QUASH_LIMIT);
}

TEST_CASE("all fields of a wide collection are found, forwards and backwards") {
  CollectionSpec spec;
  for (unsigned i = 0; i < QUASH_FIELDS_MAX; ++i) {
    spec.fields.push_back({fmt::format("f{}", i), QUASH_FIELD_INT});
  }
  for (const bool backwards : {false, true}) {
    std::string json = "{";
    for (unsigned i = 0; i < QUASH_FIELDS_MAX; ++i) {
      const unsigned f = backwards ? QUASH_FIELDS_MAX - 1 - i : i;
      json += fmt::format("{}\"f{}\":{}", i > 0 ? "," : "", f, f);
    }
    std::vector<Value> values;
    REQUIRE(ParseMetadata((json + "}").c_str(), spec, 0, &values).ok());
    for (unsigned i = 0; i < QUASH_FIELDS_MAX; ++i) CHECK(values[i] == Value(int64_t{i}));
  }
}

}  // namespace
}  // namespace quash
