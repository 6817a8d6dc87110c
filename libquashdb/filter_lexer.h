// Words of the filter language (quashdb.h, "Filters").
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "libquashdb/status.h"

namespace quash {

enum class FilterTokenKind : uint8_t {
  kEnd,
  kWord,        // keyword or bare name
  kQuotedName,  // "name", with "" for a quote
  kString,      // 'text', with '' for a quote
  kNumber,      // digits, point and exponent, without sign
  kSymbol,      // = == != <> < <= > >= ( ) , + -
};

struct FilterToken {
  FilterTokenKind kind = FilterTokenKind::kEnd;
  std::string_view text;  // as written, with its quotes
  size_t offset = 0;      // in the filter

  bool Is(std::string_view symbol) const {
    return kind == FilterTokenKind::kSymbol && text == symbol;
  }
  // `word` in upper case.
  bool IsKeyword(std::string_view word) const;
  // The text without quotes.
  std::string Value() const;
};

// Cuts a filter into tokens; blanks, `-- line` and `/* block */` comments
// separate them. Tokens point into the text.
class FilterLexer {
 public:
  explicit FilterLexer(std::string_view text) : text_(text) {}

  // QUASH_SYNTAX with offset. kEnd once the text is over, and from there on.
  Status Next(FilterToken* token);

 private:
  Status SkipBlanks();
  Status TakeQuoted(FilterTokenKind kind, FilterToken* token);
  Status TakeNumber(FilterToken* token);
  void Take(FilterTokenKind kind, size_t length, FilterToken* token);

  std::string_view text_;
  size_t position_ = 0;
};

// Whether `word`, in any case, cannot be a field's name.
bool IsFilterKeyword(std::string_view word);
// [A-Za-z_][A-Za-z0-9_]*
bool IsFilterName(std::string_view text);

// An error in a filter, where it is: the message begins with the offset.
Status FilterError(quash_status code, size_t offset, std::string_view message);

}  // namespace quash
