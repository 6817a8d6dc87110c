#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "tests/capi/support.h"

int main(int argc, char** argv) {
  if (const auto exit_code = capi_test::RunChildRole(argc, argv)) return *exit_code;
  return doctest::Context(argc, argv).run();
}
