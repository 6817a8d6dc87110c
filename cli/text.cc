#include "cli/text.h"

#include <fmt/format.h>
#include <wchar.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "cli/error.h"
#include "cli/lexer.h"

namespace quash::cli {
namespace {

struct Character {
  size_t bytes;
  size_t width;
  uint32_t code;
  bool malformed = false;
};

// One UTF-8 character at `position`; a malformed byte is one cell wide.
Character CharacterAt(std::string_view text, size_t position) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const unsigned char lead = byte(0);
  size_t bytes = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  constexpr Character kMalformed = {1, 1, 0xFFFD, true};
  if (position + bytes > text.size() || (bytes == 1 && lead >= 0x80) || lead >= 0xF8) {
    return kMalformed;
  }
  uint32_t code = bytes == 1 ? lead : lead & (0x7F >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return kMalformed;
    code = code << 6 | (byte(i) & 0x3F);
  }
  const int width = wcwidth(static_cast<wchar_t>(code));
  return {bytes, width < 0 ? 1 : static_cast<size_t>(width), code};
}

// What users see as one character: a base, and all that combines with it.
struct Cluster {
  size_t bytes;
  size_t drawn_as_one;  // cells, if the terminal knows the sequence
  size_t drawn_apart;   // cells, if it draws each code point by itself
};

Cluster ClusterAt(std::string_view text, size_t position) {
  constexpr uint32_t kZeroWidthJoiner = 0x200D;
  constexpr uint32_t kEmojiPresentation = 0xFE0F;
  const auto is_regional = [](uint32_t code) { return code >= 0x1F1E6 && code <= 0x1F1FF; };
  const auto is_skin_tone = [](uint32_t code) { return code >= 0x1F3FB && code <= 0x1F3FF; };
  const Character base = CharacterAt(text, position);
  Cluster cluster{base.bytes, base.width, base.width};
  bool half_flag = is_regional(base.code);
  bool joins = false;
  while (position + cluster.bytes < text.size()) {
    const Character next = CharacterAt(text, position + cluster.bytes);
    if (half_flag && is_regional(next.code)) {
      cluster.drawn_as_one = 2;
      half_flag = false;
    } else if (next.code == kEmojiPresentation) {
      cluster.drawn_as_one = 2;
    } else if (next.width != 0 && !joins && !(is_skin_tone(next.code) && base.width == 2)) {
      break;
    }
    joins = next.code == kZeroWidthJoiner;
    cluster.bytes += next.bytes;
    cluster.drawn_apart += next.width;
  }
  return cluster;
}

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
char Upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }

// Edits (insert, delete, replace, swap of neighbours) between two words.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), previous(b.size() + 1), row(b.size() + 1);
  std::iota(previous.begin(), previous.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = previous[j - 1] + (a[i - 1] != b[j - 1]);
      row[j] = std::min({previous[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before = previous;
    previous = row;
  }
  return previous[b.size()];
}

}  // namespace

size_t DisplayWidth(std::string_view text) {
  size_t width = 0;
  for (size_t i = 0; i < text.size();) {
    const Cluster c = ClusterAt(text, i);
    width += std::max(c.drawn_as_one, c.drawn_apart);
    i += c.bytes;
  }
  return width;
}

bool HasUncertainWidth(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Cluster c = ClusterAt(text, i);
    if (c.drawn_as_one != c.drawn_apart) return true;
    i += c.bytes;
  }
  return false;
}

bool IsUtf8(std::string_view text) {
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};  // by bytes; below: overlong
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Character c = CharacterAt(text, i);
    const bool surrogate = c.code >= 0xD800 && c.code <= 0xDFFF;
    if (c.malformed || c.code < kLeast[c.bytes] || c.code > 0x10FFFF || surrogate) return false;
    i += c.bytes;
  }
  return true;
}

std::string Truncate(std::string_view text, size_t width) {
  size_t used = 0;
  size_t keep = 0;  // bytes that fit beside the ellipsis
  for (size_t i = 0; i < text.size();) {
    const Cluster c = ClusterAt(text, i);
    used += std::max(c.drawn_as_one, c.drawn_apart);
    i += c.bytes;
    if (used + 1 <= width) keep = i;
    if (used > width) return width == 0 ? "" : std::string(text.substr(0, keep)) + "…";
  }
  return std::string(text);
}

std::string Wrap(std::string_view text, size_t width) {
  if (width == 0) return std::string(text);
  std::string out;
  size_t used = 0;
  for (size_t i = 0; i < text.size();) {
    // One word with the blanks or the line end before it.
    const size_t word = std::min(text.find_first_not_of(" \n", i), text.size());
    const size_t end = std::min(text.find_first_of(" \n", word), text.size());
    const std::string_view gap = text.substr(i, word - i);
    const size_t cells = DisplayWidth(text.substr(word, end - word));
    if (const size_t line_end = gap.rfind('\n'); line_end != std::string_view::npos) {
      out += gap;
      used = gap.size() - line_end - 1;
    } else if (used > 0 && used + gap.size() + cells > width) {
      out += '\n';
      used = 0;
    } else {
      out += gap;
      used += gap.size();
    }
    out += text.substr(word, end - word);
    used += cells;
    i = end;
  }
  return out;
}

std::string Printable(std::string_view text) {
  std::string out;
  for (size_t i = 0; i <= text.size();) {
    const size_t end = std::min(text.find('\n', i), text.size());
    out += OneLine(text.substr(i, end - i));
    if (end < text.size()) out += '\n';
    i = end + 1;
  }
  return out;
}

std::string OneLine(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7F) {
      out += ' ';
    } else if (c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0) {
      out += ' ';  // C1 controls, U+0080 to U+009F
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return Lower(x) == Lower(y); });
}

std::string ToLower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), Lower);
  return out;
}

std::string ToUpper(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), Upper);
  return out;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

std::optional<std::string> NearestWord(std::string_view word,
                                       const std::vector<std::string>& candidates) {
  if (word.empty() || word.size() > 64) return std::nullopt;
  const std::string lower = ToLower(word);
  std::optional<std::string> best;
  size_t best_distance = word.size() <= 3 ? 2 : 3;  // one more than allowed
  for (const std::string& candidate : candidates) {
    if (candidate.size() > word.size() + 2) continue;
    const size_t distance = EditDistance(lower, ToLower(candidate));
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::optional<std::string> nearest = NearestWord(word, candidates);
  return nearest && *nearest != word ? fmt::format("; did you mean {}?", *nearest) : "";
}

uint64_t ParseSize(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string suffix = ToUpper(text.substr(static_cast<size_t>(end - text.data())));
  constexpr std::string_view kUnits = "KMGT";
  unsigned shift = 0;
  bool valid = error == std::errc();
  if (!suffix.empty() && suffix != "B") {
    const size_t unit = kUnits.find(suffix[0]);
    const std::string rest = suffix.substr(1);
    valid =
        valid && unit != std::string_view::npos && (rest.empty() || rest == "B" || rest == "IB");
    shift = valid ? 10 * (static_cast<unsigned>(unit) + 1) : 0;
  }
  if (!valid || value > (UINT64_MAX >> shift)) {
    throw Error(
        fmt::format("\"{}\" is not a size; expected a number of bytes, or one with "
                    "K, M, G or T, as 512M",
                    text));
  }
  return value << shift;
}

std::string FormatBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string FormatCount(uint64_t count) {
  std::string digits = std::to_string(count);
  for (size_t i = digits.size(); i > 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string FormatFloat(float value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "null";
}

std::string FormatDouble(double value) {
  return std::isfinite(value) ? fmt::format("{}", value) : "null";
}

std::vector<std::string> SplitWords(std::string_view line) {
  std::vector<std::string> words;
  size_t i = 0;
  while (true) {
    while (i < line.size() && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r')) ++i;
    if (i == line.size()) return words;
    std::string word;
    while (i < line.size() && line[i] != ' ' && line[i] != '\t' && line[i] != '\r') {
      const char quote = line[i];
      if (quote != '\'' && quote != '"') {
        word += line[i++];
        continue;
      }
      for (++i; i < line.size() && line[i] != quote; ++i) {
        if (quote == '"' && line[i] == '\\' && i + 1 < line.size()) ++i;
        word += line[i];
      }
      if (i == line.size()) throw Error(fmt::format("no closing {} in: {}", quote, line));
      ++i;
    }
    words.push_back(std::move(word));
  }
}

std::string QuoteString(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') out += '\'';
    out += c;
  }
  return out + "'";
}

std::string QuoteName(std::string_view name) {
  if (IsPlainName(name)) return std::string(name);
  std::string out = "\"";
  for (const char c : name) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

std::string Excerpt(std::string_view text, size_t offset, size_t columns) {
  constexpr size_t kWidest = 72;
  constexpr size_t kAround = 5;  // the indent, both ellipses, the caret behind the end
  // Bytes shown at most, which take no more cells.
  const size_t window =
      columns == 0 ? kWidest : std::clamp(columns, kAround + 8, kWidest + kAround) - kAround;
  // What is missing at the end is missing behind the last word.
  offset = std::min(offset, text.find_last_not_of(" \t\r\n\f\v") + 1);
  size_t begin = offset == 0 ? 0 : text.rfind('\n', offset - 1);
  begin = offset == 0 || begin == std::string_view::npos ? 0 : begin + 1;
  const size_t end = std::min(text.find('\n', offset), text.size());
  const auto continues = [&](size_t i) {
    return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80;
  };
  size_t from = begin;
  if (offset - begin > window / 2 && end - begin > window) from = offset - window / 2;
  while (from > begin && continues(from)) --from;
  size_t to = std::min(end, from + window);
  while (to < end && continues(to)) ++to;
  const std::string before = (from > begin ? "…" : "") + OneLine(text.substr(from, offset - from));
  const std::string after = OneLine(text.substr(offset, to - offset)) + (to < end ? "…" : "");
  return "  " + before + after + "\n  " + std::string(DisplayWidth(before), ' ') + "^";
}

}  // namespace quash::cli
