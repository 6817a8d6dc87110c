#include "cli/interrupt.h"

#include <signal.h>

#include <atomic>

#include "cli/error.h"

namespace quash::cli {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set in a signal handler");

}  // namespace

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted.store(true); };
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);  // no SA_RESTART: the prompt must wake up
  signal(SIGPIPE, SIG_IGN);             // a closed pipe is a failed write
}

bool Interrupted() { return interrupted.load(); }
void ClearInterrupt() { interrupted.store(false); }

void ThrowIfInterrupted() {
  if (Interrupted()) throw Error("interrupted", std::nullopt, kExitInterrupted);
}

}  // namespace quash::cli
