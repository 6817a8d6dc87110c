// The parent's end of the pipes to a child.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/capi/support.h"

extern char** environ;

namespace capi_test {

Child::Child(const std::vector<std::string>& arguments) {
  std::signal(SIGPIPE, SIG_IGN);  // a child that has died shows as a failed write
  int to_child[2], from_child[2];
  REQUIRE(pipe2(to_child, O_CLOEXEC) == 0);
  REQUIRE(pipe2(from_child, O_CLOEXEC) == 0);
  std::vector<std::string> words = {"child", "--child"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to_child[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, from_child[1], STDOUT_FILENO);
  REQUIRE(posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, argv.data(), environ) == 0);
  posix_spawn_file_actions_destroy(&actions);
  close(to_child[0]);
  close(from_child[1]);
  input_ = to_child[1];
  output_ = from_child[0];
}

Child::~Child() {
  if (!waited_) Kill();
  if (input_ >= 0) close(input_);
  close(output_);
}

std::string Child::ReadLine() {
  std::string line;
  char c;
  while (read(output_, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

void Child::Write(std::string_view line) {
  const std::string text = std::string(line) + "\n";
  REQUIRE(write(input_, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
}

int Child::Wait() {
  if (waited_) return exit_code_;
  close(input_);
  input_ = -1;
  int status = 0;
  REQUIRE(waitpid(pid_, &status, 0) == pid_);
  waited_ = true;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return exit_code_;
}

void Child::Signal(int signal) { kill(pid_, signal); }

void Child::Kill() {
  Signal(SIGKILL);
  Wait();
}

}  // namespace capi_test
