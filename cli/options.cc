#include "cli/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "cli/text.h"
#include "quashdb.h"

namespace quash::cli {
namespace {

constexpr const char* kFooter =
    "\nWith statements after the database they are run and quashdb exits; otherwise they are read "
    "from\nthe prompt, or from standard input if that is no terminal. Without a database, one in "
    "memory is used.\nExit codes: 0 ok, 1 error, 2 usage, 3 damage found, 130 interrupted.\n";

struct RawOptions {
  std::string mode = "table";
  std::string durability = "full";
  std::string memory_budget;
};

void AddOptions(CLI::App& app, CommandLine* line, RawOptions* raw) {
  app.add_flag("--readonly", line->readonly, "Open without writing anything");
  app.add_flag("--follow", line->follow, "Read beside a live writer; .refresh takes in its writes");
  app.add_flag("--safe", line->settings.safe, "Refuse commands that read or write other files");
  app.add_option("--durability", raw->durability,
                 "full: fsync per commit; normal: at checkpoints and close")
      ->check(CLI::IsMember({"full", "normal"}))
      ->capture_default_str();
  app.add_option("--memory-budget", raw->memory_budget, "Memory for codes and caches, as 512M");
  app.add_option("--threads", line->settings.threads, "Threads per call (default: one per core)");
  app.add_option("--mode", raw->mode, "table, json, csv, line, list or markdown")
      ->capture_default_str();
  app.add_flag("--batch", line->batch, "No prompt, even at a terminal; stop at the first error");
}

// What CLI11 found wrong, with the option that may have been meant.
std::string UsageError(const CLI::App* app, const CLI::Error& error) {
  std::string message = error.what();
  if (message.starts_with("--vectors is required")) message = "file is required";
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    std::vector<std::string> names;
    const auto add = [&](const CLI::App* of) {
      for (const CLI::Option* option : of->get_options()) {
        for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
      }
    };
    add(app);
    std::string help = app->get_name();
    for (const CLI::App* subcommand : app->get_subcommands()) {
      add(subcommand);
      help += " " + subcommand->get_name();
    }
    if (const size_t at = message.find(" --"); at != std::string::npos) {
      message += DidYouMean(message.substr(at + 1, message.find(' ', at + 1) - at - 1), names);
    }
    return fmt::format("Error: {} ({} --help)\n", message, help);
  }
  return fmt::format("Error: {} (--help shows the usage)\n", message);
}

// "quashdb chek a.qdb" must not make a database "chek".
void RefuseMistypedSubcommand(const CommandLine& line) {
  if (line.verb != nullptr || line.statements.empty()) return;
  std::error_code unknown;  // opening it says what is wrong
  if (std::filesystem::exists(line.database, unknown) || unknown) return;
  std::vector<std::string> verbs;
  for (const Verb& verb : Verbs()) {
    if (verb.is_subcommand) verbs.push_back(verb.name);
  }
  if (const std::optional<std::string> verb = NearestWord(line.database, verbs)) {
    throw Error(fmt::format("no subcommand and no database \"{}\"; did you mean {}?",
                            line.database, *verb));
  }
}

// General options may follow a subcommand, and so CLI11 would take its words
// too many for the database and statements of the shell.
void RefuseExtraWords(const CLI::App& app, const CommandLine& line) {
  if (line.verb == nullptr) return;
  std::string extra = line.statements.empty() ? "" : line.statements.front();
  const CLI::Option* database = app.get_option("database");
  if (database->count() > 0) extra = database->results().front();
  if (extra.empty()) return;
  throw Error(fmt::format("\"{}\" is one word too many for {} (quashdb {} --help)", extra,
                          line.verb->name, line.verb->name));
}

}  // namespace

std::optional<int> ParseCommandLine(int argc, char** argv, CommandLine* line) {
  CLI::App app("QuashDB, an embedded vector database", "quashdb");
  RawOptions raw;
  app.set_help_flag("-h,--help", "Show this text");
  app.set_version_flag("--version", fmt::format("quashdb {} ({})", quash_version(), quash_isa()));
  app.fallthrough();  // general options may follow the subcommand
  app.footer(kFooter);
  app.failure_message(UsageError);
  app.add_option("database", line->database, "Database directory");
  app.add_option("statements", line->statements, "Statements and dot-commands to run");
  AddOptions(app, line, &raw);
  app.require_subcommand(0, 1);
  for (const Verb& verb : Verbs()) {
    if (!verb.is_subcommand) continue;
    CLI::App* subcommand = app.add_subcommand(verb.name, verb.summary);
    subcommand->footer("");
    if (verb.needs_database) {
      subcommand->add_option("database", line->database, "Database directory")->required();
    }
    const auto bound = std::make_shared<BoundVerb>(verb.define(*subcommand, true));
    subcommand->callback([line, bound, &verb] {
      line->verb = &verb;
      line->bound = *bound;
    });
  }
  try {
    app.parse(argc, argv);
    line->settings.mode = ParseMode(raw.mode);
    line->settings.durability =
        raw.durability == "full" ? QUASH_DURABILITY_FULL : QUASH_DURABILITY_NORMAL;
    if (!raw.memory_budget.empty()) {
      line->settings.memory_budget_bytes = ParseSize(raw.memory_budget);
    }
    if (line->readonly && line->follow) throw Error("--readonly and --follow exclude each other");
    RefuseExtraWords(app, *line);
    RefuseMistypedSubcommand(*line);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  } catch (const Error& error) {
    fmt::print(stderr, "Error: {}\n", error.what());
    return kExitUsage;
  }
  return std::nullopt;
}

}  // namespace quash::cli
