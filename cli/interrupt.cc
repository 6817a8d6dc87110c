#include "cli/interrupt.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "cli/error.h"

namespace quash::cli {
namespace {

std::atomic<int> interrupts{0};
static_assert(std::atomic<int>::is_always_lock_free, "set in a signal handler");
// Readable while the flag is set; both -1 if there were no descriptors left.
int wake_pipe[2] = {-1, -1};

void OnInterrupt(int) {
  const int error_before = errno;
  const int count = interrupts.fetch_add(1) + 1;
  if (count == 2) {
    constexpr char kNote[] = "\nstopping; Ctrl-C once more ends quashdb at once\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kNote, sizeof kNote - 1);
  }
  if (count >= 3) _exit(kExitInterrupted);
  if (count == 1) {
    [[maybe_unused]] const ssize_t woken = write(wake_pipe[1], "", 1);
  }
  errno = error_before;
}

}  // namespace

void CatchInterrupts() {
  [[maybe_unused]] const int made = pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK);
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);  // no SA_RESTART: the prompt must wake up
  signal(SIGPIPE, SIG_IGN);             // a closed pipe is a failed write
}

bool Interrupted() { return interrupts.load() > 0; }

void ClearInterrupt() {
  interrupts.store(0);  // first: a signal from here on stays seen
  char bytes[16];
  while (read(wake_pipe[0], bytes, sizeof bytes) > 0) {
  }
}

bool WaitForInput(int fd) {
  pollfd files[] = {{fd, POLLIN, 0}, {wake_pipe[0], POLLIN, 0}};
  while (!Interrupted()) {
    if (poll(files, 2, -1) < 0 && errno != EINTR) return true;  // read() says what is wrong
    if (files[0].revents != 0) return !Interrupted();
  }
  return false;
}

void ThrowIfInterrupted() {
  if (Interrupted()) throw Error("interrupted", std::nullopt, kExitInterrupted);
}

}  // namespace quash::cli
