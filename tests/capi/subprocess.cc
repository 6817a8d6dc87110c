// The parent's end of the pipes to a child, and the fork server.
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "tests/capi/support.h"

extern char** environ;

namespace capi_test {
namespace {

int fork_server = -1;  // socket

// A request is the child's arguments, each ended by a null byte, with its standard
// input and output; or, without these, a child to wait for. The answer is a process
// id, or what waitpid() says of it.
constexpr size_t kMaxRequest = 8192;

void SendRequest(std::string_view text, const int* files) {
  iovec part = {const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (files != nullptr) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(2 * sizeof(int));
    std::memcpy(CMSG_DATA(header), files, 2 * sizeof(int));
  }
  REQUIRE(sendmsg(fork_server, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}

int ReadAnswer() {
  int answer = -1;
  REQUIRE(read(fork_server, &answer, sizeof(answer)) == sizeof(answer));
  return answer;
}

// In the child: plays its role and ends.
[[noreturn]] void Play(ChildRole role, std::string text, int input, int output) {
  dup2(input, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  close(input);
  close(output);
  char program[] = "child", flag[] = "--child";
  std::vector<char*> argv = {program, flag};
  for (size_t at = 0; at < text.size(); at += std::strlen(&text[at]) + 1) {
    argv.push_back(&text[at]);
  }
  const int argc = static_cast<int>(argv.size());
  argv.push_back(nullptr);
  std::exit(role(argc, argv.data()).value_or(2));
}

[[noreturn]] void Serve(ChildRole role, int requests) {
  for (;;) {
    char text[kMaxRequest];
    iovec part = {text, sizeof(text)};
    alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t size = recvmsg(requests, &message, MSG_CMSG_CLOEXEC);
    if (size <= 0) _exit(0);  // the tests have ended
    const std::string request(text, static_cast<size_t>(size));
    int answer = -1;
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
      int files[2];
      std::memcpy(files, CMSG_DATA(header), sizeof(files));
      answer = fork();
      if (answer == 0) {
        close(requests);
        Play(role, request, files[0], files[1]);
      }
      close(files[0]);
      close(files[1]);
    } else {
      const pid_t pid = std::atoi(request.c_str());
      while (waitpid(pid, &answer, 0) < 0 && errno == EINTR) {
      }
    }
    if (write(requests, &answer, sizeof(answer)) != sizeof(answer)) _exit(2);
  }
}

}  // namespace

void StartForkServer(ChildRole role) {
  int sockets[2];
  pid_t pid = -1;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0 || (pid = fork()) < 0) {
    std::perror("the fork server");
    std::exit(2);
  }
  if (pid == 0) {
    close(sockets[0]);
    Serve(role, sockets[1]);
  }
  close(sockets[1]);
  fork_server = sockets[0];
}

Child::Child(const std::vector<std::string>& arguments) {
  std::signal(SIGPIPE, SIG_IGN);  // a child that has died shows as a failed write
  int to_child[2], from_child[2];
  REQUIRE(pipe2(to_child, O_CLOEXEC) == 0);
  REQUIRE(pipe2(from_child, O_CLOEXEC) == 0);
  if (fork_server >= 0) {
    std::string text;
    for (const std::string& word : arguments) text.append(word).push_back('\0');
    REQUIRE(text.size() <= kMaxRequest);
    const int files[] = {to_child[0], from_child[1]};
    SendRequest(text, files);
    pid_ = ReadAnswer();
    REQUIRE(pid_ > 0);
  } else {
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
  }
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
  for (;;) {
    const size_t end = unread_.find('\n');
    if (end != std::string::npos) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      return line;
    }
    char buffer[4096];
    const ssize_t size = read(output_, buffer, sizeof(buffer));
    if (size <= 0) return std::exchange(unread_, "");
    unread_.append(buffer, static_cast<size_t>(size));
  }
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
  if (fork_server >= 0) {
    SendRequest(std::to_string(pid_), nullptr);
    status = ReadAnswer();
  } else {
    REQUIRE(waitpid(pid_, &status, 0) == pid_);
  }
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
