#include "cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "cli/error.h"

namespace quash::cli {
namespace {

std::atomic<int> interrupts{0};
static_assert(std::atomic<int>::is_always_lock_free, "set in a signal handler");

void OnInterrupt(int) {
  const int error_before = errno;
  const int count = interrupts.fetch_add(1) + 1;
  if (count == 2) {
    constexpr char kNote[] = "\nstopping; Ctrl-C once more ends quashdb at once\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kNote, sizeof kNote - 1);
  }
  if (count >= 3) _exit(kExitInterrupted);
  errno = error_before;
}

}  // namespace

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);  // no SA_RESTART: the prompt must wake up
  signal(SIGPIPE, SIG_IGN);             // a closed pipe is a failed write
}

bool Interrupted() { return interrupts.load() > 0; }
void ClearInterrupt() { interrupts.store(0); }

void ThrowIfInterrupted() {
  if (Interrupted()) throw Error("interrupted", std::nullopt, kExitInterrupted);
}

}  // namespace quash::cli
