#include "cli/pager.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "cli/error.h"
#include "cli/text.h"

extern char** environ;

namespace quash::cli {
namespace {

// Length of the escape sequence at the begin of the text, as "\033[1m"; 0: none.
size_t EscapeLength(std::string_view text) {
  if (!text.starts_with("\033[")) return 0;
  const size_t end = text.find_first_not_of("0123456789;", 2);
  return end == std::string_view::npos ? text.size() : end + 1;
}

// Pagers know colours only: moves of the cursor are left out.
std::string ColoursOnly(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t escape = EscapeLength(text.substr(i));
    if (escape == 0) {
      out += text[i++];
      continue;
    }
    if (text[i + escape - 1] == 'm') out += text.substr(i, escape);
    i += escape;
  }
  return out;
}

std::string WithoutEscapes(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t escape = EscapeLength(text.substr(i));
    if (escape == 0) out += text[i];
    i += escape == 0 ? 1 : escape;
  }
  return out;
}

}  // namespace

Pager::Pager(std::vector<std::string> words, size_t rows, size_t columns)
    : words_(std::move(words)), rows_(rows), columns_(columns) {}

Pager::~Pager() {
  if (pipe_ >= 0) close(pipe_);
  while (process_ > 0 && waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void Pager::Write(std::string_view text) {
  if (pipe_ >= 0) {
    Send(ColoursOnly(text));
    return;
  }
  kept_ += text;
  if (!plain_) {
    for (size_t i = 0; i < text.size();) {
      const size_t end = text.find('\n', i);
      line_cells_ += DisplayWidth(WithoutEscapes(text.substr(i, end - i)));
      if (end == std::string_view::npos) break;
      rows_kept_ += columns_ == 0 || line_cells_ == 0 ? 1 : (line_cells_ - 1) / columns_ + 1;
      line_cells_ = 0;
      i = end + 1;
    }
    if (rows_kept_ + 1 > rows_) Start();  // one row is the prompt's
  }
  if (!plain_) return;
  std::fwrite(kept_.data(), 1, kept_.size(), stdout);
  kept_.clear();
}

void Pager::Start() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    plain_ = true;
    return;
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t defaults;
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> arguments;
  for (std::string& word : words_) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::vector<char*> environment;
  std::string less = "LESS=FRX";  // end on one screen, show colours, leave the text there
  for (char** variable = environ; *variable != nullptr; ++variable) {
    environment.push_back(*variable);
    if (std::strncmp(*variable, "LESS=", 5) == 0) less.clear();
  }
  if (!less.empty()) environment.push_back(less.data());
  environment.push_back(nullptr);
  const int error = posix_spawnp(&process_, arguments[0], &actions, &attributes,
                                 arguments.data(), environment.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[0]);
  if (error != 0) {
    close(ends[1]);
    process_ = 0;
    plain_ = true;
    return;
  }
  pipe_ = ends[1];
  Send(ColoursOnly(std::exchange(kept_, {})));
}

void Pager::Send(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(pipe_, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno != EINTR) {
      throw PagerQuit();
    }
  }
}

void Pager::Close() {
  if (!kept_.empty()) std::fwrite(kept_.data(), 1, kept_.size(), stdout);
  kept_.clear();
  if (pipe_ >= 0) close(std::exchange(pipe_, -1));
  while (process_ > 0 && waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
  process_ = 0;
}

std::vector<std::string> DefaultPager() {
  for (const char* name : {"QUASHDB_PAGER", "PAGER"}) {
    const char* value = std::getenv(name);
    if (value == nullptr) continue;
    try {
      std::vector<std::string> words = SplitWords(value);
      if (!words.empty() && words[0] == "cat") words.clear();
      return words;
    } catch (const Error&) {
      return {};  // an open quote: no program can be meant
    }
  }
  return {"less"};
}

}  // namespace quash::cli
