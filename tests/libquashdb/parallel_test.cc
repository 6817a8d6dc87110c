// Loops over threads: every index once, in teams that grow, shrink and are kept.
#include <doctest/doctest.h>

#include <atomic>
#include <new>
#include <set>
#include <thread>
#include <vector>

#include "libquashdb/executor_parallel.h"

namespace quash {
namespace {

TEST_CASE("every index is taken once, by no more threads than asked for") {
  for (const size_t threads : {1, 4, 2, 3, 8, 5, 1, 16, 2}) {
    CAPTURE(threads);
    std::vector<std::atomic<int>> taken(1000);
    std::vector<std::thread::id> by(taken.size());
    REQUIRE(ParallelFor(taken.size(), threads, [&](size_t i) {
              ++taken[i];
              by[i] = std::this_thread::get_id();
              return Status();
            }).ok());
    for (const std::atomic<int>& times : taken) REQUIRE(times == 1);
    CHECK(std::set(by.begin(), by.end()).size() <= threads);
  }
  CHECK(ParallelFor(0, 4, [](size_t) { return Error(QUASH_INTERNAL, "called"); }).ok());
}

TEST_CASE("a failure ends the loop, what is thrown is a status") {
  for (const size_t threads : {1, 2, 4}) {
    CAPTURE(threads);
    std::atomic<size_t> begun{0};
    const Status status = ParallelFor(100, threads, [&](size_t i) {
      ++begun;
      return i == 3 ? Error(QUASH_LIMIT, "number {}", i) : Status();
    });
    CHECK(status.code() == QUASH_LIMIT);
    CHECK(status.message() == "number 3");
    if (threads == 1) CHECK(begun == 4);  // others may go on until it is known
    const Status thrown = ParallelFor(8, threads, [](size_t) -> Status { throw std::bad_alloc(); });
    CHECK(thrown.code() == QUASH_NOMEM);
  }
}

}  // namespace
}  // namespace quash
