#include "cli/plot.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cli/error.h"

extern char** environ;

namespace quash::cli {
namespace {

// What the process writes to stdout; its stderr is ours. Not by way of a shell.
int RunProcess(const std::vector<std::string>& words, std::string* written) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw Error(fmt::format("no pipe: {}", std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int error =
      posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    throw Error(fmt::format("cannot run {}: {}; QUASHDB_PYTHON names the interpreter", words[0],
                            std::strerror(error)));
  }
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t count = read(ends[0], buffer.data(), buffer.size());
    if (count > 0) {
      written->append(buffer.data(), static_cast<size_t>(count));
    } else if (count == 0 || errno != EINTR) {
      break;
    }
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

void Plot(Session& session, const PlotOptions& options) {
  if (!session.is_open() || session.path() == ":memory:") {
    throw Error("plotting reads the database from its directory; this one is in memory");
  }
  session.OpenCollection(options.collection);  // or a suggestion
  const char* python = std::getenv("QUASHDB_PYTHON");
  std::vector<std::string> words = {python != nullptr ? python : "python3",
                                    "-m",
                                    "quashdb.plot",
                                    session.path(),
                                    options.collection,
                                    options.file,
                                    "--kind",
                                    options.kind};
  if (!options.by.empty()) words.insert(words.end(), {"--by", options.by});
  session.output.Flush();
  std::string written;
  const int code = RunProcess(words, &written);
  session.Write(written);
  if (code != 0) {
    throw Error(
        fmt::format("{} -m quashdb.plot failed (exit code {}); it needs the quashdb Python "
                    "package and matplotlib",
                    words[0], code));
  }
  session.Remark(fmt::format("wrote {}", options.file));
}

}  // namespace quash::cli
