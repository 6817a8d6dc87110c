#include "kernels/topk.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/random.h"

namespace quash {
namespace {

bool operator==(const Candidate& a, const Candidate& b) {
  return a.score == b.score && a.row == b.row;
}

std::vector<Candidate> Best(std::vector<Candidate> all, size_t k) {
  std::sort(all.begin(), all.end(), Better);
  all.resize(std::min(k, all.size()));
  return all;
}

std::vector<Candidate> RunTopK(const std::vector<Candidate>& stream, size_t k) {
  std::vector<Candidate> buffer(2 * k);  // exactly, for sanitizers
  TopK top(buffer.data(), k);
  for (const Candidate& candidate : stream) top.Push(candidate.score, candidate.row);
  buffer.resize(top.Finish());
  return buffer;
}

void CheckEqual(const std::vector<Candidate>& got, const std::vector<Candidate>& expected) {
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == expected[i]);
}

TEST_CASE("top k equals sorting everything, in any order of arrival") {
  Random random(1);
  for (size_t k : {1, 2, 3, 10, 100}) {
    for (size_t n : {0, 1, 2, 9, 10, 11, 200, 3000}) {
      for (uint32_t distinct : {1u, 5u, 1000000u}) {  // many ties, and few
        CAPTURE(k);
        CAPTURE(n);
        CAPTURE(distinct);
        std::vector<Candidate> stream;
        for (size_t i = 0; i < n; ++i) {
          stream.push_back({static_cast<float>(random.Below(distinct)) - 3, i});
        }
        const std::vector<Candidate> expected = Best(stream, k);
        CheckEqual(RunTopK(stream, k), expected);
        std::reverse(stream.begin(), stream.end());
        CheckEqual(RunTopK(stream, k), expected);
        std::sort(stream.begin(), stream.end(), Better);
        CheckEqual(RunTopK(stream, k), expected);
        std::reverse(stream.begin(), stream.end());
        CheckEqual(RunTopK(stream, k), expected);
      }
    }
  }
}

TEST_CASE("the threshold is the k-th best so far after a shrink and only rises") {
  constexpr size_t kCapacity = 4;
  std::vector<Candidate> buffer(2 * kCapacity);
  TopK top(buffer.data(), kCapacity);
  CHECK(top.threshold() == -std::numeric_limits<float>::infinity());
  for (uint64_t row = 0; row < 8; ++row) top.Push(static_cast<float>(row), row);
  CHECK(top.threshold() == 4);
  top.Push(3.9f, 100);  // cannot enter
  top.Push(4, 0);       // equal to the threshold, by row before (4, 4)
  CHECK(top.Finish() == 4);
  CHECK(buffer[3] == Candidate{4, 0});
  CHECK(top.threshold() == 4);
}

TEST_CASE("infinite scores are ordinary scores") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  CheckEqual(RunTopK({{-kInfinity, 2}, {0, 1}, {kInfinity, 7}, {-kInfinity, 0}}, 3),
             {{kInfinity, 7}, {0, 1}, {-kInfinity, 0}});
}

}  // namespace
}  // namespace quash
