// quashdb: the shell of QuashDB.
#include <fmt/format.h>
#include <langinfo.h>
#include <unistd.h>

#include <clocale>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/shell.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

// Text is UTF-8 whatever the locale says; widths and prompts must follow.
void SetUpLocale() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
}

quash_open_mode OpenMode(const CommandLine& line) {
  if (line.follow) return QUASH_OPEN_FOLLOWER;
  if (line.readonly) return QUASH_OPEN_READONLY;
  return line.verb != nullptr ? line.bound.mode() : QUASH_OPEN_CREATE;
}

int RunSubcommand(Session& session, const CommandLine& line) {
  if (line.verb->touches_files) session.RefuseIfSafe(line.verb->name);
  if (line.bound.check) line.bound.check();
  if (line.verb->needs_database) session.Open(line.database, OpenMode(line));
  line.bound.run(session);
  session.output.Finished();
  session.Close();
  return kExitOk;
}

void PrintError(const std::string& message) {
  fmt::print(stderr, "{}\n", Wrap(Printable("Error: " + message), StderrWidth()));
}

void Greet(const CommandLine& line, bool is_new) {
  fmt::print("QuashDB {} ({})\nEnter .help for help.\n", quash_version(), quash_isa());
  if (line.database == ":memory:") {
    fmt::print(
        "Connected to a transient database in memory.\n"
        "Use \".open FILE\" to open one on disk.\n");
  } else if (is_new) {
    fmt::print("{} is a new database.\n", line.database);
  }
}

int RunShell(Session& session, const CommandLine& line) {
  session.settings.interactive =
      line.statements.empty() && !line.batch && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  session.settings.bail = !session.settings.interactive;
  if (!session.settings.safe) session.settings.pager = DefaultPager();  // pagers can write files
  std::error_code unknown;  // opening it says what is wrong
  const bool is_new = !std::filesystem::exists(line.database, unknown);
  session.Open(line.database, OpenMode(line));
  Shell shell(session);
  int exit_code = kExitOk;
  if (session.settings.interactive) {
    Greet(line, is_new);
    exit_code = shell.RunInteractive();
  } else if (line.statements.empty()) {
    exit_code = shell.RunScript(std::cin, "");
  }
  for (const std::string& statement : line.statements) {
    if (exit_code == kExitOk && !shell.has_quit()) exit_code = shell.RunArgument(statement);
  }
  session.output.Flush();
  session.Close();
  return exit_code;
}

int Main(int argc, char** argv) {
  SetUpLocale();
  CommandLine line;
  if (const std::optional<int> exit_code = ParseCommandLine(argc, argv, &line)) return *exit_code;
  CatchInterrupts();
  Session session;
  session.settings = line.settings;
  try {
    return line.verb != nullptr ? RunSubcommand(session, line) : RunShell(session, line);
  } catch (const Error& error) {
    if (error.exit_code() != kExitNoReader) PrintError(error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    PrintError(error.what());
    return kExitError;
  }
}

}  // namespace
}  // namespace quash::cli

int main(int argc, char** argv) { return quash::cli::Main(argc, argv); }
