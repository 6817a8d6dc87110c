// What can be done both as a subcommand (`quashdb import ...`) and as a
// dot-command (`.import ...`): one definition of options for both.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "cli/session.h"

namespace quash::cli {

struct BoundVerb {
  std::function<void(Session&)> run;
  // How the subcommand opens its database, known once the words are parsed.
  std::function<quash_open_mode()> mode;
  // Before that, where opening makes a database: throws what would leave it empty.
  std::function<void()> check = {};
};

struct Verb {
  std::string name;
  std::string summary;
  bool touches_files;   // refused with --safe
  bool needs_database;  // restore opens none
  bool is_subcommand;
  bool is_dot_command;
  // Adds options and positionals; `run` may be called once they are parsed.
  //   subcommand  the database comes first, and the collection is positional
  BoundVerb (*define)(CLI::App& app, bool subcommand);
};

const std::vector<Verb>& Verbs();
const Verb* FindVerb(std::string_view name);

// Runs a dot-command's words. Throws Error.
void RunVerb(Session& session, const Verb& verb, const std::vector<std::string>& words);
// "--target", "--k", ... of a dot-command.
std::vector<std::string> VerbOptions(const Verb& verb);
// The usage of a dot-command.
std::string VerbHelp(const Verb& verb);

}  // namespace quash::cli
