#include "libquashdb/recall_curve.h"

#include <doctest/doctest.h>

#include <vector>

namespace quash {
namespace {

TEST_CASE("a recall curve is read on lines over the logarithm of nprobe") {
  const std::vector<RecallPoint> curve = {{1, 0.25f}, {4, 0.75f}, {16, 0.875f}, {64, 0.875f}};
  CHECK(RecallOf(curve, 1) == 0.25);
  CHECK(RecallOf(curve, 2) == doctest::Approx(0.5));
  CHECK(RecallOf(curve, 4) == 0.75);
  CHECK(RecallOf(curve, 8) == doctest::Approx(0.8125));
  CHECK(RecallOf(curve, 32) == 0.875);
  CHECK(RecallOf(curve, 1000) == 0.875);
  CHECK(RecallOf(curve, 0.5) == -1);
  CHECK(RecallOf({}, 5) == -1);

  CHECK(NprobeFor(curve, 0.1) == 1);
  CHECK(NprobeFor(curve, 0.25) == 1);
  CHECK(NprobeFor(curve, 0.5) == 2);
  CHECK(NprobeFor(curve, 0.51) == 3);
  CHECK(NprobeFor(curve, 0.75) == 4);
  CHECK(NprobeFor(curve, 0.8125) == 8);
  CHECK(NprobeFor(curve, 0.875) == 16);  // the first of equal points
  CHECK(NprobeFor(curve, 0.876) == 0);
  CHECK(NprobeFor({}, 0.5) == 0);
}

TEST_CASE("what a curve names for a recall gives that recall") {
  const std::vector<RecallPoint> curve = {{1, 0.3f}, {3, 0.61f}, {8, 0.9f}, {700, 0.998f}};
  for (double recall = 0.3; recall < 0.998; recall += 0.001) {
    const uint32_t nprobe = NprobeFor(curve, recall);
    REQUIRE(nprobe >= 1);
    CHECK(RecallOf(curve, nprobe) >= recall - 1e-6);
    if (nprobe > 1) CHECK(RecallOf(curve, nprobe - 1) < recall);
  }
}

}  // namespace
}  // namespace quash
