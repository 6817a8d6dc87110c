// Adding, replacing and deleting rows.
#include <map>
#include <random>

#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("write");

// The rows of a collection by id, as quash_iterate() gives them.
struct StoredRow {
  std::vector<float> vector;
  std::string metadata;
  std::optional<std::string> document;
  bool operator==(const StoredRow&) const = default;
};

std::map<int64_t, StoredRow> ReadAll(quash_collection* collection, size_t dim) {
  quash_iterator* raw = nullptr;
  REQUIRE_OK(quash_iterate(collection, nullptr,
                           QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS | QUASH_INCLUDE_VECTORS,
                           &raw));
  const Iterator iterator(raw);
  std::map<int64_t, StoredRow> rows;
  for (;;) {
    quash_result* page = nullptr;
    REQUIRE_OK(quash_iterator_next(raw, 700, &page));
    const Result owned(page);
    const auto ids = IntIds(page);
    if (ids.empty()) return rows;
    for (size_t i = 0; i < ids.size(); ++i) {
      const float* vector = quash_result_vectors(page) + i * dim;
      const char* document = quash_result_document(page, i);
      StoredRow row = {{vector, vector + dim}, quash_result_metadata(page, i), std::nullopt};
      if (document != nullptr) row.document = document;
      REQUIRE(rows.emplace(ids[i], std::move(row)).second);
    }
  }
}

TEST_CASE("ids are assigned upward from the highest so far") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {});
  Rows rows{.n = 3, .vectors = RandomVectors(3, 16, 1)};
  int64_t ids[3];
  REQUIRE_OK(quash_add(c.get(), rows.Get(), ids));
  CHECK(ids[1] == ids[0] + 1);
  CHECK(ids[2] == ids[0] + 2);
  rows.int_ids = {-5, 1000, 70};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), ids));
  CHECK(ids[0] == -5);
  CHECK(ids[1] == 1000);
  rows.int_ids.clear();
  REQUIRE_OK(quash_add(c.get(), rows.Get(), ids));
  CHECK(ids[0] == 1001);
  CHECK(ids[2] == 1003);
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  CHECK(Count(c.get()) == 12);
  // The last id there is leaves no room above it.
  rows.int_ids = {INT64_MAX - 1, INT64_MAX, INT64_MIN};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  rows.int_ids.clear();
  const Unchanged unchanged(db.get());
  CHECK_FAILS(quash_add(c.get(), rows.Get(), nullptr), QUASH_LIMIT, "id");
}

TEST_CASE("adding a stored id is refused whole, upserting replaces") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(c.get(), SampleRows(100, 16, 0, 1).Get(), nullptr));
  Rows overlap = SampleRows(100, 16, 99, 2);
  {
    const Unchanged unchanged(db.get());
    CHECK_FAILS(quash_add(c.get(), overlap.Get(), nullptr), QUASH_EXISTS, "99");
  }
  REQUIRE_OK(quash_upsert(c.get(), overlap.Get()));
  CHECK(Count(c.get()) == 199);
  const auto rows = ReadAll(c.get(), 16);
  const nlohmann::json metadata = nlohmann::json::parse(rows.at(99).metadata);
  CHECK(metadata == nlohmann::json::parse(overlap.metadata[0]));
  CHECK_FALSE(rows.at(99).document);
  CHECK(*rows.at(100).document == "document 100");
}

TEST_CASE("an upsert without metadata or document clears them") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(c.get(), SampleRows(4, 16, 0, 1).Get(), nullptr));
  Rows bare{.n = 1, .vectors = RandomVectors(1, 16, 2), .int_ids = {2}};
  REQUIRE_OK(quash_upsert(c.get(), bare.Get()));
  CHECK(Count(c.get(), "lang IS NULL") == 1);
  CHECK_FALSE(ReadAll(c.get(), 16).at(2).document);
}

TEST_CASE("f32 keeps the vector as given, f16 and int8 come close") {
  for (const auto metric : {QUASH_METRIC_IP, QUASH_METRIC_L2}) {
    for (const auto rerank : {QUASH_RERANK_F32, QUASH_RERANK_F16, QUASH_RERANK_INT8}) {
      CAPTURE(rerank);
      const Db db = Open(":memory:");
      const Collection c = Create(db.get(), "c", {.dim = 33, .metric = metric, .rerank = rerank});
      Rows rows{.n = 50, .vectors = RandomVectors(50, 33, 1), .int_ids = {}};
      REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
      const auto stored = ReadAll(c.get(), 33);
      REQUIRE(stored.size() == 50);
      size_t i = 0;
      for (const auto& [id, row] : stored) {
        for (size_t d = 0; d < 33; ++d, ++i) {
          const double tolerance = rerank == QUASH_RERANK_F32   ? 0
                                   : rerank == QUASH_RERANK_F16 ? 2e-3
                                                                : 4e-2;
          CHECK(std::abs(row.vector[d] - rows.vectors[i]) <= tolerance);
        }
      }
    }
  }
}

TEST_CASE("deletes by id and by filter count what they removed") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(c.get(), SampleRows(100, 16, 0, 1).Get(), nullptr));
  const int64_t wanted[] = {5, 7, 5000, 5};
  quash_ids ids = {4, wanted, nullptr};
  uint64_t deleted = 99;
  REQUIRE_OK(quash_delete(c.get(), &ids, &deleted));
  CHECK(deleted == 2);
  REQUIRE_OK(quash_delete(c.get(), &ids, &deleted));
  CHECK(deleted == 0);
  ids.n = 0;
  REQUIRE_OK(quash_delete(c.get(), &ids, nullptr));
  REQUIRE_OK(quash_delete_where(c.get(), "lang = 'en' OR id >= 90", &deleted));
  CHECK(deleted == 19 + 8);  // 5 was an 'en'; 90 and 95 are counted once
  CHECK(Count(c.get()) == 98 - 27);
  // A deleted id can come back.
  Rows again = SampleRows(1, 16, 5, 9);
  REQUIRE_OK(quash_add(c.get(), again.Get(), nullptr));
  CHECK(Count(c.get(), "id = 5") == 1);
  REQUIRE_OK(quash_delete_where(c.get(), "TRUE", &deleted));
  CHECK(deleted == 72);
  CHECK(Count(c.get()) == 0);
}

TEST_CASE("string ids of every length and script") {
  const TempDir dir;
  Db db = Open(dir / "a.qdb");
  Collection c = Create(db.get(), "c", {.dim = 4, .id_type = QUASH_ID_STRING});
  Rows rows{.n = 6, .vectors = RandomVectors(6, 4, 1)};
  rows.string_ids = {"a", "A", "a b'c\"", "東京", std::string(QUASH_ID_BYTES_MAX, 'x'), "a/../b"};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  rows.string_ids[0] = "new";
  REQUIRE_OK(quash_upsert(c.get(), rows.Get()));
  CHECK(Count(c.get()) == 7);
  CHECK(Count(c.get(), "id = 'a b''c\"'") == 1);
  CHECK(Count(c.get(), "id LIKE '東%'") == 1);
  db.reset();
  db = Open(dir / "a.qdb");
  c = OpenCollection(db.get(), "c");
  const char* wanted[] = {"東京", "none", rows.string_ids[4].c_str(), "new"};
  const quash_ids ids = {4, nullptr, wanted};
  uint8_t found[4];
  REQUIRE_OK(quash_contains(c.get(), &ids, found));
  CHECK(found[0] == 1);
  CHECK(found[1] == 0);
  CHECK(found[2] == 1);
  CHECK(found[3] == 1);
}

TEST_CASE("an empty batch is no change") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {});
  Rows rows;
  const Unchanged unchanged(db.get());
  CHECK_OK(quash_add(c.get(), rows.Get(), nullptr));
  CHECK_OK(quash_upsert(c.get(), rows.Get()));
}

// Random batches against a model, through compaction and reopening.
TEST_CASE("random writes match a model") {
  const TempDir dir;
  constexpr size_t kDim = 12;
  Db db = Open(dir / "a.qdb");
  Collection c =
      Create(db.get(), "c", {.dim = kDim, .metric = QUASH_METRIC_L2, .fields = SampleFields()});
  std::map<int64_t, StoredRow> model;
  std::mt19937_64 random(2026);
  for (int step = 0; step < 60; ++step) {
    const uint64_t action = random() % 10;
    if (action < 6) {
      Rows batch = SampleRows(1 + random() % 400, kDim, random() % 3000, random());
      REQUIRE_OK(quash_upsert(c.get(), batch.Get()));
      for (size_t i = 0; i < batch.n; ++i) {
        const float* vector = batch.vectors.data() + i * kDim;
        model[batch.int_ids[i]] = {{vector, vector + kDim},
                                   nlohmann::json::parse(batch.metadata[i]).dump(),
                                   batch.documents[i]};
      }
    } else if (action < 8) {
      std::vector<int64_t> gone(random() % 300);
      for (int64_t& id : gone) id = random() % 3000;
      const quash_ids ids = {gone.size(), gone.data(), nullptr};
      uint64_t deleted = 0, expected = 0;
      REQUIRE_OK(quash_delete(c.get(), &ids, &deleted));
      for (const int64_t id : gone) expected += model.erase(id);
      CHECK(deleted == expected);
    } else if (action == 8) {
      REQUIRE_OK(quash_compact(db.get()));
    } else {
      c.reset();
      db.reset();
      db = Open(dir / "a.qdb");
      c = OpenCollection(db.get(), "c");
    }
    REQUIRE(Count(c.get()) == model.size());
  }
  auto stored = ReadAll(c.get(), kDim);
  REQUIRE(stored.size() == model.size());
  for (auto& entry : stored) {
    auto& row = entry.second;
    // Key order of the object is the collection's; absent fields are null.
    nlohmann::json metadata = nlohmann::json::parse(row.metadata);
    for (auto it = metadata.begin(); it != metadata.end();) {
      it = it->is_null() ? metadata.erase(it) : std::next(it);
    }
    row.metadata = metadata.dump();
    CHECK_MESSAGE(row == model.at(entry.first), "row ", entry.first);
  }
  CHECK_OK(quash_verify(db.get(), nullptr));
}

TEST_CASE("disk space after churn returns to that of a fresh load") {
  const TempDir dir;
  const auto size_of = [&](const std::string& path) {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
      if (entry.is_regular_file() && entry.path().extension() != ".log") bytes += entry.file_size();
    }
    return bytes;
  };
  const auto load = [&](const std::string& path, int rounds) {
    const Db db = Open(path);
    const Collection c = Create(db.get(), "c", {.dim = 64, .fields = SampleFields()});
    for (int round = 0; round < rounds; ++round) {
      REQUIRE_OK(quash_upsert(c.get(), SampleRows(4000, 64, 0, round).Get()));
    }
    REQUIRE_OK(quash_compact(db.get()));
    REQUIRE_OK(quash_checkpoint(db.get()));
  };
  load(dir / "once.qdb", 1);
  load(dir / "often.qdb", 8);
  CHECK(size_of(dir / "often.qdb") < 1.1 * size_of(dir / "once.qdb"));
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
