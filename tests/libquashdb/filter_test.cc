// Every operator of filters, null logic and numbers, on a table small enough to
// read.
#include "libquashdb/filter.h"

#include <doctest/doctest.h>

#include <cfloat>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "tests/libquashdb/column_segment.h"

namespace quash {
namespace {

constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

using Strings = std::vector<std::string>;
using Ints = std::vector<int64_t>;

CollectionSpec Spec(quash_id_type id_type = QUASH_ID_INT64) {
  CollectionSpec spec;
  spec.name = "packages";
  spec.id_type = id_type;
  spec.fields = {{"lang", QUASH_FIELD_STRING},      {"year", QUASH_FIELD_INT},
                 {"score", QUASH_FIELD_FLOAT},      {"active", QUASH_FIELD_BOOL},
                 {"tags", QUASH_FIELD_STRING_LIST}, {"sizes", QUASH_FIELD_INT_LIST}};
  return spec;
}

const std::vector<std::vector<Value>>& Table() {
  static const auto* rows = new std::vector<std::vector<Value>>{
      /* 0 */ {"en", int64_t{2020}, 0.5, true, Strings{"net", "web"}, Ints{1, 2}},
      /* 1 */ {"de", int64_t{2021}, 1.0, false, Strings{"web"}, Ints{2, 2, 3}},
      /* 2 */ {"EN", int64_t{-1}, -2.25, true, Strings{}, Ints{}},
      /* 3 */ {},
      /* 4 */ {"", kMax, 1e300, Value(), Strings{"", "net", "net", "db"}, Ints{kMin, kMax}},
      /* 5 */ {"libfoo", kMin, -0.0, false, Value(), Ints{7}},
      /* 6 */
      {"\xC3\xA9t\xC3\xA9", int64_t{0}, 9007199254740992.0, true, Strings{"\xC3\xA9"}, Value()}};
  return *rows;
}

// Rows of the table that match, as in "0 2 5".
std::string Rows(const std::string& text) {
  const CollectionSpec spec = Spec();
  std::vector<Id> ids;
  for (size_t r = 0; r < Table().size(); ++r) ids.emplace_back(static_cast<int64_t>(10 * r));
  const ColumnSegment segment(spec, Table(), ids);
  std::shared_ptr<const Filter> filter;
  const Status parsed = Filter::Parse(text, spec, &filter);
  if (!parsed.ok()) return parsed.message();
  CHECK(filter->text() == text);
  std::vector<uint32_t> rows = AllRows(segment);
  const Status applied = filter->Apply(segment, &rows);
  if (!applied.ok()) return applied.message();
  std::string matching;
  for (size_t r = 0; r < segment.rows(); ++r) {
    if (rows[0] >> r & 1) matching += fmt::format("{}{}", matching.empty() ? "" : " ", r);
  }
  CHECK((rows[0] >> segment.rows()) == 0);
  return matching;
}

TEST_CASE("strings compare by bytes") {
  CHECK(Rows("lang = 'en'") == "0");
  CHECK(Rows("lang == 'en'") == "0");
  CHECK(Rows("lang != 'en'") == "1 2 4 5 6");
  CHECK(Rows("lang <> 'en'") == "1 2 4 5 6");
  CHECK(Rows("lang = ''") == "4");
  CHECK(Rows("lang < 'de'") == "2 4");
  CHECK(Rows("lang <= 'de'") == "1 2 4");
  CHECK(Rows("lang > 'en'") == "5 6");
  CHECK(Rows("lang >= 'en'") == "0 5 6");
  CHECK(Rows("lang < ''") == "");
  CHECK(Rows("lang <= ''") == "4");
  CHECK(Rows("lang >= ''") == "0 1 2 4 5 6");
  CHECK(Rows("lang < 'deX'") == "1 2 4");
  CHECK(Rows("lang BETWEEN 'EN' AND 'en'") == "0 1 2");
  CHECK(Rows("lang NOT BETWEEN 'EN' AND 'en'") == "4 5 6");
  CHECK(Rows("lang BETWEEN 'en' AND 'EN'") == "");
  CHECK(Rows("lang IN ('en', 'de', 'fr', 'de')") == "0 1");
  CHECK(Rows("lang NOT IN ('en', 'de')") == "2 4 5 6");
  CHECK(Rows("lang = '\xC3\xA9t\xC3\xA9'") == "6");
}

TEST_CASE("integers compare exactly, with decimals too") {
  CHECK(Rows("year = 2020") == "0");
  CHECK(Rows("year != 2020") == "1 2 4 5 6");
  CHECK(Rows("year < 0") == "2 5");
  CHECK(Rows("year <= 0") == "2 5 6");
  CHECK(Rows("year > 2020") == "1 4");
  CHECK(Rows("year >= 2020") == "0 1 4");
  CHECK(Rows("year = -1") == "2");
  CHECK(Rows("year = - 1") == "2");
  CHECK(Rows("year = +2020") == "0");
  CHECK(Rows("year BETWEEN -1 AND 2020") == "0 2 6");
  CHECK(Rows("year NOT BETWEEN -1 AND 2020") == "1 4 5");
  CHECK(Rows("year BETWEEN 2021 AND 2020") == "");
  CHECK(Rows("NOT year BETWEEN 2021 AND 2020") == "0 1 2 4 5 6");
  CHECK(Rows("year IN (0, 2021, 5)") == "1 6");
  CHECK(Rows("year NOT IN (0, 2021, 5)") == "0 2 4 5");

  CHECK(Rows("year = 2020.0") == "0");
  CHECK(Rows("year = 202e1") == "0");
  CHECK(Rows("year = 20200e-1") == "0");
  CHECK(Rows("year = 2020.5") == "");
  CHECK(Rows("year != 2020.5") == "0 1 2 4 5 6");
  CHECK(Rows("year > 2020.5") == "1 4");
  CHECK(Rows("year >= 2020.5") == "1 4");
  CHECK(Rows("year < 2020.5") == "0 2 5 6");
  CHECK(Rows("year <= 2020.5") == "0 2 5 6");
  CHECK(Rows("year < -0.5") == "2 5");
  CHECK(Rows("year > -.5") == "0 1 4 6");
  CHECK(Rows("year < -1.5") == "5");
  CHECK(Rows("year BETWEEN -1.5 AND 0.5") == "2 6");
  CHECK(Rows("year IN (2020.5, 2021.0)") == "1");
}

TEST_CASE("the ends of int64") {
  CHECK(Rows("year = 9223372036854775807") == "4");
  CHECK(Rows("year = 9223372036854775806.99") == "");
  CHECK(Rows("year > 9223372036854775806.99") == "4");
  CHECK(Rows("year > 9223372036854775807") == "");
  CHECK(Rows("year >= 9223372036854775807.5") == "");
  CHECK(Rows("year < 9223372036854775807.5") == "0 1 2 4 5 6");
  CHECK(Rows("year <= 9223372036854775808") == "0 1 2 4 5 6");
  CHECK(Rows("year = 9223372036854775808") == "");
  CHECK(Rows("year != 9223372036854775808") == "0 1 2 4 5 6");
  CHECK(Rows("year >= 1e30") == "");
  CHECK(Rows("year < 1e30") == "0 1 2 4 5 6");
  CHECK(Rows("year BETWEEN 1e30 AND 1e31") == "");
  CHECK(Rows("year BETWEEN -1e31 AND -1e30") == "");
  CHECK(Rows("year BETWEEN -1e999 AND 1e999") == "0 1 2 4 5 6");
  CHECK(Rows("year = -9223372036854775808") == "5");
  CHECK(Rows("year <= -9223372036854775808") == "5");
  CHECK(Rows("year < -9223372036854775808") == "");
  CHECK(Rows("year < -9223372036854775807.5") == "5");
  CHECK(Rows("year > -9223372036854775808.5") == "0 1 2 4 5 6");
  CHECK(Rows("year > -1e999") == "0 1 2 4 5 6");
  CHECK(Rows("year IN (-9223372036854775808)") == "5");
  CHECK(Rows("year NOT IN (9223372036854775807, 9223372036854775808)") == "0 1 2 5 6");
  CHECK(Rows("year = 1e-999") == "");
  CHECK(Rows("year = 0e999") == "6");
  CHECK(Rows("year = 0.000e-5") == "6");
  CHECK(Rows("year = 0002020") == "0");
  CHECK(Rows("year = 0.000000000000000000000000000002020e33") == "0");
  CHECK(Rows("year > 1e-99999999999999999999") == "0 1 4");
  CHECK(Rows("year < 1e99999999999999999999") == "0 1 2 4 5 6");
}

TEST_CASE("floats compare exactly, with integers too") {
  CHECK(Rows("score = 0.5") == "0");
  CHECK(Rows("score = .5") == "0");
  CHECK(Rows("score = 5e-1") == "0");
  CHECK(Rows("score = 1") == "1");
  CHECK(Rows("score != 1") == "0 2 4 5 6");
  CHECK(Rows("score = 0") == "5");
  CHECK(Rows("score = -0.0") == "5");
  CHECK(Rows("score IN (0.0, 0.5)") == "0 5");
  CHECK(Rows("score NOT IN (0, 0.5, 1)") == "2 4 6");
  CHECK(Rows("score < 0") == "2");
  CHECK(Rows("score <= 0") == "2 5");
  CHECK(Rows("score > 0.5") == "1 4 6");
  CHECK(Rows("score >= 0.5") == "0 1 4 6");
  CHECK(Rows("score BETWEEN -2.25 AND 0.5") == "0 2 5");
  CHECK(Rows("score > -1e999 AND score < 1e999") == "0 1 2 4 5 6");
  CHECK(Rows("score = 1e999") == "");
  CHECK(Rows("score > 1e999") == "");
  CHECK(Rows("score = 1e300") == "4");
  // 2^53 is stored; 2^53 + 1 is no double and rounds to it.
  CHECK(Rows("score = 9007199254740992") == "6");
  CHECK(Rows("score = 9007199254740993") == "");
  CHECK(Rows("score != 9007199254740993") == "0 1 2 4 5 6");
  CHECK(Rows("score < 9007199254740993") == "0 1 2 5 6");
  CHECK(Rows("score <= 9007199254740993") == "0 1 2 5 6");
  CHECK(Rows("score > 9007199254740993") == "4");
  CHECK(Rows("score >= 9007199254740993") == "4");
  CHECK(Rows("score > 9007199254740991") == "4 6");
  CHECK(Rows("score IN (9007199254740993)") == "");
  CHECK(Rows("score < 9223372036854775807") == "0 1 2 5 6");
}

TEST_CASE("bools") {
  CHECK(Rows("active = TRUE") == "0 2 6");
  CHECK(Rows("active = false") == "1 5");
  CHECK(Rows("active != TRUE") == "1 5");
  CHECK(Rows("active IN (TRUE)") == "0 2 6");
  CHECK(Rows("active IN (TRUE, FALSE)") == "0 1 2 5 6");
  CHECK(Rows("active NOT IN (TRUE, FALSE)") == "");
}

TEST_CASE("LIKE on a column") {
  CHECK(Rows("lang LIKE 'en'") == "0 2");
  CHECK(Rows("lang LIKE 'lib%'") == "5");
  CHECK(Rows("lang LIKE '%O%'") == "5");
  CHECK(Rows("lang LIKE '__'") == "0 1 2");
  CHECK(Rows("lang LIKE '_t_'") == "6");
  CHECK(Rows("lang LIKE '%'") == "0 1 2 4 5 6");
  CHECK(Rows("lang LIKE ''") == "4");
  CHECK(Rows("lang NOT LIKE '%n'") == "1 4 5 6");
}

TEST_CASE("lists") {
  CHECK(Rows("tags CONTAINS 'web'") == "0 1");
  CHECK(Rows("tags CONTAINS ''") == "4");
  CHECK(Rows("tags CONTAINS 'none'") == "");
  CHECK(Rows("NOT tags CONTAINS 'web'") == "2 4 6");
  CHECK(Rows("tags NOT CONTAINS 'web'") == "2 4 6");
  CHECK(Rows("tags CONTAINS ANY ('web', 'db')") == "0 1 4");
  CHECK(Rows("tags CONTAINS ANY ('x', 'y')") == "");
  CHECK(Rows("tags CONTAINS ALL ('web', 'net')") == "0");
  CHECK(Rows("tags CONTAINS ALL ('net', 'net')") == "0 4");
  CHECK(Rows("tags CONTAINS ALL ('net', 'db', '')") == "4");
  CHECK(Rows("tags CONTAINS ALL ('net', 'x')") == "");
  CHECK(Rows("NOT tags CONTAINS ALL ('net', 'x')") == "0 1 2 4 6");
  CHECK(Rows("sizes CONTAINS 2") == "0 1");
  CHECK(Rows("sizes CONTAINS 2.0") == "0 1");
  CHECK(Rows("sizes CONTAINS 2.5") == "");
  CHECK(Rows("NOT sizes CONTAINS 2.5") == "0 1 2 4 5");
  CHECK(Rows("sizes CONTAINS ANY (3, 7, 2.5)") == "1 5");
  CHECK(Rows("sizes CONTAINS ALL (2, 3)") == "1");
  CHECK(Rows("sizes CONTAINS ALL (2, 2.0)") == "0 1");
  CHECK(Rows("sizes CONTAINS ALL (2, 2.5)") == "");
  CHECK(Rows("sizes CONTAINS -9223372036854775808") == "4");
  CHECK(Rows("sizes CONTAINS ALL (9223372036854775807, -9223372036854775808)") == "4");
  CHECK(Rows("sizes CONTAINS 9223372036854775808") == "");
}

TEST_CASE("null is unknown, and unknown does not match") {
  CHECK(Rows("lang IS NULL") == "3");
  CHECK(Rows("lang IS NOT NULL") == "0 1 2 4 5 6");
  CHECK(Rows("NOT lang IS NULL") == "0 1 2 4 5 6");
  CHECK(Rows("active IS NULL") == "3 4");
  CHECK(Rows("tags IS NULL") == "3 5");
  CHECK(Rows("sizes IS NOT NULL") == "0 1 2 4 5");
  CHECK(Rows("NOT lang = 'en'") == "1 2 4 5 6");
  CHECK(Rows("NOT (lang = 'en' AND TRUE)") == "1 2 4 5 6");
  CHECK(Rows("NOT (active = TRUE AND FALSE)") == "0 1 2 3 4 5 6");  // unknown AND false
  CHECK(Rows("active = TRUE OR TRUE") == "0 1 2 3 4 5 6");          // unknown OR true
  CHECK(Rows("NOT (active = TRUE OR FALSE)") == "1 5");             // unknown OR false
  CHECK(Rows("active = TRUE OR NOT active = TRUE") == "0 1 2 5 6");
  CHECK(Rows("active = TRUE OR active IS NULL") == "0 2 3 4 6");
}

TEST_CASE("AND, OR, NOT and parentheses") {
  CHECK(Rows("TRUE") == "0 1 2 3 4 5 6");
  CHECK(Rows("FALSE") == "");
  CHECK(Rows("NOT FALSE") == "0 1 2 3 4 5 6");
  CHECK(Rows("lang = 'de' OR lang = 'en' AND year = 0") == "1");
  CHECK(Rows("(lang = 'de' OR lang = 'en') AND year = 2020") == "0");
  CHECK(Rows("NOT lang = 'de' AND year = 2020") == "0");
  CHECK(Rows("NOT (lang = 'de' OR year = 2020)") == "2 4 5 6");
  CHECK(Rows("NOT (lang = 'de' AND year = 2020)") == "0 1 2 4 5 6");
  CHECK(Rows("NOT NOT lang = 'de'") == "1");
  CHECK(Rows("not not not lang = 'de'") == "0 2 4 5 6");
  CHECK(Rows("((((lang = 'de'))))") == "1");
  CHECK(Rows("lang='de'or(year=0)and(TRUE)") == "1 6");
  CHECK(Rows("year BETWEEN 0 AND 2020 AND lang = 'en'") == "0");
}

TEST_CASE("blanks, comments, quoted names and the case of keywords") {
  CHECK(Rows("\t lang\n=\r\n'en' ") == "0");
  CHECK(Rows("lang = 'en' -- or 'de'\n OR lang = 'de' -- the end") == "0 1");
  CHECK(Rows("lang /* the * language */ = 'en'") == "0");
  CHECK(Rows("\"lang\" = 'en'") == "0");
  CHECK(Rows("lang iN ('en') oR lang iS nUlL") == "0 3");
}

TEST_CASE("id is a field") {
  CHECK(Rows("id = 20") == "2");
  CHECK(Rows("ID > 40") == "5 6");
  CHECK(Rows("\"id\" IN (0, 10, 11)") == "0 1");
  CHECK(Rows("id != 20.0") == "0 1 3 4 5 6");
  CHECK(Rows("id BETWEEN 15 AND 35") == "2 3");
  CHECK(Rows("id IS NULL") == "");
  CHECK(Rows("id IS NOT NULL AND lang IS NULL") == "3");
}

TEST_CASE("string ids") {
  const CollectionSpec spec = Spec(QUASH_ID_STRING);
  const std::vector<std::vector<Value>> values(4);
  const ColumnSegment segment(spec, values, {"b", "a", "lib c", "\xC3\xA9"});
  const auto matching = [&](const char* text) {
    std::shared_ptr<const Filter> filter;
    const Status parsed = Filter::Parse(text, spec, &filter);
    REQUIRE_MESSAGE(parsed.ok(), parsed.message());
    std::vector<uint32_t> rows = AllRows(segment);
    REQUIRE(filter->Apply(segment, &rows).ok());
    return rows[0];
  };
  CHECK(matching("id = 'a'") == 0b0010);
  CHECK(matching("id != 'a'") == 0b1101);
  CHECK(matching("id < 'b'") == 0b0010);
  CHECK(matching("id <= 'b'") == 0b0011);
  CHECK(matching("id > 'b'") == 0b1100);
  CHECK(matching("id >= 'b'") == 0b1101);
  CHECK(matching("id BETWEEN 'a' AND 'b'") == 0b0011);
  CHECK(matching("id IN ('a', 'lib c', 'x')") == 0b0110);
  CHECK(matching("id NOT IN ('a', 'lib c', 'x')") == 0b1001);
  CHECK(matching("id LIKE 'LIB%'") == 0b0100);
  CHECK(matching("id NOT LIKE '_'") == 0b0100);
  CHECK(matching("id IS NOT NULL") == 0b1111);
}

TEST_CASE("a field may be called like id in another case, and hides it") {
  CollectionSpec spec = Spec();
  spec.fields = {{"ID", QUASH_FIELD_STRING}};
  const ColumnSegment segment(spec, {{"x"}, {"y"}}, {int64_t{1}, int64_t{2}});
  std::shared_ptr<const Filter> filter;
  REQUIRE(Filter::Parse("ID = 'x' OR id = 2", spec, &filter).ok());
  std::vector<uint32_t> rows = AllRows(segment);
  REQUIRE(filter->Apply(segment, &rows).ok());
  CHECK(rows[0] == 0b11);
}

TEST_CASE("rows that are of no interest stay out, and unneeded columns unread") {
  const CollectionSpec spec = Spec();
  const ColumnSegment segment(spec, Table(), std::vector<Id>(Table().size(), int64_t{1}));
  std::shared_ptr<const Filter> filter;
  REQUIRE(Filter::Parse("lang IS NOT NULL OR year = 0", spec, &filter).ok());
  std::vector<uint32_t> rows = {0b0000110};
  REQUIRE(filter->Apply(segment, &rows).ok());
  CHECK(rows[0] == 0b0000110);
  CHECK(segment.columns_read() == 1);
  REQUIRE(Filter::Parse("year = 5 AND lang = 'en' AND (tags IS NULL)", spec, &filter).ok());
  rows = AllRows(segment);
  REQUIRE(filter->Apply(segment, &rows).ok());
  CHECK(rows[0] == 0);
  CHECK(segment.columns_read() == 2);
}

TEST_CASE("a column of nulls, and columns that fail or do not fit") {
  const CollectionSpec spec = Spec();
  ColumnSegment segment(spec, Table(), std::vector<Id>(Table().size(), int64_t{1}));
  const size_t n = segment.rows();
  const auto apply = [&](const char* text, uint32_t* matching) {
    std::shared_ptr<const Filter> filter;
    REQUIRE(Filter::Parse(text, spec, &filter).ok());
    std::vector<uint32_t> rows = AllRows(segment);
    const Status status = filter->Apply(segment, &rows);
    *matching = rows[0];
    return status;
  };
  uint32_t rows = 0;
  for (size_t f = 0; f < spec.fields.size(); ++f) {
    segment.Replace(f, Column::Nulls(spec.fields[f].type, n));
  }
  for (const char* text :
       {"lang = 'en'", "lang != 'en'", "lang LIKE '%'", "lang IN ('en')", "year != 1",
        "year NOT IN (1)", "score < 1", "score NOT IN (1)", "active = FALSE",
        "NOT tags CONTAINS 'x'", "NOT sizes CONTAINS ALL (1, 2)", "lang IS NOT NULL"}) {
    CAPTURE(text);
    REQUIRE(apply(text, &rows).ok());
    CHECK(rows == 0);
  }
  segment.Replace(1, Column::Nulls(QUASH_FIELD_INT, n + 1));
  CHECK(apply("year = 1", &rows).code() == QUASH_CORRUPT);
  segment.Replace(1, Column::Nulls(QUASH_FIELD_STRING, n));
  CHECK(apply("year = 1", &rows).code() == QUASH_CORRUPT);
  segment.FailColumn(0);
  CHECK(apply("year IS NULL OR (lang = 'x' OR NOT lang = 'y')", &rows).ok());
  CHECK(apply("year IS NOT NULL OR (lang = 'x' AND TRUE)", &rows).code() == QUASH_IO);
}

}  // namespace
}  // namespace quash
