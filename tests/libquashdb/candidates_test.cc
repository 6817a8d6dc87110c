#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/random.h"
#include "libquashdb/executor_candidates.h"

namespace quash {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

float KthOf(std::vector<float> scores, size_t k) {
  if (scores.size() < k) return kNone;
  std::sort(scores.begin(), scores.end(), std::greater<>());
  return scores[k - 1];
}

TEST_CASE("the k-th best of many scores at once, over several calls") {
  Random random(5);
  for (size_t k : {1, 2, 10, 16, 17, 100}) {
    for (size_t n : {0, 1, 9, 10, 255, 256, 257, 300, 1563, 2048}) {
      for (uint32_t distinct : {3u, 40u, 1u << 20}) {  // many ties, some, hardly any
        CAPTURE(k);
        CAPTURE(n);
        CAPTURE(distinct);
        KthBest kth;
        kth.Reset(k);
        std::vector<float> all;
        for (int call = 0; call < 3; ++call) {
          std::vector<float> scores(n);
          for (float& score : scores) {
            // Blocks without a row that counts have no score.
            score = random.Below(8) == 0 ? kNone : static_cast<float>(random.Below(distinct));
          }
          kth.PushAll(scores);
          all.insert(all.end(), scores.begin(), scores.end());
          REQUIRE(kth.threshold() == KthOf(all, k));
        }
      }
    }
  }
}

}  // namespace
}  // namespace quash
