// The command line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/session.h"
#include "cli/verbs.h"

namespace quash::cli {

struct CommandLine {
  Settings settings;
  std::string database = ":memory:";
  bool readonly = false;
  bool follow = false;
  bool batch = false;
  std::vector<std::string> statements;  // after the database
  const Verb* verb = nullptr;           // a subcommand, if one was given
  BoundVerb bound;                      // what it runs
};

// Fills `line`, or returns the exit code to end with at once: after --help and
// --version, which print to stdout, and after a usage error, told on stderr.
std::optional<int> ParseCommandLine(int argc, char** argv, CommandLine* line);

}  // namespace quash::cli
