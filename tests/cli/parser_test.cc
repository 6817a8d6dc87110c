#include "cli/parser.h"

#include <doctest/doctest.h>

#include "cli/error.h"

namespace quash::cli {
namespace {

template <typename T>
T ParseAs(std::string_view text) {
  return std::get<T>(ParseStatement(text));
}

// What the parser says about `text`, and where.
std::pair<std::string, size_t> Complaint(std::string_view text) {
  try {
    ParseStatement(text);
  } catch (const Error& error) {
    return {error.what(), error.offset().value()};
  }
  FAIL("no error for: " << text);
  return {};
}

bool Contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("CREATE COLLECTION") {
  const auto create = ParseAs<CreateCollection>(
      "create collection if not exists \"my docs\" (dim 384, metric = cosine, bits 4) "
      "fields (section STRING, size_kb int, tags string[], \"score\" FLOAT);");
  CHECK(create.name.text == "my docs");
  CHECK(create.if_not_exists);
  REQUIRE(create.options.size() == 3);
  CHECK(create.options[0].name.text == "dim");
  CHECK(create.options[0].value == 384);
  CHECK(create.options[1].value == "cosine");
  REQUIRE(create.fields.size() == 4);
  CHECK(create.fields[1].type == QUASH_FIELD_INT);
  CHECK(create.fields[2].type == QUASH_FIELD_STRING_LIST);
  CHECK(create.fields[3].name.text == "score");
  CHECK(ParseAs<CreateCollection>("CREATE COLLECTION a (dim 2)").fields.empty());
}

TEST_CASE("DROP and ALTER") {
  CHECK(ParseAs<DropCollection>("DROP COLLECTION IF EXISTS a").if_exists);
  CHECK_FALSE(ParseAs<DropCollection>("DROP COLLECTION a").if_exists);
  const auto alter = ParseAs<AddField>("ALTER COLLECTION a ADD FIELD f INT[]");
  CHECK(alter.field.name.text == "f");
  CHECK(alter.field.type == QUASH_FIELD_INT_LIST);
}

TEST_CASE("INSERT takes every kind of value") {
  const auto insert = ParseAs<Insert>(
      "INSERT OR REPLACE INTO a (id, vector, s, i, f, b, n, l, document) VALUES "
      "('x', [0.5, -1, +2e3], 'it''s', -7, 1.5, TRUE, NULL, ['p', 'q'], 'text'), "
      "('y', [1, 2, 3], '', 9223372036854775807, -0.25, false, null, [], NULL)");
  CHECK(insert.replace);
  CHECK(insert.columns.size() == 9);
  REQUIRE(insert.rows.size() == 2);
  CHECK(insert.rows[0].values[1] == Value({0.5, -1, 2000.0}));
  CHECK(insert.rows[0].values[2] == "it's");
  CHECK(insert.rows[0].values[3] == -7);
  CHECK(insert.rows[0].values[5] == true);
  CHECK(insert.rows[0].values[6].is_null());
  CHECK(insert.rows[0].values[7] == Value({"p", "q"}));
  CHECK(insert.rows[1].values[3].get<int64_t>() == INT64_MAX);
  CHECK(insert.rows[1].values[7].empty());
  CHECK(ParseAs<Insert>("INSERT INTO a VALUES (1, [1])").columns.empty());
}

TEST_CASE("integers beyond 64 bits become real, numbers beyond double are refused") {
  const auto insert = ParseAs<Insert>("INSERT INTO a VALUES (9223372036854775808)");
  CHECK(insert.rows[0].values[0].is_number_float());
  CHECK(Contains(Complaint("INSERT INTO a VALUES (1e999)").first, "out of range"));
}

TEST_CASE("SELECT with every clause, in any order") {
  const auto select = ParseAs<Select>(
      "SELECT id, score, \"score\", section FROM docs NEAREST TO [0.1, -0.2] "
      "WHERE section = 'a limit b' AND (size_kb < 5 OR tags CONTAINS 'x') "
      "WITH (exact true, candidates 200, min_score 0.5) LIMIT 7 AFTER (0.25, 'z');");
  CHECK(select.columns.size() == 4);
  CHECK(select.columns[1].IsBuiltin("score"));
  CHECK_FALSE(select.columns[2].IsBuiltin("score"));
  CHECK(select.nearest->vector == std::vector<float>{0.1f, -0.2f});
  CHECK(select.where->text == "section = 'a limit b' AND (size_kb < 5 OR tags CONTAINS 'x')");
  CHECK(select.options.size() == 3);
  CHECK(select.options[0].value == true);
  CHECK(*select.limit == 7);
  CHECK(select.after->score == 0.25);
  CHECK(select.after->id == "z");
  const auto turned = ParseAs<Select>("SELECT * FROM docs LIMIT 3 WHERE a=1 NEAREST TO ID 5");
  CHECK(turned.columns.empty());
  CHECK(turned.where->text == "a=1");
  CHECK(turned.nearest->id == 5);
}

TEST_CASE("filters are passed on as written, with their offset") {
  const std::string text = "SELECT * FROM a WHERE  b  =  'x' -- why\n AND c LIKE '%;%' LIMIT 2";
  const auto select = ParseAs<Select>(text);
  CHECK(select.where->text == "b  =  'x' -- why\n AND c LIKE '%;%'");
  CHECK(text.substr(select.where->offset).starts_with("b  ="));
  CHECK(ParseAs<Delete>("DELETE FROM a WHERE x IN (1, 2);").where.text == "x IN (1, 2)");
}

TEST_CASE("SELECT from files, by id, and counts") {
  const auto file = ParseAs<Select>("SELECT * FROM a NEAREST TO FILE 'q.npy' ROW 3");
  CHECK(file.nearest->kind == Nearest::Kind::kFile);
  CHECK(file.nearest->file == "q.npy");
  CHECK(*file.nearest->row == 3);
  CHECK(ParseAs<Select>("select count(*) from a where TRUE").count);
  CHECK(ParseAs<Select>("SELECT count FROM a").columns[0].text == "count");
  CHECK(ParseAs<Explain>("EXPLAIN SELECT * FROM a").select.collection.text == "a");
  CHECK(ParseAs<Describe>("DESCRIBE \"select\"").collection.text == "select");
  CHECK_NOTHROW(ParseAs<ShowCollections>("show collections ;"));
}

TEST_CASE("options are written with a space, = or =>") {
  const auto select =
      ParseAs<Select>("SELECT * FROM a NEAREST TO ID 1 WITH (recall => 0.95, nprobe = 3, planes 1)");
  REQUIRE(select.options.size() == 3);
  CHECK(select.options[0].name.text == "recall");
  CHECK(select.options[0].value == 0.95);
  CHECK(select.options[1].value == 3);
  CHECK(select.options[2].value == 1);
  CHECK(Contains(Complaint("SELECT * FROM a WITH (recall => => 1)").first, "found =>"));
  CHECK(Complaint("CREATE COLLECTION a (dim 2, DIM 3)") ==
        std::pair<std::string, size_t>{"DIM given twice", 28});
}

TEST_CASE("misspelt keywords are suggested, at their place") {
  using Pair = std::pair<std::string, size_t>;
  CHECK(Complaint("SELECT * FORM a") == Pair{"expected FROM, found FORM; did you mean FROM?", 9});
  CHECK(Contains(Complaint("SELCT * FROM a").first, "did you mean SELECT?"));
  CHECK(Contains(Complaint("SELECT * FROM a WERE b = 1").first, "did you mean WHERE?"));
  CHECK(Contains(Complaint("CREATE COLECTION a").first, "did you mean COLLECTION?"));
  CHECK(Contains(Complaint("CREATE COLLECTION a (dim 2) FIELDS (x STRNG)").first,
                 "did you mean STRING?"));
  CHECK(Complaint("CREATE COLLECTION a (dim 2) FIELDS (x STRNG)").second == 38);
  CHECK(Contains(Complaint("SELECT * FROM").first, "the end of the statement"));
}

TEST_CASE("what is missing or too much is told where it is") {
  CHECK(Contains(Complaint("DELETE FROM a").first, "WHERE TRUE deletes every row"));
  CHECK(
      Contains(Complaint("INSERT INTO a (id, vector) VALUES (1)").first, "1 values for 2 columns"));
  CHECK(Contains(Complaint("INSERT INTO a VALUES (\"x\")").first, "single quotes: 'x'"));
  CHECK(Complaint("SELECT * FROM a LIMIT 1 LIMIT 2").second == 24);
  CHECK(Contains(Complaint("SELECT * FROM a LIMIT -1").first, "a number of rows"));
  CHECK(Contains(Complaint("SELECT * FROM a LIMIT 1.5").first, "a number of rows"));
  CHECK(Contains(Complaint("SELECT * FROM a WHERE").first, "a filter"));
  CHECK(Contains(Complaint("SELECT * FROM a WHERE LIMIT 3").first, "a filter"));
  CHECK(Contains(Complaint("SELECT * FROM a NEAREST TO []").first, "a value"));
  CHECK(Contains(Complaint("SELECT * FROM a NEAREST TO ['x']").first, "must be numbers"));
  CHECK(Contains(Complaint("SELECT * FROM a NEAREST TO [1e300]").first, "float range"));
  CHECK(Contains(Complaint("SHOW COLLECTIONS x").first, "the end of the statement"));
  CHECK(Contains(Complaint("").first, "a statement"));
}

TEST_CASE("type names read back") {
  for (const auto type : {QUASH_FIELD_BOOL, QUASH_FIELD_INT, QUASH_FIELD_FLOAT, QUASH_FIELD_STRING,
                          QUASH_FIELD_INT_LIST, QUASH_FIELD_STRING_LIST}) {
    CHECK(ParseFieldType(FieldTypeName(type)) == type);
  }
  CHECK_THROWS_AS(ParseFieldType("BLOB"), Error);
}

}  // namespace
}  // namespace quash::cli
