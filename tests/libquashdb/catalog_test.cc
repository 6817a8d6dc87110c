#include "libquashdb/catalog.h"

#include <doctest/doctest.h>

#include <limits>

#include "kernels/codebook.h"

namespace quash {
namespace {

CatalogEntry Entry() {
  CatalogEntry entry;
  entry.spec.number = 7;
  entry.spec.name = "größe";
  entry.spec.dim = 48;
  entry.spec.partition_rows = 5000;
  entry.spec.fields = {{"lang", QUASH_FIELD_STRING}};
  entry.codebook = MakeLevelCodebook(GetCodebook(48, 4));
  entry.segment_rows = 4096;
  entry.widths.candidates = 80;
  entry.widths.rerank_candidates = 40;
  entry.widths.planes = 1;
  entry.widths.measured_k = 10;
  entry.widths.measured_recall = 0.97;
  entry.widths.recall_curve = {{1, 0.25f}, {4, 0.75f}, {9, 0.75f}, {70, 1.0f}};
  entry.widths.recall_target = 0.95;
  return entry;
}

TEST_CASE("a collection's entry reads back whole") {
  const CatalogEntry entry = Entry();
  CatalogEntry read;
  REQUIRE(DecodeCatalogEntry(EncodeCatalogEntry(entry), &read).ok());
  CHECK(read.spec.number == 7);
  CHECK(read.spec.name == entry.spec.name);
  CHECK(read.spec.dim == 48);
  CHECK(read.spec.partition_rows == 5000);
  REQUIRE(read.spec.fields.size() == 1);
  CHECK(read.spec.fields[0].name == "lang");
  CHECK(read.segment_rows == 4096);
  CHECK(read.widths.candidates == 80);
  CHECK(read.widths.rerank_candidates == 40);
  CHECK(read.widths.planes == 1);
  CHECK(read.widths.measured_k == 10);
  CHECK(read.widths.measured_recall == 0.97);
  CHECK(read.widths.recall_target == 0.95);
  REQUIRE(read.widths.recall_curve.size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    CHECK(read.widths.recall_curve[i].nprobe == entry.widths.recall_curve[i].nprobe);
    CHECK(read.widths.recall_curve[i].recall == entry.widths.recall_curve[i].recall);
  }
}

TEST_CASE("an entry that was never measured has the defaults") {
  CatalogEntry entry = Entry();
  entry.spec.partition_rows = kDefaultPartitionRows;
  entry.widths = SearchWidths();
  CatalogEntry read;
  REQUIRE(DecodeCatalogEntry(EncodeCatalogEntry(entry), &read).ok());
  CHECK(read.spec.partition_rows == 100'000);
  CHECK(read.widths.recall_curve.empty());
  CHECK(read.widths.recall_target == 0);
  CHECK(read.widths.measured_recall == -1);
  entry.spec.partition_rows = UINT64_MAX;
  REQUIRE(DecodeCatalogEntry(EncodeCatalogEntry(entry), &read).ok());
  CHECK(read.spec.partition_rows == UINT64_MAX);
}

TEST_CASE("a recall curve that cannot have been measured is damage") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::vector<RecallPoint>> curves = {
      {{1, 1.5f}}, {{1, -0.1f}}, {{1, nan}}, {{4, 0.5f}, {4, 0.6f}}, {{4, 0.5f}, {2, 0.6f}},
      {{1, 0.5f}, {2, 0.4f}}};
  for (const auto& curve : curves) {
    CatalogEntry entry = Entry();
    entry.widths.recall_curve = curve;
    CatalogEntry read;
    CHECK(DecodeCatalogEntry(EncodeCatalogEntry(entry), &read).code() == QUASH_CORRUPT);
    CHECK(read.spec.name.empty());
  }
  for (const double target : {-0.5, 1.01, std::numeric_limits<double>::quiet_NaN()}) {
    CatalogEntry entry = Entry();
    entry.widths.recall_target = target;
    CatalogEntry read;
    CHECK(DecodeCatalogEntry(EncodeCatalogEntry(entry), &read).code() == QUASH_CORRUPT);
  }
}

}  // namespace
}  // namespace quash
