#include "libquashdb/filter_lexer.h"

#include <algorithm>

#include "libquashdb/utf8.h"

namespace quash {
namespace {

constexpr std::string_view kKeywords[] = {"ALL",   "AND", "ANY", "BETWEEN", "CONTAINS",
                                          "FALSE", "IN",  "IS",  "LIKE",    "NOT",
                                          "NULL",  "OR",  "TRUE"};

bool IsBlank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
char Upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }

bool EqualsUpper(std::string_view text, std::string_view upper) {
  return std::equal(text.begin(), text.end(), upper.begin(), upper.end(),
                    [](char a, char b) { return Upper(a) == b; });
}

}  // namespace

bool FilterToken::IsKeyword(std::string_view word) const {
  return kind == FilterTokenKind::kWord && EqualsUpper(text, word);
}

std::string FilterToken::Value() const {
  if (kind != FilterTokenKind::kQuotedName && kind != FilterTokenKind::kString) {
    return std::string(text);
  }
  std::string value;
  value.reserve(text.size());
  for (size_t i = 1; i + 1 < text.size(); ++i) {
    value += text[i];
    if (text[i] == text[0]) ++i;  // the second of a doubled quote
  }
  return value;
}

void FilterLexer::Take(FilterTokenKind kind, size_t length, FilterToken* token) {
  *token = {kind, text_.substr(position_, length), position_};
  position_ += length;
}

Status FilterLexer::SkipBlanks() {
  while (position_ < text_.size()) {
    const std::string_view rest = text_.substr(position_);
    if (IsBlank(rest[0])) {
      ++position_;
    } else if (rest.starts_with("--")) {
      position_ = std::min(text_.size(), text_.find('\n', position_));
    } else if (rest.starts_with("/*")) {
      const size_t end = text_.find("*/", position_ + 2);
      if (end == std::string_view::npos) {
        return FilterError(QUASH_SYNTAX, position_, "comment without closing */");
      }
      position_ = end + 2;
    } else {
      break;
    }
  }
  return Status();
}

Status FilterLexer::TakeQuoted(FilterTokenKind kind, FilterToken* token) {
  const char quote = text_[position_];
  size_t end = position_ + 1;
  while (true) {
    end = text_.find(quote, end);
    if (end == std::string_view::npos) {
      return FilterError(
          QUASH_SYNTAX, position_,
          kind == FilterTokenKind::kString ? "text without closing '" : "name without closing \"");
    }
    if (end + 1 == text_.size() || text_[end + 1] != quote) break;
    end += 2;
  }
  if (!IsUtf8(text_.substr(position_, end - position_))) {
    return FilterError(
        QUASH_SYNTAX, position_,
        kind == FilterTokenKind::kString ? "text is not valid UTF-8" : "name is not valid UTF-8");
  }
  Take(kind, end + 1 - position_, token);
  return Status();
}

Status FilterLexer::TakeNumber(FilterToken* token) {
  const std::string_view rest = text_.substr(position_);
  const auto at = [&](size_t i) { return i < rest.size() ? rest[i] : '\0'; };
  size_t length = 0;
  while (IsDigit(at(length))) ++length;
  if (at(length) == '.') {
    ++length;
    while (IsDigit(at(length))) ++length;
  }
  if (at(length) == 'e' || at(length) == 'E') {
    const size_t sign = at(length + 1) == '+' || at(length + 1) == '-' ? 1 : 0;
    if (IsDigit(at(length + 1 + sign))) {
      length += 1 + sign;
      while (IsDigit(at(length))) ++length;
    }
  }
  if (IsLetter(at(length))) {
    return FilterError(QUASH_SYNTAX, position_, "a number runs into a name");
  }
  Take(FilterTokenKind::kNumber, length, token);
  return Status();
}

Status FilterLexer::Next(FilterToken* token) {
  QUASH_RETURN_IF_ERROR(SkipBlanks());
  const std::string_view rest = text_.substr(position_);
  if (rest.empty()) {
    Take(FilterTokenKind::kEnd, 0, token);
    return Status();
  }
  if (rest[0] == '\'') return TakeQuoted(FilterTokenKind::kString, token);
  if (rest[0] == '"') return TakeQuoted(FilterTokenKind::kQuotedName, token);
  if (IsDigit(rest[0]) || (rest[0] == '.' && rest.size() > 1 && IsDigit(rest[1]))) {
    return TakeNumber(token);
  }
  if (IsLetter(rest[0])) {
    const auto* end = std::find_if_not(rest.begin(), rest.end(),
                                       [](char c) { return IsLetter(c) || IsDigit(c); });
    Take(FilterTokenKind::kWord, static_cast<size_t>(end - rest.begin()), token);
    return Status();
  }
  for (const std::string_view symbol : {"==", "!=", "<>", "<=", ">="}) {
    if (rest.starts_with(symbol)) {
      Take(FilterTokenKind::kSymbol, 2, token);
      return Status();
    }
  }
  constexpr std::string_view kSymbols = "=<>(),+-";
  if (kSymbols.find(rest[0]) == std::string_view::npos) {
    const auto byte = static_cast<unsigned char>(rest[0]);
    return FilterError(QUASH_SYNTAX, position_,
                       byte > 0x20 && byte < 0x7F
                           ? fmt::format("unexpected character {}", rest[0])
                           : fmt::format("unexpected byte {:#04x}; names outside ASCII go in "
                                         "\"quotes\", text in 'quotes'",
                                         byte));
  }
  Take(FilterTokenKind::kSymbol, 1, token);
  return Status();
}

bool IsFilterKeyword(std::string_view word) {
  return std::any_of(std::begin(kKeywords), std::end(kKeywords),
                     [&](std::string_view keyword) { return EqualsUpper(word, keyword); });
}

bool IsFilterName(std::string_view text) {
  return !text.empty() && IsLetter(text[0]) &&
         std::all_of(text.begin(), text.end(), [](char c) { return IsLetter(c) || IsDigit(c); });
}

Status FilterError(quash_status code, size_t offset, std::string_view message) {
  return Status(code, fmt::format("filter, byte {}: {}", offset, message),
                static_cast<long>(offset));
}

}  // namespace quash
