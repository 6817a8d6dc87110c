// The calls of kv_fuzz.cc from random bytes, without libFuzzer:
//   kv_random [rounds] [seed] [seconds]
// Round i takes its bytes from seed + i, which is printed if it fails;
// kv_random 1 <that seed> repeats it. After `seconds`, if not 0, no more are begun.
#include <signal.h>
#include <unistd.h>

#include <chrono>
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
  const unsigned long seconds = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 0;
  const auto begin = std::chrono::steady_clock::now();
  const auto has_time = [&] {
    return seconds == 0 || std::chrono::steady_clock::now() - begin < std::chrono::seconds(seconds);
  };
  unsigned long round = seed;
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) signal(number, Report);
  for (; round < seed + rounds && has_time(); ++round) {
    message_size = std::snprintf(message, sizeof(message), "kv_random: seed %lu\n", round);
    std::mt19937_64 random(round);
    std::vector<uint8_t> bytes(40 + random() % 1000);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    RunKvCalls(bytes.data(), bytes.size());
  }
  std::printf("%lu rounds from seed %lu\n", round - seed, seed);
}
