#include "cli/lexer.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/error.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

bool IsBlank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

}  // namespace

bool Token::IsWord(std::string_view word) const {
  return kind == TokenKind::kWord && EqualsIgnoreCase(text, word);
}

std::string Token::Value() const {
  if (kind != TokenKind::kQuoted && kind != TokenKind::kString) return std::string(text);
  std::string value;
  for (size_t i = 1; i + 1 < text.size(); ++i) {
    value += text[i];
    if (text[i] == text[0]) ++i;  // the second of a doubled quote
  }
  return value;
}

void Lexer::SkipBlanksAndComments() {
  while (position_ < input_.size()) {
    const std::string_view rest = input_.substr(position_);
    if (IsBlank(rest[0])) {
      ++position_;
    } else if (rest.starts_with("--")) {
      position_ = std::min(input_.size(), input_.find('\n', position_));
    } else if (rest.starts_with("/*")) {
      const size_t end = input_.find("*/", position_ + 2);
      if (end == std::string_view::npos) throw Error("comment without closing */", position_);
      position_ = end + 2;
    } else {
      return;
    }
  }
}

Token Lexer::Take(TokenKind kind, size_t length) {
  const Token token{kind, input_.substr(position_, length), position_};
  position_ += length;
  return token;
}

Token Lexer::Quoted(TokenKind kind, char quote) {
  size_t end = position_ + 1;
  while (true) {
    end = input_.find(quote, end);
    if (end == std::string_view::npos) {
      throw Error(fmt::format("no closing {}", quote), position_);
    }
    if (end + 1 == input_.size() || input_[end + 1] != quote) break;
    end += 2;
  }
  return Take(kind, end + 1 - position_);
}

Token Lexer::Next() {
  SkipBlanksAndComments();
  if (position_ == input_.size()) return {TokenKind::kEnd, {}, position_};
  const std::string_view rest = input_.substr(position_);
  const auto at = [&](size_t i) { return i < rest.size() ? rest[i] : '\0'; };
  if (rest[0] == '\'') return Quoted(TokenKind::kString, '\'');
  if (rest[0] == '"') return Quoted(TokenKind::kQuoted, '"');
  size_t length = 0;
  if (IsLetter(rest[0])) {
    while (IsLetter(at(length)) || IsDigit(at(length))) ++length;
    return Take(TokenKind::kWord, length);
  }
  if (IsDigit(rest[0]) || (rest[0] == '.' && IsDigit(at(1)))) {
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
      throw Error(fmt::format("\"{}\" is neither a number nor a name", rest.substr(0, length + 1)),
                  position_);
    }
    return Take(TokenKind::kNumber, length);
  }
  for (const std::string_view two : {"==", "!=", "<>", "<=", ">=", "=>"}) {
    if (rest.starts_with(two)) return Take(TokenKind::kSymbol, 2);
  }
  constexpr std::string_view kSymbols = "()[],;*=<>+-";
  if (kSymbols.find(rest[0]) != std::string_view::npos) return Take(TokenKind::kSymbol, 1);
  const auto byte = static_cast<unsigned char>(rest[0]);
  if (byte < 0x21 || byte > 0x7E) {
    throw Error(fmt::format("unexpected byte 0x{:02x}; names outside ASCII go in \"quotes\", "
                            "text in 'quotes'",
                            byte),
                position_);
  }
  throw Error(fmt::format("unexpected character '{}'", rest[0]), position_);
}

const std::vector<std::string>& Keywords() {
  static const std::vector<std::string> kKeywords = {
      "ADD",        "AFTER",       "ALL",      "ALTER",  "AND",    "ANY",     "BETWEEN",  "BOOL",
      "COLLECTION", "COLLECTIONS", "CONTAINS", "COUNT",  "CREATE", "DELETE",  "DESCRIBE", "DROP",
      "EXISTS",     "EXPLAIN",     "FALSE",    "FIELD",  "FIELDS", "FILE",    "FLOAT",    "FROM",
      "ID",         "IF",          "IN",       "INSERT", "INT",    "INTO",    "IS",       "LIKE",
      "LIMIT",      "NEAREST",     "NOT",      "NULL",   "OR",     "REPLACE", "ROW",      "SELECT",
      "SHOW",       "STRING",      "TO",       "TRUE",   "VALUES", "WHERE",   "WITH"};
  return kKeywords;
}

bool IsPlainName(std::string_view name) {
  if (name.empty() || !IsLetter(name[0])) return false;
  if (!std::all_of(name.begin(), name.end(), [](char c) { return IsLetter(c) || IsDigit(c); })) {
    return false;
  }
  return !std::binary_search(Keywords().begin(), Keywords().end(), ToUpper(name));
}

void StatementBuffer::AddLine(std::string_view line) {
  if (text_.empty()) start_line_ = lines_ + 1;
  ++lines_;
  text_ += line;
  text_ += '\n';
}

bool StatementBuffer::Take(std::string* statement, size_t* line) {
  for (; scanned_ < text_.size(); ++scanned_) {
    const char c = text_[scanned_];
    const char next = scanned_ + 1 < text_.size() ? text_[scanned_ + 1] : '\0';
    switch (state_) {
      case State::kString:
        if (c == '\'') state_ = State::kPlain;  // a doubled quote opens again
        continue;
      case State::kQuoted:
        if (c == '"') state_ = State::kPlain;
        continue;
      case State::kLineComment:
        if (c == '\n') state_ = State::kPlain;
        continue;
      case State::kBlockComment:
        if (c == '*' && next == '/') {
          state_ = State::kPlain;
          ++scanned_;
        }
        continue;
      case State::kPlain:
        break;
    }
    if (c == '-' && next == '-') {
      state_ = State::kLineComment;
    } else if (c == '/' && next == '*') {
      state_ = State::kBlockComment;
      ++scanned_;
    } else if (c == '\'') {
      state_ = State::kString;
      has_content_ = true;
    } else if (c == '"') {
      state_ = State::kQuoted;
      has_content_ = true;
    } else if (c != ';') {
      has_content_ = has_content_ || !IsBlank(c);
    } else {
      const size_t begin = std::min(text_.find_first_not_of(" \t\r\n\f\v"), scanned_);
      const auto newlines = [&](size_t from, size_t to) {
        return static_cast<size_t>(std::count(text_.begin() + static_cast<long>(from),
                                              text_.begin() + static_cast<long>(to), '\n'));
      };
      *line = start_line_ + newlines(0, begin);
      *statement = text_.substr(begin, scanned_ - begin);
      start_line_ = *line + newlines(begin, scanned_);
      text_.erase(0, scanned_ + 1);
      scanned_ = 0;
      has_content_ = false;
      return true;
    }
  }
  if (blank()) {  // blank remains need not be kept
    text_.clear();
    scanned_ = 0;
    start_line_ = lines_ + 1;
  }
  return false;
}

void StatementBuffer::Clear() {
  text_.clear();
  scanned_ = 0;
  state_ = State::kPlain;
  has_content_ = false;
  start_line_ = lines_ + 1;
}

}  // namespace quash::cli
