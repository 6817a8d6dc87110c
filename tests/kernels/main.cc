// Runs the tests with the instruction set that QUASH_ISA names; exits with 77
// (skipped, for ctest) if this machine or build has none.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/dispatch.h"

int main(int argc, char** argv) {
  constexpr int kSkipped = 77;
  const char* wanted = std::getenv("QUASH_ISA");
  const char* chosen = quash::Kernels().name;
  if (wanted != nullptr && std::strcmp(wanted, chosen) != 0) {
    std::printf("skipped: no %s kernels here, the best are %s\n", wanted, chosen);
    return kSkipped;
  }
  std::printf("kernels: %s\n", chosen);
  return doctest::Context(argc, argv).run();
}
