#include "libquashdb/filter_like.h"

#include <doctest/doctest.h>

#include <string>

namespace quash {
namespace {

bool Like(const std::string& text, const std::string& pattern) {
  return LikePattern(pattern).Matches(text);
}

TEST_CASE("LIKE matches the whole text") {
  CHECK(Like("", ""));
  CHECK_FALSE(Like("a", ""));
  CHECK_FALSE(Like("", "a"));
  CHECK(Like("abc", "abc"));
  CHECK_FALSE(Like("abcd", "abc"));
  CHECK_FALSE(Like("abc", "abcd"));
}

TEST_CASE("% is any run of characters") {
  CHECK(Like("", "%"));
  CHECK(Like("", "%%"));
  CHECK(Like("libfoo", "lib%"));
  CHECK(Like("lib", "lib%"));
  CHECK_FALSE(Like("li", "lib%"));
  CHECK(Like("libfoo", "%foo"));
  CHECK(Like("libfoo", "%bf%"));
  CHECK(Like("libfoo", "l%o"));
  CHECK(Like("libfoo", "l%b%o"));
  CHECK_FALSE(Like("libfoo", "l%b%x%o"));
  CHECK_FALSE(Like("aba", "ab%ba"));  // head and tail may not overlap
  CHECK(Like("abba", "ab%ba"));
  CHECK_FALSE(Like("aa", "a%a%a"));
  CHECK(Like("aXbXc", "a%b%c"));
  CHECK(Like("ababac", "%abac"));
  CHECK(Like("ababac", "%abac%"));
  CHECK_FALSE(Like("abcabd", "%abd%c%"));
  CHECK(Like("aaab", "%aab%"));
}

TEST_CASE("_ is one character, of any length in bytes") {
  CHECK(Like("a", "_"));
  CHECK_FALSE(Like("", "_"));
  CHECK_FALSE(Like("ab", "_"));
  CHECK(Like("\xC3\xA9", "_"));          // é
  CHECK(Like("\xF0\x9F\x98\x80", "_"));  // an emoji
  CHECK_FALSE(Like("\xC3\xA9", "__"));
  CHECK(Like("a\xC3\xA9z", "a_z"));
  CHECK(Like("a\xC3\xA9z", "%_z"));
  CHECK(Like("a\xC3\xA9", "%_"));
  CHECK(
      Like("a\xE2\x82\xAC"
           "bc",
           "%_b%"));
  CHECK(Like("xaybz", "%a_b%"));
  CHECK_FALSE(Like("xabz", "%a_b%"));
  CHECK(Like("\xC3\xA9\xC3\xA8", "%\xC3\xA8"));
  CHECK_FALSE(Like("\xC3\xA9", "%_\xC3\xA9"));
}

TEST_CASE("ASCII case is ignored, that of other letters is not") {
  CHECK(Like("LibFoo", "lIB%OO"));
  CHECK(Like("LIBFOO", "%bf%"));
  CHECK(Like("[", "["));
  CHECK_FALSE(Like("[", "{"));
  CHECK_FALSE(Like("@", "`"));
  CHECK_FALSE(Like("\xC3\xA9", "\xC3\x89"));  // é and É
}

TEST_CASE("patterns made to backtrack stay fast") {
  // Trying every split would take longer than anyone waits.
  const std::string text(200'000, 'a');
  std::string pattern;
  for (int i = 0; i < 2000; ++i) pattern += "%a";
  CHECK_FALSE(Like(text, pattern + "%b"));
  CHECK(Like(text, pattern + "%"));
  CHECK_FALSE(Like(text, "%" + std::string(40'000, 'a') + "b%"));
  CHECK_FALSE(Like(text, "%_%_%_%_%_%_%_%_%_%b%_"));
}

}  // namespace
}  // namespace quash
