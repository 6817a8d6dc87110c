// Takes lines and runs what they say: statements and dot-commands, from the
// prompt, a script or the command line.
#pragma once

#include <istream>
#include <string>
#include <string_view>

#include "cli/error.h"
#include "cli/lexer.h"
#include "cli/session.h"

namespace quash::cli {

class Shell {
 public:
  explicit Shell(Session& session) : session_(session) {}

  // Prompts until .quit or the end of input.
  int RunInteractive();
  // Runs lines until the end, .quit, or with .bail the first error.
  //   name  of a file, for messages; empty: standard input
  int RunScript(std::istream& input, const std::string& name);
  // Runs one command-line argument: a dot-command or statements, of which the
  // last need not end with ';'.
  int RunArgument(const std::string& text);

  // For dot-commands: ends the run after this line.
  void Quit(int exit_code);
  // For .read. Throws Error with what went wrong in the file.
  void ReadFile(const std::string& path);

  Session& session() { return session_; }
  bool has_quit() const { return quit_; }

 private:
  // Each reports errors to stderr and tells whether to go on.
  bool TakeLine(const std::string& line);
  // A line from the prompt, or several that the history gave back; false: refused.
  bool RunTyped(const std::string& line);
  bool RunPendingStatements();
  bool RunOne(const std::string& text, size_t line, bool dot_command);
  bool EndOfInput();
  void Report(const Error& error, const std::string& text, size_t line, bool dot_command);

  Session& session_;
  StatementBuffer buffer_;
  std::string source_;  // file being read; empty: none
  bool from_argument_ = false;
  bool quit_ = false;
  int exit_code_ = kExitOk;
  int depth_ = 0;  // of .read
};

}  // namespace quash::cli
