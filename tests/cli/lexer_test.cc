#include "cli/lexer.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "cli/error.h"

namespace quash::cli {
namespace {

std::vector<std::string> Texts(std::string_view input) {
  Lexer lexer(input);
  std::vector<std::string> texts;
  for (Token token = lexer.Next(); token.kind != TokenKind::kEnd; token = lexer.Next()) {
    texts.emplace_back(token.text);
  }
  return texts;
}

size_t ErrorOffset(std::string_view input) {
  try {
    Texts(input);
  } catch (const Error& error) {
    return error.offset().value();
  }
  FAIL("no error for: " << input);
  return 0;
}

std::vector<std::string> Statements(const std::vector<std::string>& lines,
                                    std::vector<size_t>* numbers = nullptr) {
  StatementBuffer buffer;
  std::vector<std::string> statements;
  std::string statement;
  size_t number = 0;
  for (const std::string& line : lines) {
    buffer.AddLine(line);
    while (buffer.Take(&statement, &number)) {
      statements.push_back(statement);
      if (numbers != nullptr) numbers->push_back(number);
    }
  }
  return statements;
}

using Strings = std::vector<std::string>;

TEST_CASE("tokens keep their text and skip blanks and comments") {
  CHECK(Texts("SELECT * -- all\nFROM a/* b */;") == Strings{"SELECT", "*", "FROM", "a", ";"});
  CHECK(Texts("x<=1.5e-3,y<>.5") == Strings{"x", "<=", "1.5e-3", ",", "y", "<>", ".5"});
  CHECK(Texts("'it''s' \"a \"\"b\"\"\"") == Strings{"'it''s'", "\"a \"\"b\"\"\""});
  CHECK(Texts("") == Strings{});
  CHECK(Texts("-- only a comment") == Strings{});
}

TEST_CASE("values lose their quotes") {
  Lexer lexer("'it''s' \"a \"\"b\"\"\" '' 'é'");
  CHECK(lexer.Next().Value() == "it's");
  CHECK(lexer.Next().Value() == "a \"b\"");
  CHECK(lexer.Next().Value() == "");
  CHECK(lexer.Next().Value() == "é");
}

TEST_CASE("bad tokens are blamed at their first byte") {
  CHECK(ErrorOffset("a 'open") == 2);
  CHECK(ErrorOffset("a \"open") == 2);
  CHECK(ErrorOffset("ab /* open") == 3);
  CHECK(ErrorOffset("a ? b") == 2);
  CHECK(ErrorOffset("a é") == 2);
  CHECK(ErrorOffset("1 12ab") == 2);
  CHECK(ErrorOffset("'a''") == 0);
}

TEST_CASE("keywords are sorted, so that they can be searched") {
  CHECK(std::is_sorted(Keywords().begin(), Keywords().end()));
  CHECK(IsPlainName("size_kb"));
  CHECK_FALSE(IsPlainName("select"));
  CHECK_FALSE(IsPlainName("1a"));
  CHECK_FALSE(IsPlainName("a-b"));
  CHECK_FALSE(IsPlainName(""));
}

TEST_CASE("statements end at ; outside quotes and comments") {
  CHECK(Statements({"SELECT 1; SELECT 2;"}) == Strings{"SELECT 1", "SELECT 2"});
  CHECK(Statements({"a ';' b;"}) == Strings{"a ';' b"});
  CHECK(Statements({"a 'it'';' b;"}) == Strings{"a 'it'';' b"});
  CHECK(Statements({"a \";\" b;"}) == Strings{"a \";\" b"});
  CHECK(Statements({"a -- ;", "b;"}) == Strings{"a -- ;\nb"});
  CHECK(Statements({"a /* ; ", " ; */ b;"}) == Strings{"a /* ; \n ; */ b"});
  CHECK(Statements({"a 'open;", "still;' b;"}) == Strings{"a 'open;\nstill;' b"});
  CHECK(Statements({"no end"}) == Strings{});
}

TEST_CASE("statements know the line they begin on") {
  std::vector<size_t> lines;
  Statements({"", "-- comment", "a", "b; c;", "", "/* x", "*/ d;", "e;"}, &lines);
  CHECK(lines == std::vector<size_t>{3, 4, 6, 8});
}

TEST_CASE("blanks and comments leave nothing waiting") {
  StatementBuffer buffer;
  std::string statement;
  size_t line = 0;
  for (const char* text : {"", "  ", "-- x", "/* y */", "/* z", "*/"}) {
    buffer.AddLine(text);
    CHECK_FALSE(buffer.Take(&statement, &line));
    CHECK(buffer.blank() == (std::string_view(text) != "/* z"));
  }
  buffer.AddLine("SELECT");
  CHECK_FALSE(buffer.Take(&statement, &line));
  CHECK_FALSE(buffer.blank());
  buffer.Clear();
  CHECK(buffer.blank());
  buffer.AddLine("a;");
  CHECK(buffer.Take(&statement, &line));
  CHECK(line == 8);
}

}  // namespace
}  // namespace quash::cli
