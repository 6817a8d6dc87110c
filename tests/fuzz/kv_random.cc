// The calls of kv_fuzz.cc from random bytes, without libFuzzer:
//   kv_random [rounds] [seed]
// Round i takes its bytes from seed + i, which is printed if it fails;
// kv_random 1 <that seed> repeats it.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "tests/fuzz/kv_calls.h"

namespace {

char message[64];
int message_size = 0;

extern "C" void Report(int signal_number) {
  // Nothing is left to do if this fails.
  if (write(STDERR_FILENO, message, static_cast<size_t>(message_size)) < 0) _exit(2);
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long rounds = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1500;
  const unsigned long seed = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) signal(number, Report);
  for (unsigned long round = seed; round < seed + rounds; ++round) {
    message_size = std::snprintf(message, sizeof(message), "kv_random: seed %lu\n", round);
    std::mt19937_64 random(round);
    std::vector<uint8_t> bytes(40 + random() % 1000);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    RunKvCalls(bytes.data(), bytes.size());
  }
  std::printf("%lu rounds from seed %lu\n", rounds, seed);
}
