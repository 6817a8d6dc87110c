// Small text helpers: terminal widths, sizes, near misses, shell-like words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quash::cli {

// Terminal cells that UTF-8 text takes at most; malformed bytes count one.
// Terminals do not agree on emoji of several code points (families, flags, skin
// tones): some draw one character of two cells, some the parts one by one.
size_t DisplayWidth(std::string_view text);
// Whether terminals may disagree on the width of this text.
bool HasUncertainWidth(std::string_view text);

bool IsUtf8(std::string_view text);

// The text cut to at most `width` cells, ending in "…" if anything was cut.
std::string Truncate(std::string_view text, size_t width);

// `text` broken at blanks into lines of at most `width` cells, as far as its
// words allow; 0: as it is. Line ends in it stay.
std::string Wrap(std::string_view text, size_t width);

// Control characters, newlines included, become spaces, so that stored text
// can neither break a table nor send escape sequences to the terminal.
std::string OneLine(std::string_view text);
// The same for messages, whose line ends stay.
std::string Printable(std::string_view text);

bool EqualsIgnoreCase(std::string_view a, std::string_view b);
std::string ToLower(std::string_view text);
std::string ToUpper(std::string_view text);
std::string_view Trim(std::string_view text);

// The candidate nearest to `word` within two edits (one for short words), case
// ignored; nothing if none is that near.
std::optional<std::string> NearestWord(std::string_view word,
                                       const std::vector<std::string>& candidates);
// "; did you mean X?" or "".
std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates);

// "4096", "64K", "512M", "2G" (powers of 1024, a trailing B or iB allowed).
// Throws Error on anything else.
uint64_t ParseSize(std::string_view text);

std::string FormatBytes(uint64_t bytes);  // "1.5 MiB"
std::string FormatCount(uint64_t count);  // "50,000"

// Shortest decimal that reads back as the same value; always valid JSON.
std::string FormatFloat(float value);
std::string FormatDouble(double value);

// Words of a dot-command: split at blanks, '...' and "..." group, and in
// "..." a backslash escapes. Throws Error on an open quote.
std::vector<std::string> SplitWords(std::string_view line);

// 'text' with quotes doubled, for printing statements.
std::string QuoteString(std::string_view text);
// A name as it is if it is a plain word, else "quoted".
std::string QuoteName(std::string_view name);

// The line of `text` around byte `offset` and a caret below it, indented; long
// lines are cut to a window.
//   columns  of the screen that it must fit; 0: no screen
std::string Excerpt(std::string_view text, size_t offset, size_t columns = 0);

}  // namespace quash::cli
