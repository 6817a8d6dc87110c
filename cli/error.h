// The one exception of the shell and its exit codes.
#pragma once

#include <cstddef>
#include <optional>
#include <stdexcept>
#include <string>

namespace quash::cli {

enum ExitCode : int {
  kExitOk = 0,
  kExitError = 1,          // a statement or command failed
  kExitUsage = 2,          // the command line was wrong
  kExitDamaged = 3,        // the database or backup is damaged
  kExitInterrupted = 130,  // Ctrl-C, as 128 + SIGINT
  kExitNoReader = 141      // nobody reads the output any more, as 128 + SIGPIPE; not reported
};

class Error : public std::runtime_error {
 public:
  // offset: byte of the statement's text that is to blame, if known.
  explicit Error(const std::string& message, std::optional<size_t> offset = std::nullopt,
                 ExitCode exit_code = kExitError)
      : std::runtime_error(message), offset_(offset), exit_code_(exit_code) {}

  std::optional<size_t> offset() const { return offset_; }
  ExitCode exit_code() const { return exit_code_; }

 private:
  std::optional<size_t> offset_;
  ExitCode exit_code_;
};

}  // namespace quash::cli
