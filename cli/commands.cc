#include "cli/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "cli/help.h"
#include "cli/schema.h"
#include "cli/shell.h"
#include "cli/text.h"
#include "cli/verbs.h"

namespace quash::cli {
namespace {

using Words = std::vector<std::string>;

struct Command {
  std::string name;
  std::string arguments;
  std::string summary;
  size_t most_arguments;
  bool allowed_in_safe;
  void (*run)(Shell& shell, const Words& arguments);
};

bool ParseSwitch(const std::string& word) {
  const std::string lower = ToLower(word);
  if (lower == "on" || lower == "1" || lower == "yes" || lower == "true") return true;
  if (lower == "off" || lower == "0" || lower == "no" || lower == "false") return false;
  throw Error(fmt::format("\"{}\" is neither on nor off", word));
}

template <bool Settings::*kMember>
void SetSwitch(Shell& shell, const Words& arguments) {
  bool& value = shell.session().settings.*kMember;
  if (arguments.empty()) {
    shell.session().Write(value ? "on\n" : "off\n");
  } else {
    value = ParseSwitch(arguments[0]);
  }
}

void ChangeMode(Shell& shell, const Words& arguments) {
  Session& session = shell.session();
  if (arguments.empty()) {
    session.Write(fmt::format("{}\n", ModeName(session.settings.mode)));
  } else {
    session.settings.mode = ParseMode(arguments[0]);
  }
}

void Open(Shell& shell, const Words& arguments) {
  quash_open_mode mode = QUASH_OPEN_CREATE;
  std::string path;
  for (const std::string& word : arguments) {
    if (word == "--readonly") {
      mode = QUASH_OPEN_READONLY;
    } else if (word == "--follow") {
      mode = QUASH_OPEN_FOLLOWER;
    } else if (word.starts_with("--") || !path.empty()) {
      throw Error("usage: .open [--readonly | --follow] FILE");
    } else {
      path = word;
    }
  }
  shell.session().Open(path.empty() ? ":memory:" : path, mode);
}

void Redirect(Shell& shell, const std::string& file, bool once) {
  if (file.starts_with('|')) {
    throw Error("results go to files, not to programs; quashdb FILE \"SELECT ...\" | PROGRAM does");
  }
  shell.session().output.Redirect(file, once);
}

void ChangeOutput(Shell& shell, const Words& arguments) {
  Redirect(shell, arguments.empty() ? "stdout" : arguments[0], false);
}

void Once(Shell& shell, const Words& arguments) {
  if (arguments.empty()) throw Error("usage: .once FILE");
  Redirect(shell, arguments[0], true);
}

void Read(Shell& shell, const Words& arguments) {
  if (arguments.empty()) throw Error("usage: .read FILE");
  shell.ReadFile(arguments[0]);
}

void PrintSchema(Shell& shell, const Words& arguments) {
  Session& session = shell.session();
  for (const std::string& name : arguments.empty() ? session.CollectionNames() : arguments) {
    session.Write(CreateStatement(DescribeCollection(session.OpenCollection(name).get())) + "\n");
  }
}

void Collections(Shell& shell, const Words&) {
  Session& session = shell.session();
  for (const std::string& name : session.CollectionNames()) session.Write(name + "\n");
}

void Refresh(Shell& shell, const Words&) { Check(quash_refresh(shell.session().db())); }

void NullValue(Shell& shell, const Words& arguments) {
  shell.session().settings.null_text = arguments.empty() ? "" : arguments[0];
}

std::string PagerText(const Settings& settings) {
  return settings.pager.empty() ? "off" : fmt::format("{}", fmt::join(settings.pager, " "));
}

void ChangePager(Shell& shell, const Words& arguments) {
  Settings& settings = shell.session().settings;
  if (arguments.empty()) {
    shell.session().Write(PagerText(settings) + "\n");
  } else if (arguments.size() == 1 && EqualsIgnoreCase(arguments[0], "off")) {
    settings.pager.clear();
  } else if (arguments.size() == 1 && EqualsIgnoreCase(arguments[0], "on")) {
    settings.pager = DefaultPager();
  } else {
    settings.pager = arguments;
  }
}

void Show(Shell& shell, const Words&) {
  Session& session = shell.session();
  const Settings& settings = session.settings;
  constexpr const char* kOpenModes[] = {"read-write", "read-write", "readonly", "follower"};
  const auto on = [](bool value) { return value ? "on" : "off"; };
  const std::pair<const char*, std::string> lines[] = {
      {"database", session.is_open() ? session.path() : "(none)"},
      {"opened", kOpenModes[session.open_mode()]},
      {"durability", settings.durability == QUASH_DURABILITY_FULL ? "full" : "normal"},
      {"memory budget",
       settings.memory_budget_bytes == 0 ? "no limit" : FormatBytes(settings.memory_budget_bytes)},
      {"threads", settings.threads == 0 ? "one per core" : std::to_string(settings.threads)},
      {"instruction set", quash_isa()},
      {"mode", std::string(ModeName(settings.mode))},
      {"headers", on(settings.headers)},
      {"nullvalue", "\"" + settings.null_text + "\""},
      {"output", session.output.target()},
      {"pager", PagerText(settings)},
      {"timer", on(settings.timer)},
      {"echo", on(settings.echo)},
      {"bail", on(settings.bail)},
      {"progress", on(settings.progress)},
      {"safe", on(settings.safe)}};
  for (const auto& [name, value] : lines) session.Write(fmt::format("{:>15}: {}\n", name, value));
}

void Version(Shell& shell, const Words&) {
  shell.session().Write(fmt::format("QuashDB {} ({})\n", quash_version(), quash_isa()));
}

void Quit(Shell& shell, const Words&) { shell.Quit(kExitOk); }

void Help(Shell& shell, const Words& arguments);

const std::vector<Command>& Commands() {
  static const std::vector<Command> kCommands = {
      {"bail", "on|off", "Stop at the first error", 1, true, SetSwitch<&Settings::bail>},
      {"collections", "", "List the collections", 0, true, Collections},
      {"echo", "on|off", "Show statements before they run", 1, true, SetSwitch<&Settings::echo>},
      {"exit", "", "Leave", 0, true, Quit},
      {"headers", "on|off", "Show column names", 1, true, SetSwitch<&Settings::headers>},
      {"help", "[TOPIC]", "This list, or help on a command or statement", 2, true, Help},
      {"mode", "[MODE]", "Results as table, json, csv, line, list or markdown", 1, true,
       ChangeMode},
      {"nullvalue", "TEXT", "Show TEXT for NULL", 1, true, NullValue},
      {"once", "FILE", "Write the next result to FILE", 1, false, Once},
      {"open", "[--readonly|--follow] FILE", "Close this database and open another", 3, false,
       Open},
      {"output", "[FILE]", "Write results to FILE, or back to the terminal", 1, false,
       ChangeOutput},
      {"pager", "[on|off|COMMAND]", "Show long output one screen at a time, as less does", 16, false,
       ChangePager},
      {"progress", "on|off", "Show progress bars", 1, true, SetSwitch<&Settings::progress>},
      {"quit", "", "Leave", 0, true, Quit},
      {"read", "FILE", "Run the statements and commands of FILE", 1, false, Read},
      {"refresh", "", "With --follow: take in what the writer has committed since", 0, true,
       Refresh},
      {"schema", "[COLLECTION]", "Show the CREATE statements", 1, true, PrintSchema},
      {"show", "", "Show the settings", 0, true, Show},
      {"timer", "on|off", "Show how long statements take", 1, true, SetSwitch<&Settings::timer>},
      {"version", "", "Show the version", 0, true, Version}};
  return kCommands;
}

void PrintCommands(Session& session) {
  std::vector<std::array<std::string, 2>> lines;
  for (const Command& command : Commands()) {
    lines.push_back({"." + command.name + " " + command.arguments, command.summary});
  }
  for (const Verb& verb : Verbs()) {
    if (verb.is_dot_command) lines.push_back({"." + verb.name + " ...", verb.summary});
  }
  std::sort(lines.begin(), lines.end());
  for (const auto& [usage, summary] : lines) {
    constexpr size_t kIndent = 34;
    const size_t width = session.output.width();
    std::string text = Wrap(summary, width > kIndent + 20 ? width - kIndent : 0);
    for (size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1)) {
      text.insert(at + 1, kIndent, ' ');
    }
    session.Write(fmt::format("{:<{}}{}\n", usage, kIndent, text));
  }
  session.Write(fmt::format("\nStatements end with ; and have help of their own: .help {}\n",
                            fmt::join(StatementTopics(), ", .help ")));
}

void Help(Shell& shell, const Words& arguments) {
  Session& session = shell.session();
  if (arguments.empty()) {
    PrintCommands(session);
    return;
  }
  std::string topic = ToLower(arguments[0]);
  if (topic.starts_with('.')) topic.erase(0, 1);
  const std::string_view statement = StatementHelp(topic);
  const Verb* verb = FindVerb(topic);
  if (!statement.empty()) {
    session.Write(statement);
    return;
  }
  if (verb != nullptr && verb->is_dot_command) {
    session.Write(VerbHelp(*verb));
    return;
  }
  for (const Command& command : Commands()) {
    if (command.name != topic) continue;
    session.Write(fmt::format(".{} {}\n  {}\n", command.name, command.arguments, command.summary));
    return;
  }
  Words topics = DotCommandNames();
  for (const std::string& name : StatementTopics()) topics.push_back(name);
  throw Error(fmt::format("no help on \"{}\"{}", arguments[0], DidYouMean(topic, topics)));
}

// What people type who come from sqlite3, and what to write here.
std::string_view Habit(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kHabits[] = {
      {"clone", ".backup does that"},
      {"databases", ".show names the open one"},
      {"dump", ".schema shows the statements, .export writes the rows"},
      {"eqp", "write EXPLAIN before SELECT"},
      {"indexes", "collections need no index"},
      {"indices", "collections need no index"},
      {"save", ".backup does that"},
      {"tables", ".collections does that"},
      {"width", "tables fit the screen"}};
  for (const auto& [habit, advice] : kHabits) {
    if (name == habit) return advice;
  }
  return "";
}

}  // namespace

void RunDotCommand(Shell& shell, std::string_view line) {
  Words words = SplitWords(line.substr(1));
  if (words.empty()) throw Error("a dot-command needs a name; .help lists them");
  const std::string name = ToLower(words[0]);
  words.erase(words.begin());
  if (const Verb* verb = FindVerb(name); verb != nullptr && verb->is_dot_command) {
    RunVerb(shell.session(), *verb, words);
    return;
  }
  for (const Command& command : Commands()) {
    if (command.name != name) continue;
    if (!command.allowed_in_safe) shell.session().RefuseIfSafe("." + name);
    if (words.size() > command.most_arguments) {
      throw Error(fmt::format("usage: .{} {}", command.name, command.arguments));
    }
    command.run(shell, words);
    return;
  }
  Words names = DotCommandNames();
  for (std::string& candidate : names) candidate.insert(0, 1, '.');
  const std::string_view habit = Habit(name);
  std::string advice = habit.empty() ? "" : fmt::format("; {}", habit);
  if (advice.empty()) advice = DidYouMean("." + name, names);
  if (advice.empty()) advice = "; .help lists the commands";
  throw Error(fmt::format("no command .{}{}", name, advice));
}

ArgumentKind DotCommandArguments(std::string_view name) {
  if (name == "help") return ArgumentKind::kTopic;
  if (name == "mode") return ArgumentKind::kMode;
  if (name == "schema") return ArgumentKind::kCollection;
  for (const Command& command : Commands()) {
    if (command.name != name) continue;
    if (command.arguments == "on|off") return ArgumentKind::kSwitch;
    return command.arguments.find("FILE") != std::string::npos ? ArgumentKind::kFile
                                                               : ArgumentKind::kNone;
  }
  const Verb* verb = FindVerb(name);
  if (verb == nullptr || !verb->is_dot_command) return ArgumentKind::kNone;
  return verb->touches_files ? ArgumentKind::kFile : ArgumentKind::kCollection;
}

std::vector<std::string> DotCommandNames() {
  Words names;
  for (const Command& command : Commands()) names.push_back(command.name);
  for (const Verb& verb : Verbs()) {
    if (verb.is_dot_command) names.push_back(verb.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace quash::cli
