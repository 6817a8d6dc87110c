#include "cli/text.h"

#include <doctest/doctest.h>

#include "cli/error.h"
#include "cli/progress.h"

namespace quash::cli {
namespace {

TEST_CASE("widths of wide, combining and broken characters") {
  CHECK(DisplayWidth("abc") == 3);
  CHECK(DisplayWidth("é") == 1);
  CHECK(DisplayWidth("日本") == 4);
  CHECK(DisplayWidth("e\xCC\x81") == 1);  // e and a combining accent
  CHECK(DisplayWidth("\xFF\xC3") == 2);   // no UTF-8: a cell per byte
  CHECK(DisplayWidth("") == 0);
}

TEST_CASE("emoji of several code points count what the widest terminal needs") {
  const std::string family = "\U0001F469\u200D\U0001F469\u200D\U0001F467";
  CHECK(DisplayWidth(family) == 6);  // or 2, if drawn as one
  CHECK(HasUncertainWidth(family));
  CHECK(HasUncertainWidth("\u2764\uFE0F"));          // a heart with emoji presentation
  CHECK(HasUncertainWidth("\U0001F44D\U0001F3FD"));  // thumb, skin tone
  CHECK_FALSE(HasUncertainWidth("\U0001F44D"));
  CHECK_FALSE(HasUncertainWidth("日本 e\u0301"));
  CHECK(DisplayWidth("a" + family + "b") == 8);
  CHECK(Truncate(family + "abc", 8) == family + "a…");
  CHECK(Truncate(family + "abc", 6) == "…");
}

TEST_CASE("long messages break at blanks") {
  CHECK(Wrap("one two three", 8) == "one two\nthree");
  CHECK(Wrap("one two three", 0) == "one two three");
  CHECK(Wrap("one  two", 80) == "one  two");
  CHECK(Wrap("longerthanthat x", 5) == "longerthanthat\nx");
  CHECK(Wrap("ab\n  cd ef", 7) == "ab\n  cd ef");
  CHECK(Wrap("日本 日本", 8) == "日本\n日本");
}

TEST_CASE("cut text fits and never splits a character") {
  CHECK(Truncate("abcdef", 6) == "abcdef");
  CHECK(Truncate("abcdef", 5) == "abcd…");
  CHECK(Truncate("日本語", 6) == "日本語");
  CHECK(Truncate("日本語", 5) == "日本…");
  CHECK(Truncate("日本語", 4) == "日…");
  CHECK(Truncate("abc", 1) == "…");
  CHECK(Truncate("abc", 0) == "");
  CHECK(Truncate("", 0) == "");
}

TEST_CASE("UTF-8 is told from other bytes") {
  for (const char* good : {"", "a", "caf\u00E9", "\u65E5", "\U0001F600", "\xF4\x8F\xBF\xBF"}) {
    CHECK(IsUtf8(good));
  }
  for (const char* bad : {"caf\xE9", "\x80", "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80",
                          "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xFC\x90\x80\x80"}) {
    CHECK_FALSE(IsUtf8(bad));
  }
}

TEST_CASE("control characters cannot reach the terminal") {
  CHECK(OneLine("a\nb\tc\x1B[31m") == "a b c [31m");
  CHECK(OneLine("x\xC2\x9By") == "x y");
  CHECK(OneLine("é") == "é");
}

TEST_CASE("messages keep their line ends") {
  CHECK(Printable("a\n\x1B[31mb\t\n") == "a\n [31mb \n");
  CHECK(Printable("") == "");
}

TEST_CASE("near misses") {
  const std::vector<std::string> words = {"section", "size_kb", "tags"};
  CHECK(NearestWord("sectin", words) == "section");
  CHECK(NearestWord("SECTION", words) == "section");
  CHECK(NearestWord("tgas", words) == "tags");
  CHECK(NearestWord("zzz", words) == std::nullopt);
  CHECK(DidYouMean("size", {"sizes"}) == "; did you mean sizes?");
  CHECK(DidYouMean("same", {"same"}) == "");
}

TEST_CASE("sizes") {
  CHECK(ParseSize("0") == 0);
  CHECK(ParseSize("512M") == 512u << 20);
  CHECK(ParseSize("2g") == 2ull << 30);
  CHECK(ParseSize("64KiB") == 64u << 10);
  CHECK(ParseSize("7B") == 7);
  for (const char* text : {"", "M", "1X", "1MM", "-1", "1.5G", "99999999999T"}) {
    CHECK_THROWS_AS(ParseSize(text), Error);
  }
  CHECK(FormatBytes(1536) == "1.5 KiB");
  CHECK(FormatBytes(17) == "17 B");
  CHECK(FormatCount(0) == "0");
  CHECK(FormatCount(999) == "999");
  CHECK(FormatCount(1234567) == "1,234,567");
  CHECK(FormatDuration(59) == "59 s");
  CHECK(FormatDuration(3723) == "1:02:03");
}

TEST_CASE("numbers are written as short as they read back") {
  CHECK(FormatFloat(0.1f) == "0.1");
  CHECK(FormatDouble(0.1) == "0.1");
  CHECK(std::stof(FormatFloat(1.0f / 3)) == 1.0f / 3);
}

TEST_CASE("words of dot-commands") {
  using Words = std::vector<std::string>;
  CHECK(SplitWords(" a  'b c' \"d \\\" e\" f'g'h ") == Words{"a", "b c", "d \" e", "fgh"});
  CHECK(SplitWords("''") == Words{""});
  CHECK(SplitWords("") == Words{});
  CHECK_THROWS_AS(SplitWords("a 'b"), Error);
}

TEST_CASE("quoting reads back") {
  CHECK(QuoteString("it's") == "'it''s'");
  CHECK(QuoteName("plain") == "plain");
  CHECK(QuoteName("two words") == "\"two words\"");
  CHECK(QuoteName("select") == "\"select\"");
  CHECK(QuoteName("a\"b") == "\"a\"\"b\"");
}

TEST_CASE("excerpts put the caret below the byte") {
  CHECK(Excerpt("SELECT x", 7) == "  SELECT x\n         ^");
  CHECK(Excerpt("a\nbcd\ne", 3) == "  bcd\n   ^");
  CHECK(Excerpt("日本 x", 7) == "  日本 x\n       ^");
  CHECK(Excerpt("ab", 2) == "  ab\n    ^");
  CHECK(Excerpt("", 0) == "  \n  ^");
  const std::string cut = Excerpt(std::string(500, 'x') + "!" + std::string(500, 'y'), 500);
  const size_t newline = cut.find('\n');
  CHECK(DisplayWidth(cut.substr(0, newline)) < 80);
  // The caret stands in the cell of the '!'.
  CHECK(DisplayWidth(cut.substr(0, cut.find('!'))) == cut.size() - newline - 2);
  CHECK(Excerpt("SELECT id\n  \n", 13) == "  SELECT id\n           ^");
  CHECK(Excerpt("\n", 1) == "  \n  ^");
  // On a narrow screen neither line wraps, and the caret stays below its byte.
  const std::string statement = "SELECT id, score FROM notes WHERE langg = 'en' AND year > 2020";
  for (const size_t offset : {size_t{0}, statement.find("langg"), statement.size()}) {
    const std::string shown = Excerpt(statement, offset, 30);
    const size_t end = shown.find('\n');
    CHECK(DisplayWidth(shown.substr(0, end)) <= 30);
    const std::string caret = shown.substr(end + 1);
    CHECK(caret.size() <= 30);
    CHECK(caret.ends_with('^'));
  }
  CHECK(Excerpt(statement, statement.find("langg"), 30) ==
        "  …notes WHERE langg = 'en' …\n               ^");
}

}  // namespace
}  // namespace quash::cli
