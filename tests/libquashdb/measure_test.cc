#include "libquashdb/measure.h"

#include <doctest/doctest.h>

#include <vector>

#include "libquashdb/executor.h"
#include "tests/libquashdb/memory_collection.h"

namespace quash {
namespace {

constexpr size_t kRows = 4000;
constexpr uint32_t kDim = 64;

MemoryCollection Rows(quash_rerank rerank) {
  CollectionSpec spec;
  spec.name = "measured";
  spec.dim = kDim;
  spec.rerank = rerank;
  MemoryCollection rows(spec, 1000);
  rows.Add(RandomVectors(kRows, kDim, 0, 31).data(), kRows);
  return rows;
}

Status MeasureQuietly(const Snapshot& snapshot, const MeasureRequest& request,
                      MeasureReport* report) {
  return Measure(snapshot, request, {}, report);
}

}  // namespace

TEST_CASE("the default widths are measured on sampled rows") {
  const MemoryCollection rows = Rows(QUASH_RERANK_F16);
  const Snapshot snapshot = rows.GetSnapshot();
  MeasureRequest request;
  request.sample = 50;
  MeasureReport report;
  REQUIRE(MeasureQuietly(snapshot, request, &report).ok());
  CHECK(report.queries == 50);
  CHECK(report.recall >= 0.95);
  CHECK(report.recall <= 1);
  CHECK(report.recall_low < report.recall);
  CHECK(report.recall_low > 0.8);
  CHECK(report.exact_us > 0);
  CHECK(report.search_us > 0);
  CHECK(report.widths.candidates >= 10);
  CHECK(report.widths.planes == 1);
  CHECK(report.keep.candidates == 0);  // still chosen for each query
  CHECK(report.keep.measured_k == 10);
  CHECK(report.keep.measured_recall == report.recall);

  MeasureReport again;
  REQUIRE(MeasureQuietly(snapshot, request, &again).ok());
  CHECK(again.recall == report.recall);
}

TEST_CASE("a width too small shows in the recall") {
  const MemoryCollection rows = Rows(QUASH_RERANK_F16);
  Snapshot snapshot = rows.GetSnapshot();
  snapshot.widths.candidates = 11;
  snapshot.widths.measured_k = 10;
  MeasureRequest request;
  request.sample = 50;
  MeasureReport report;
  REQUIRE(MeasureQuietly(snapshot, request, &report).ok());
  CHECK(report.recall < 0.7);
  CHECK(report.keep.candidates == 11);
}

TEST_CASE("widths found for a target reach it, on the caller's queries") {
  const MemoryCollection rows = Rows(QUASH_RERANK_F32);
  Snapshot snapshot = rows.GetSnapshot();
  const std::vector<float> queries = RandomVectors(40, kDim, 0, 32);
  MeasureRequest request;
  request.queries = queries.data();
  request.nq = 40;
  uint32_t last = 0;
  for (double target : {0.6, 0.9, 1.0}) {
    request.target_recall = target;
    MeasureReport report;
    REQUIRE(MeasureQuietly(snapshot, request, &report).ok());
    CHECK(report.queries == 40);
    CHECK(report.recall >= target);
    CHECK(report.widths.candidates >= 11);
    if (report.widths.planes == 1) {
      CHECK(report.widths.candidates >= last);
      last = report.widths.candidates;
    }
    CHECK(report.keep.candidates == report.widths.candidates);
    // Kept, they give that recall again.
    snapshot.widths = report.keep;
    request.target_recall = 0;
    MeasureReport kept;
    REQUIRE(MeasureQuietly(snapshot, request, &kept).ok());
    CHECK(kept.recall == report.recall);
    snapshot.widths = SearchWidths();
  }
}

TEST_CASE("measuring can be cancelled and refuses what it cannot measure") {
  MemoryCollection rows = Rows(QUASH_RERANK_F16);
  MeasureReport report;
  MeasureRequest request;
  uint64_t calls = 0, last_total = 0;
  const auto stop = [&](uint64_t done, uint64_t total) {
    CHECK(done == calls);
    last_total = total;
    return ++calls == 5;
  };
  CHECK(Measure(rows.GetSnapshot(), request, stop, &report).code() == QUASH_CANCELLED);
  CHECK(calls == 5);
  CHECK(last_total >= 400);
  CHECK(report.queries == 0);

  request.target_recall = 1.5;
  CHECK(MeasureQuietly(rows.GetSnapshot(), request, &report).code() == QUASH_INVALID);
  request = MeasureRequest();
  for (size_t row = 0; row < kRows; ++row) rows.Delete(row);
  CHECK(MeasureQuietly(rows.GetSnapshot(), request, &report).code() == QUASH_INVALID);
  CHECK(MeasureQuietly(Rows(QUASH_RERANK_NONE).GetSnapshot(), request, &report).code() ==
        QUASH_INVALID);
}

}  // namespace quash
