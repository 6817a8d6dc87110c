// Tokens of the statement language, and splitting input into statements.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace quash::cli {

enum class TokenKind {
  kWord,    // keyword or plain name
  kQuoted,  // "name", "" for a quote
  kString,  // 'text', '' for a quote
  kNumber,  // digits, fraction, exponent; signs are symbols
  kSymbol,  // one character, or one of == != <> <= >=
  kEnd
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string_view text;  // as written, quotes included; views the input
  size_t offset = 0;      // bytes from the start of the input

  bool Is(char symbol) const {
    return kind == TokenKind::kSymbol && text.size() == 1 && text[0] == symbol;
  }
  // Whether this is the given word, case ignored.
  bool IsWord(std::string_view word) const;
  // The text without its quotes and with doubled quotes undone.
  std::string Value() const;
};

class Lexer {
 public:
  // `input` must outlive the lexer and its tokens.
  explicit Lexer(std::string_view input) : input_(input) {}

  // The next token; kEnd at the end and ever after. Throws Error on an open
  // quote or comment and on characters of no token.
  Token Next();

 private:
  void SkipBlanksAndComments();
  Token Quoted(TokenKind kind, char quote);
  Token Take(TokenKind kind, size_t length);

  std::string_view input_;
  size_t position_ = 0;
};

// Every keyword of the language, upper case, sorted: for completion and
// suggestions.
const std::vector<std::string>& Keywords();

// [A-Za-z_][A-Za-z0-9_]* and not a keyword: needs no quotes.
bool IsPlainName(std::string_view name);

// Collects lines until a statement is complete, that is, until a ';' outside
// quotes and comments. Each byte is looked at once, however long a statement.
class StatementBuffer {
 public:
  void AddLine(std::string_view line);

  // Moves the first complete statement out, without its ';'.
  //   statement  out: begins at its first character that is not blank
  //   line       out: 1-based input line of that character
  bool Take(std::string* statement, size_t* line);

  // Whether nothing but blanks and comments is waiting.
  bool blank() const { return !has_content_ && state_ == State::kPlain; }
  // Whether what is waiting ends inside quotes or a comment.
  bool open_quote() const { return state_ != State::kPlain; }
  size_t line() const { return start_line_; }
  const std::string& text() const { return text_; }
  // Drops what is waiting; line numbers go on.
  void Clear();

 private:
  enum class State { kPlain, kString, kQuoted, kLineComment, kBlockComment };

  std::string text_;
  size_t scanned_ = 0;
  State state_ = State::kPlain;
  bool has_content_ = false;
  size_t lines_ = 0;       // lines added so far
  size_t start_line_ = 1;  // of text_[0]
};

}  // namespace quash::cli
