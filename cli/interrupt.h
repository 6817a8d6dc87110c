// Ctrl-C: a flag that long work looks at.
#pragma once

namespace quash::cli {

// Makes SIGINT set the flag; blocking calls return EINTR. What does not look at
// the flag is ended by the third SIGINT: the process exits at once, which
// loses nothing that was acknowledged.
void CatchInterrupts();
bool Interrupted();
void ClearInterrupt();
// Blocks until the file can be read or has ended: true, or the flag is set:
// false, also when the signal came just before or reached another thread.
bool WaitForInput(int fd);
// Throws Error("interrupted") with kExitInterrupted if the flag is set.
void ThrowIfInterrupted();

}  // namespace quash::cli
