#include "libquashdb/suggest.h"

#include <algorithm>
#include <vector>

namespace quash {
namespace {

constexpr size_t kWordBytesMax = 64;  // longer names are compared by prefix only

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() &&
         std::equal(prefix.begin(), prefix.end(), text.begin(),
                    [](char a, char b) { return Lower(a) == Lower(b); });
}

// Optimal string alignment distance.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const char x = Lower(a[i - 1]), y = Lower(b[j - 1]);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)});
      if (i > 1 && j > 1 && x == Lower(b[j - 2]) && Lower(a[i - 2]) == y) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

}  // namespace

std::string NearestName(std::string_view wanted, std::span<const std::string_view> names) {
  std::string_view best;
  if (wanted.size() <= kWordBytesMax) {
    size_t fewest = std::max<size_t>(1, wanted.size() / 3) + 1;
    for (const std::string_view name : names) {
      if (name.empty() || name.size() > kWordBytesMax) continue;
      const size_t edits = EditDistance(wanted, name);
      // A name replaced whole is no misspelling.
      if (edits < fewest && edits < std::max(wanted.size(), name.size())) {
        fewest = edits;
        best = name;
      }
    }
  }
  constexpr size_t kPrefixBytes = 3;  // "id" begins too much
  for (const std::string_view name : names) {
    if (!best.empty()) break;
    if (std::min(wanted.size(), name.size()) < kPrefixBytes) continue;
    if (StartsWith(name, wanted) || StartsWith(wanted, name)) best = name;
  }
  return std::string(best);
}

std::string QuoteForMessage(std::string_view text) {
  constexpr size_t kShown = 48;
  std::string quoted = "\"";
  if (text.size() <= kShown) {
    quoted += text;
  } else {
    size_t end = kShown;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    quoted.append(text.substr(0, end)) += "...";
  }
  return quoted += '"';
}

std::string Suggestion(std::string_view wanted, std::span<const std::string_view> names) {
  const std::string nearest = NearestName(wanted, names);
  if (!nearest.empty()) return "; did you mean " + QuoteForMessage(nearest) + "?";
  constexpr size_t kListed = 8;
  if (names.empty() || names.size() > kListed) return "";
  std::string text = "; expected ";
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += i + 1 == names.size() ? " or " : ", ";
    text += QuoteForMessage(names[i]);
  }
  return text;
}

}  // namespace quash
