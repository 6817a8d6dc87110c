#include "cli/shell.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/interrupt.h"
#include "cli/line_editor.h"
#include "cli/statements.h"
#include "cli/text.h"

namespace quash::cli {
namespace {

constexpr const char* kPrompt = "quashdb> ";
constexpr const char* kContinuation = "    ...> ";

bool IsDotCommand(std::string_view line) { return line.starts_with('.'); }

// `.once` itself is not the command that its output is for.
bool IsOnce(std::string_view command) {
  return EqualsIgnoreCase(command.substr(0, command.find_first_of(" \t")), ".once");
}

}  // namespace

void Shell::Quit(int exit_code) {
  quit_ = true;
  exit_code_ = exit_code;
}

void Shell::Report(const Error& error, const std::string& text, size_t line, bool dot_command) {
  std::string where;
  if (!session_.settings.interactive && !from_argument_) {
    const size_t offset = std::min(error.offset().value_or(0), text.size());
    const auto newlines =
        std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(offset), '\n');
    where = fmt::format("near line {}: ", line + static_cast<size_t>(newlines));
    if (!source_.empty()) where = source_ + ": " + where;
  }
  const bool color = StderrIsTerminal() && session_.output.color();
  session_.output.EndPage();
  std::string message =
      Wrap(Printable(fmt::format("Error: {}{}", where, error.what())), StderrWidth()) + "\n";
  message.replace(0, 6, Style("1;31", "Error:", color));
  if (error.offset() && !dot_command) {
    message += Excerpt(text, *error.offset(), StderrWidth()) + "\n";
  }
  std::fflush(stdout);
  std::fputs(message.c_str(), stderr);
}

bool Shell::RunOne(const std::string& text, size_t line, bool dot_command) {
  if (!session_.settings.interactive) ThrowIfInterrupted();
  const auto start = std::chrono::steady_clock::now();
  const auto fail = [&](const Error& error) {
    if (error.exit_code() == kExitNoReader) {
      Quit(kExitNoReader);
      return;
    }
    Report(error, text, line, dot_command);
    exit_code_ = error.exit_code();
    if (exit_code_ == kExitInterrupted) buffer_.Clear();  // what follows on the line
  };
  const auto end_page = [&] {  // that of a .read ends with it
    if (depth_ == 0) session_.output.EndPage();
  };
  bool ok = false;
  try {
    if (session_.settings.interactive) session_.output.BeginPage(session_.settings.pager);
    if (session_.settings.echo) session_.Write(text + (dot_command ? "\n" : ";\n"));
    if (dot_command) {
      RunDotCommand(*this, text);
    } else {
      RunStatement(session_, text);
    }
    ok = true;
  } catch (const PagerQuit&) {
    end_page();
    ok = true;
  } catch (const Error& error) {
    fail(error);
  } catch (const std::bad_alloc&) {
    fail(Error("out of memory"));
  } catch (const std::exception& error) {
    fail(Error(error.what()));
  }
  try {
    if (session_.settings.timer && !dot_command) {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      session_.Write(fmt::format("Run Time: real {:.6f} s\n", elapsed.count()));
    }
    end_page();
    if (!dot_command || !IsOnce(text)) session_.output.Finished();
  } catch (const PagerQuit&) {
    end_page();
  } catch (const Error& error) {
    fail(error);
    return false;
  }
  return ok || (!session_.settings.bail && exit_code_ != kExitInterrupted);
}

bool Shell::RunPendingStatements() {
  std::string statement;
  size_t line = 0;
  while (!quit_ && buffer_.Take(&statement, &line)) {
    if (statement.empty()) continue;
    if (!RunOne(statement, line, false)) return false;
  }
  return true;
}

bool Shell::TakeLine(const std::string& line) {
  if (buffer_.blank() && IsDotCommand(Trim(line))) {
    buffer_.AddLine("");  // keeps line numbers
    const size_t number = buffer_.line();
    std::string unused;
    buffer_.Take(&unused, nullptr);
    return RunOne(std::string(Trim(line)), number, true);
  }
  buffer_.AddLine(line);
  return RunPendingStatements();
}

bool Shell::EndOfInput() {
  if (buffer_.blank()) return true;
  const std::string text(Trim(buffer_.text()));
  Report(Error("the input ends inside a statement; it needs ; at its end", text.size()), text,
         buffer_.line(), false);
  exit_code_ = kExitError;
  return false;
}

int Shell::RunScript(std::istream& input, const std::string& name) {
  source_ = name;
  std::string line;
  bool first = true;
  bool go_on = true;
  try {
    while (go_on && !quit_ && std::getline(input, line)) {
      if (std::exchange(first, false) && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
      if (line.ends_with('\r')) line.pop_back();
      go_on = TakeLine(line);
    }
    if (!go_on || quit_) return exit_code_;
    const bool failed = input.bad() || (name.empty() && std::ferror(stdin) != 0);
    const int error = errno;
    ThrowIfInterrupted();
    if (failed) {
      throw Error(fmt::format("cannot read {}: {}", name.empty() ? "standard input" : name,
                              std::strerror(error)));
    }
    EndOfInput();
  } catch (const Error& error) {
    fmt::print(stderr, "Error: {}\n", error.what());
    exit_code_ = error.exit_code();
  }
  return exit_code_;
}

int Shell::RunArgument(const std::string& text) {
  from_argument_ = true;
  if (IsDotCommand(Trim(text))) {
    RunOne(std::string(Trim(text)), 1, true);
    return exit_code_;
  }
  buffer_.AddLine(text);
  if (!RunPendingStatements() || quit_ || buffer_.blank()) return exit_code_;
  buffer_.AddLine(";");
  if (RunPendingStatements()) EndOfInput();  // an open quote or comment
  return exit_code_;
}

void Shell::ReadFile(const std::string& path) {
  constexpr int kMaxDepth = 16;
  if (depth_ == kMaxDepth) throw Error(".read goes more than 16 files deep");
  std::ifstream input(path);
  if (!input) throw Error(fmt::format("cannot read {}: {}", path, std::strerror(errno)));
  Shell inner(session_);
  inner.depth_ = depth_ + 1;
  const bool interactive = session_.settings.interactive;
  session_.settings.interactive = false;  // errors name file and line
  const int exit_code = inner.RunScript(input, path);
  session_.settings.interactive = interactive;
  if (inner.quit_) Quit(exit_code);
  if (exit_code != kExitOk && !inner.quit_) {
    throw Error(fmt::format("{} did not run to its end without errors", path), std::nullopt,
                static_cast<ExitCode>(exit_code));
  }
}

bool Shell::RunTyped(const std::string& line) {
  if (buffer_.blank() && Trim(line).starts_with('\\')) {
    fmt::print(stderr, "Commands begin with a dot; .help lists them.\n");
    return false;
  }
  if (buffer_.blank()) {
    // What people type who do not know dot-commands yet.
    constexpr std::pair<std::string_view, std::string_view> kBare[] = {
        {"help", ".help"}, {"?", ".help"}, {"quit", ".quit"}, {"exit", ".exit"}};
    const std::string_view typed = line;
    const std::string_view word = typed.substr(0, typed.find_last_not_of("; \t") + 1);
    for (const auto& [bare, command] : kBare) {
      if (EqualsIgnoreCase(Trim(word), bare)) {
        TakeLine(std::string(command));
        return true;
      }
    }
  } else if (IsDotCommand(line) && !buffer_.open_quote()) {
    fmt::print(stderr, "{}\n",
               Wrap("Still inside the statement above: end it with ; or drop it with Ctrl-C; "
                    "dot-commands run between statements.",
                    StderrWidth()));
    return false;
  }
  TakeLine(line);
  return true;
}

int Shell::RunInteractive() {
  LineEditor editor([this](std::string_view line) {
    return Completions(session_, buffer_.text(), line);
  });
  std::string entry;  // the lines of the statement being typed
  const auto remember = [&] {
    if (!Trim(entry).empty()) editor.Remember(entry);
    entry.clear();
  };
  while (!quit_) {
    ClearInterrupt();
    std::string line;
    const LineEditor::Outcome outcome =
        editor.Read(buffer_.blank() ? kPrompt : kContinuation, &line);
    if (outcome == LineEditor::Outcome::kEnd) break;
    if (outcome == LineEditor::Outcome::kInterrupted) {
      buffer_.Clear();
      remember();  // to be mended
      continue;
    }
    ClearInterrupt();
    const size_t before = entry.size();
    entry += (entry.empty() ? "" : "\n") + line;
    if (!RunTyped(line)) entry.resize(before);
    if (buffer_.blank()) remember();
    if (!session_.settings.bail) exit_code_ = quit_ ? exit_code_ : kExitOk;
    if (!quit_ && exit_code_ != kExitOk) break;  // .bail on
  }
  return exit_code_;
}

}  // namespace quash::cli
