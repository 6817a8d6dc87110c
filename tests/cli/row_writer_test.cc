#include "cli/row_writer.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "cli/error.h"

namespace quash::cli {
namespace {

std::string Write(const WriterOptions& options, const std::vector<std::string>& columns,
                  const std::vector<std::vector<Cell>>& rows) {
  std::string out;
  const auto writer = MakeRowWriter(options, [&](std::string_view text) { out += text; });
  writer->Begin(columns);
  for (const auto& row : rows) writer->Add(row);
  writer->End();
  return out;
}

WriterOptions In(Mode mode) {
  WriterOptions options;
  options.mode = mode;
  return options;
}

const std::vector<std::vector<Cell>> kRows = {
    {Cell::Text("a"), Cell::Real(0.5f), Cell::Integer(7)},
    {Cell::Text("日本"), Cell::Null(), Cell::Integer(-12)}};
const std::vector<std::string> kColumns = {"id", "score", "n"};

TEST_CASE("tables align wide characters and put numbers to the right") {
  CHECK(Write(In(Mode::kTable), kColumns, kRows) ==
        "id     score    n\n"
        "----  ------  ---\n"
        "a     0.5000    7\n"
        "日本          -12\n");
}

TEST_CASE("tables fit the terminal by cutting the widest columns") {
  WriterOptions options = In(Mode::kTable);
  options.width = 20;
  CHECK(Write(options, {"id", "text"}, {{Cell::Text("x"), Cell::Text(std::string(40, 'y'))}}) ==
        "id  text\n--  ----------------\nx   " + std::string(15, 'y') + "…\n");
}

TEST_CASE("a screen too narrow for all columns shows the first, and numbers whole") {
  WriterOptions options = In(Mode::kTable);
  options.width = 24;
  CHECK(Write(options, {"id", "text", "n", "last"},
              {{Cell::Text("x"), Cell::Text(std::string(40, 'y')), Cell::Integer(123456789),
                Cell::Text("zzzz")}}) ==
        "id  text               n\n"
        "--  ---------  ---------\n"
        "x   yyyyyyyy…  123456789\n"
        "not shown: last (.mode\nline shows all)\n");
}

TEST_CASE("columns after emoji of uncertain width are placed by number") {
  WriterOptions options = In(Mode::kTable);
  options.width = 80;
  const std::string flag = "\U0001F1E9\U0001F1EA";
  const std::string table =
      Write(options, {"a", "b"}, {{Cell::Text(flag + "\u200D"), Cell::Text("x")},
                                  {Cell::Text("日本"), Cell::Text("y")}});
  CHECK(table.find("日本  y\n") != std::string::npos);
  options.width = 0;
  const std::string heart = "\u2764\uFE0F";
  CHECK(Write(options, {"a", "b"}, {{Cell::Text(heart), Cell::Text("x")}}).find(heart + "  x") !=
        std::string::npos);
  options.width = 80;
  CHECK(Write(options, {"a", "b"}, {{Cell::Text(heart), Cell::Text("x")}})
            .find(heart + "  \033[5Gx") != std::string::npos);
}

TEST_CASE("headers can be left out and NULL shown as text") {
  WriterOptions options = In(Mode::kTable);
  options.headers = false;
  options.null_text = "NULL";
  CHECK(Write(options, kColumns, {{Cell::Text("a"), Cell::Null(), Cell::Integer(1)}}) ==
        "a  NULL  1\n");
}

TEST_CASE("an empty table still has its head") {
  CHECK(Write(In(Mode::kTable), {"id"}, {}) == "id\n--\n");
}

TEST_CASE("tables show a hint of a vector, JSON all of it") {
  std::string vector = "[0.123456789";
  for (int i = 0; i < 20; ++i) vector += ",0.25";
  vector += "]";
  const std::string table = Write(In(Mode::kTable), {"v"}, {{Cell::Json(vector)}});
  CHECK(table.find("[0.1235, 0.2500, 0.2500, … 21]") != std::string::npos);
  CHECK(Write(In(Mode::kJson), {"v"}, {{Cell::Json(vector)}}) == "[{\"v\":" + vector + "}]\n");
}

TEST_CASE("JSON is valid and exact") {
  const std::string text = Write(In(Mode::kJson), kColumns, kRows);
  const auto json = nlohmann::json::parse(text);
  CHECK(json[0]["score"] == 0.5);
  CHECK(json[1]["score"].is_null());
  CHECK(json[1]["id"] == "日本");
  CHECK(json[1]["n"] == -12);
  CHECK(Write(In(Mode::kJson), kColumns, {}) == "[]\n");
  const auto broken =
      nlohmann::json::parse(Write(In(Mode::kJson), {"q\"k"}, {{Cell::Text("a\xFF\n\"")}}));
  CHECK(broken[0]["q\"k"] == "a\xEF\xBF\xBD\n\"");
}

TEST_CASE("CSV quotes what needs it") {
  CHECK(
      Write(In(Mode::kCsv), {"a", "b"},
            {{Cell::Text("x,y"), Cell::Null()}, {Cell::Text("say \"hi\"\n"), Cell::Integer(1)}}) ==
      "a,b\r\n\"x,y\",\r\n\"say \"\"hi\"\"\n\",1\r\n");
  CHECK(Write(In(Mode::kCsv), {"a", "b"}, {{Cell::Text(""), Cell::Null()}}) == "a,b\r\n\"\",\r\n");
}

TEST_CASE("line, list and markdown") {
  CHECK(Write(In(Mode::kLine), {"id", "n"},
              {{Cell::Text("a"), Cell::Integer(1)}, {Cell::Text("b"), Cell::Null()}}) ==
        "id = a\n n = 1\n\nid = b\n n = \n");
  CHECK(Write(In(Mode::kList), {"id", "n"}, {{Cell::Text("a"), Cell::Integer(1)}}) ==
        "id|n\na|1\n");
  CHECK(Write(In(Mode::kMarkdown), {"id"}, {{Cell::Text("a|b")}}) ==
        "| id |\n| --- |\n| a\\|b |\n");
}

TEST_CASE("more rows than are measured keep the columns") {
  std::vector<std::vector<Cell>> rows;
  for (int i = 0; i < 2500; ++i) rows.push_back({Cell::Integer(i), Cell::Text("t")});
  const std::string text = Write(In(Mode::kTable), {"n", "t"}, rows);
  CHECK(std::count(text.begin(), text.end(), '\n') == 2502);
  CHECK(text.find("2499  t\n") != std::string::npos);
}

TEST_CASE("mode names") {
  CHECK(ParseMode("JSON") == Mode::kJson);
  CHECK(ModeName(Mode::kMarkdown) == "markdown");
  CHECK_THROWS_WITH_AS(ParseMode("jsn"),
                       "\"jsn\" is not a mode; the modes are table, json, csv, line, list, "
                       "markdown; did you mean json?",
                       Error);
}

}  // namespace
}  // namespace quash::cli
