// What filters refuse: status, offset and words of the message.
#include <doctest/doctest.h>

#include <memory>
#include <string>

#include "tests/libquashdb/column_segment.h"

namespace quash {
namespace {

CollectionSpec Spec() {
  CollectionSpec spec;
  spec.name = "packages";
  spec.fields = {{"lang", QUASH_FIELD_STRING},
                 {"year", QUASH_FIELD_INT},
                 {"score", QUASH_FIELD_FLOAT},
                 {"active", QUASH_FIELD_BOOL},
                 {"tags", QUASH_FIELD_STRING_LIST}};
  return spec;
}

Status Parse(const std::string& text) {
  std::shared_ptr<const Filter> filter;
  return Filter::Parse(text, Spec(), &filter);
}

// `mark` in the text is where the error is: "year > ^'x'".
void Refuses(const std::string& marked, quash_status code, const std::string& message) {
  const size_t offset = marked.find('^');
  REQUIRE(offset != std::string::npos);
  const std::string text = marked.substr(0, offset) + marked.substr(offset + 1);
  const Status status = Parse(text);
  CAPTURE(text);
  CHECK(status.code() == code);
  CHECK(status.offset() == static_cast<long>(offset));
  CHECK(status.message() == fmt::format("filter, byte {}: {}", offset, message));
}

TEST_CASE("syntax errors say where and what was expected") {
  Refuses("^", QUASH_SYNTAX, "the filter is empty");
  Refuses("  -- nothing^", QUASH_SYNTAX, "the filter is empty");
  Refuses("year = ^", QUASH_SYNTAX, "expected a literal, found the end");
  Refuses("year = 5 ^year = 6", QUASH_SYNTAX, "expected AND, OR or the end, found \"year\"");
  Refuses("year = 5 AND ^", QUASH_SYNTAX, "expected a field's name, found the end");
  Refuses("year >^> 3", QUASH_SYNTAX, "expected a literal, found \">\"");
  Refuses("(year = 5^", QUASH_SYNTAX, "expected AND, OR or ), found the end");
  Refuses("year = 5^)", QUASH_SYNTAX, "expected AND, OR or the end, found \")\"");
  Refuses("^5 < year", QUASH_SYNTAX, "expected a field's name, found \"5\"");
  Refuses("^'lang' = 'en'", QUASH_SYNTAX,
          "expected a field's name (names take \"double\" quotes, text takes 'single' ones), found "
          "'lang'");
  Refuses("lang = ^en", QUASH_SYNTAX,
          "expected a literal (text takes 'single' quotes), found \"en\"");
  Refuses("lang = ^\"en\"", QUASH_SYNTAX,
          "expected a literal (text takes 'single' quotes), found \"en\"");
  Refuses("lang = ^NULL", QUASH_SYNTAX,
          "NULL equals nothing, not even NULL; use IS NULL or IS NOT NULL");
  Refuses("lang IN ('en', ^NULL)", QUASH_SYNTAX,
          "NULL equals nothing, not even NULL; use IS NULL or IS NOT NULL");
  Refuses("lang IN ^'en'", QUASH_SYNTAX, "expected (, found 'en'");
  Refuses("lang IN (^)", QUASH_SYNTAX, "expected a literal, found \")\"");
  Refuses("lang IN ('en' ^'de')", QUASH_SYNTAX, "expected , or ), found 'de'");
  Refuses("year BETWEEN 1 ^OR 2", QUASH_SYNTAX,
          "expected AND and the upper bound of BETWEEN, found \"OR\"");
  Refuses("lang IS ^5", QUASH_SYNTAX, "expected NULL or NOT NULL, found \"5\"");
  Refuses("lang IS NOT ^TRUE", QUASH_SYNTAX, "expected NULL, found \"TRUE\"");
  Refuses("lang NOT ^= 'en'", QUASH_SYNTAX, "expected IN, BETWEEN, LIKE or CONTAINS, found \"=\"");
  Refuses("lang ^'en'", QUASH_SYNTAX,
          "expected =, !=, <, <=, >, >=, IN, BETWEEN, LIKE, CONTAINS, IS or NOT, found 'en'");
  Refuses("active ^AND year = 5", QUASH_SYNTAX,
          "expected an operator, as in \"active = TRUE\", found \"AND\"");
  Refuses("tags CONTAINS ^('a')", QUASH_SYNTAX,
          "expected a literal, or ANY or ALL before (, found \"(\"");
  Refuses("year = -^'x'", QUASH_SYNTAX, "expected a number, found 'x'");
  Refuses("year = ^5x", QUASH_SYNTAX, "a number runs into a name");
  Refuses("lang = ^'en", QUASH_SYNTAX, "text without closing '");
  Refuses("lang = ^'en''", QUASH_SYNTAX, "text without closing '");
  Refuses("^\"lang = 'en'", QUASH_SYNTAX, "name without closing \"");
  Refuses("year = 5 ^/* six", QUASH_SYNTAX, "comment without closing */");
  Refuses("year = 5^;", QUASH_SYNTAX, "unexpected character ;");
  Refuses("^\xC3\xA9 = 5", QUASH_SYNTAX,
          "unexpected byte 0xc3; names outside ASCII go in \"quotes\", text in 'quotes'");
  Refuses("lang = ^'\xC3'", QUASH_SYNTAX, "text is not valid UTF-8");
  Refuses("year = 5 ^= 6", QUASH_SYNTAX, "expected AND, OR or the end, found \"=\"");
}

TEST_CASE("literals and operators must fit the field") {
  Refuses("year = ^'2020'", QUASH_TYPE, "field \"year\" (int) takes a number, not '2020'");
  Refuses("year IN (1, ^TRUE)", QUASH_TYPE, "field \"year\" (int) takes a number, not \"TRUE\"");
  Refuses("lang = ^5", QUASH_TYPE,
          "field \"lang\" (string) takes text in 'single' quotes, not \"5\"");
  Refuses("lang = ^-5", QUASH_TYPE,
          "field \"lang\" (string) takes text in 'single' quotes, not a number");
  Refuses("lang LIKE ^5", QUASH_TYPE,
          "field \"lang\" (string) takes text in 'single' quotes, not \"5\"");
  Refuses("active = ^1", QUASH_TYPE, "field \"active\" (bool) takes TRUE or FALSE, not \"1\"");
  Refuses("id = ^'x'", QUASH_TYPE, "\"id\" (int) takes a number, not 'x'");
  Refuses("tags CONTAINS ^5", QUASH_TYPE,
          "field \"tags\" (string[]) takes text in 'single' quotes, not \"5\"");
  Refuses("score BETWEEN 0 AND ^'x'", QUASH_TYPE,
          "field \"score\" (float) takes a number, not 'x'");
  Refuses("year ^LIKE '20%'", QUASH_TYPE,
          "LIKE does not apply to field \"year\" (int); LIKE is for text");
  Refuses("tags ^LIKE 'a%'", QUASH_TYPE,
          "LIKE does not apply to field \"tags\" (string[]); lists take CONTAINS");
  Refuses("tags ^= 'a'", QUASH_TYPE,
          "= does not apply to field \"tags\" (string[]); lists take CONTAINS");
  Refuses("tags NOT ^IN ('a')", QUASH_TYPE,
          "IN does not apply to field \"tags\" (string[]); lists take CONTAINS");
  Refuses("lang ^CONTAINS 'e'", QUASH_TYPE,
          "CONTAINS does not apply to field \"lang\" (string); to seek inside text use LIKE "
          "'%text%'");
  Refuses("year ^CONTAINS 5", QUASH_TYPE,
          "CONTAINS does not apply to field \"year\" (int); CONTAINS is for lists");
  Refuses("active ^< TRUE", QUASH_TYPE,
          "< does not apply to field \"active\" (bool); bools take = and !=");
  Refuses("active ^BETWEEN FALSE AND TRUE", QUASH_TYPE,
          "BETWEEN does not apply to field \"active\" (bool); bools take = and !=");
}

TEST_CASE("an unknown field is named with the nearest one") {
  Refuses("year = 5 OR ^yaer = 6", QUASH_NOT_FOUND,
          "no field \"yaer\" in collection \"packages\"; did you mean \"year\"?");
  Refuses("^\"Lang\" = 'en'", QUASH_NOT_FOUND,
          "no field \"Lang\" in collection \"packages\"; did you mean \"lang\"?");
  Refuses("^document = 'en'", QUASH_NOT_FOUND,
          "no field \"document\" in collection \"packages\"; expected \"id\", \"lang\", \"year\", "
          "\"score\", \"active\" or \"tags\"");
}

TEST_CASE("nesting, patterns and texts are bounded") {
  const auto nested = [](size_t depth) {
    return std::string(depth, '(') + "year = 5" + std::string(depth, ')');
  };
  CHECK(Parse(nested(QUASH_FILTER_DEPTH_MAX)).ok());
  const Status deep = Parse(nested(QUASH_FILTER_DEPTH_MAX + 1));
  CHECK(deep.code() == QUASH_LIMIT);
  CHECK(deep.offset() == QUASH_FILTER_DEPTH_MAX);
  CHECK(deep.message() == "filter, byte 64: more than 64 parentheses deep");
  CHECK(Parse(nested(QUASH_FILTER_BYTES_MAX / 2 - 8)).code() == QUASH_LIMIT);

  // Depth counts nesting, not length.
  std::string text = "(year = 5)";
  while (text.size() < 100'000) text += " AND NOT (year = 6)";
  CHECK(Parse(text).ok());
  std::string nots;
  while (nots.size() < 100'000) nots += "NOT ";
  CHECK(Parse(nots + "year = 5").ok());

  text = "year = 5";
  text.resize(QUASH_FILTER_BYTES_MAX, ' ');
  CHECK(Parse(text).ok());
  text += ' ';
  CHECK(Parse(text).code() == QUASH_LIMIT);

  const std::string longest(50'000, 'x');
  CHECK(Parse("lang LIKE '" + longest + "'").ok());
  const Status pattern = Parse("lang LIKE '" + longest + "x'");
  CHECK(pattern.code() == QUASH_LIMIT);
  CHECK(pattern.offset() == 10);
}

}  // namespace
}  // namespace quash
