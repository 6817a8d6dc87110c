// Rows by id, membership, counting, iteration.
#include "tests/capi/support.h"

namespace capi_test {
namespace {

TEST_SUITE_BEGIN("read");

TEST_CASE("get gives rows in the order asked and leaves unknown ids out") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.metric = QUASH_METRIC_IP, .fields = SampleFields()});
  Rows rows = SampleRows(200, 16, 0, 1);
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  const int64_t wanted[] = {150, -1, 3, 150, 199};
  const quash_ids ids = {5, wanted, nullptr};
  quash_result* result = nullptr;
  REQUIRE_OK(quash_get(c.get(), &ids,
                       QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS | QUASH_INCLUDE_VECTORS,
                       &result));
  const Result owned(result);
  CHECK(quash_result_num_queries(result) == 1);
  CHECK(IntIds(result) == std::vector<int64_t>{150, 3, 150, 199});
  CHECK(quash_result_scores(result) == nullptr);
  CHECK(quash_result_string_id(result, 0) == nullptr);
  CHECK(nlohmann::json::parse(quash_result_metadata(result, 1)) ==
        nlohmann::json::parse(rows.metadata[3]));
  CHECK(std::string(quash_result_document(result, 0)) == "document 150");
  CHECK(quash_result_document(result, 1) == nullptr);
  CHECK(quash_result_vectors(result)[16] == rows.vectors[3 * 16]);
  CHECK(quash_result_metadata(result, 4) == nullptr);
  CHECK(quash_result_document(result, 4) == nullptr);

  REQUIRE_OK(quash_get(c.get(), &ids, 0, &result));
  const Result bare(result);
  CHECK(quash_result_metadata(result, 0) == nullptr);
  CHECK(quash_result_document(result, 0) == nullptr);
  CHECK(quash_result_vectors(result) == nullptr);
}

TEST_CASE("accessors of a null result give nothing") {
  CHECK(quash_result_num_queries(nullptr) == 0);
  CHECK(quash_result_offsets(nullptr) == nullptr);
  CHECK(quash_result_int_ids(nullptr) == nullptr);
  CHECK(quash_result_string_id(nullptr, 0) == nullptr);
  CHECK(quash_result_scores(nullptr) == nullptr);
  CHECK(quash_result_vectors(nullptr) == nullptr);
  CHECK(quash_result_metadata(nullptr, 0) == nullptr);
  CHECK(quash_result_document(nullptr, 0) == nullptr);
  quash_result_free(nullptr);
  quash_iterator_free(nullptr);
  quash_query_free(nullptr);
  quash_collection_free(nullptr);
}

TEST_CASE("metadata comes back as it went in") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.dim = 2, .fields = SampleFields()});
  Rows rows{.n = 5, .vectors = RandomVectors(5, 2, 1), .int_ids = {0, 1, 2, 3, 4}};
  rows.metadata = {
      R"({"bucket":9223372036854775807,"price":-0.1,"fresh":true})",
      R"({"lang":"a\"b\\c\n\u00e9\ud83d\ude00","tags":[],"sizes":[-9223372036854775808]})",
      R"({"lang":"","tags":["","x","東"]})", R"({})", R"({"bucket":null,"price":3})"};
  REQUIRE_OK(quash_add(c.get(), rows.Get(), nullptr));
  const quash_ids ids = {5, rows.int_ids.data(), nullptr};
  quash_result* result = nullptr;
  REQUIRE_OK(quash_get(c.get(), &ids, QUASH_INCLUDE_METADATA, &result));
  const Result owned(result);
  for (size_t i = 0; i < 5; ++i) {
    const nlohmann::json given = nlohmann::json::parse(rows.metadata[i]);
    const nlohmann::json stored = nlohmann::json::parse(quash_result_metadata(result, i));
    for (const quash_field& field : SampleFields()) {
      const nlohmann::json null;
      CHECK_MESSAGE(given.value(field.name, null) == stored.value(field.name, null), "row ", i,
                    " field ", field.name, " is ", stored.dump());
    }
  }
}

TEST_CASE("contains and count") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  CHECK(Count(c.get()) == 0);
  CHECK(Count(c.get(), "TRUE") == 0);
  REQUIRE_OK(quash_add(c.get(), SampleRows(3000, 16, 0, 1).Get(), nullptr));
  const int64_t wanted[] = {0, 2999, 3000, -1};
  const quash_ids ids = {4, wanted, nullptr};
  uint8_t found[4] = {9, 9, 9, 9};
  REQUIRE_OK(quash_contains(c.get(), &ids, found));
  CHECK(found[0] == 1);
  CHECK(found[1] == 1);
  CHECK(found[2] == 0);
  CHECK(found[3] == 0);
  const quash_ids none = {0, nullptr, nullptr};
  CHECK_OK(quash_contains(c.get(), &none, nullptr));
  CHECK(Count(c.get()) == 3000);
  CHECK(Count(c.get(), "lang = 'de'") == 600);
  CHECK(Count(c.get(), "price IS NULL") == 300);
  CHECK(Count(c.get(), "FALSE") == 0);
}

TEST_CASE("iteration gives every row once, in insertion order, of one snapshot") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.fields = SampleFields()});
  REQUIRE_OK(quash_add(c.get(), SampleRows(500, 16, 2000, 1).Get(), nullptr));
  REQUIRE_OK(quash_add(c.get(), SampleRows(1500, 16, 100, 2).Get(), nullptr));
  quash_iterator* raw = nullptr;
  REQUIRE_OK(quash_iterate(c.get(), nullptr, 0, &raw));
  const Iterator all(raw);
  REQUIRE_OK(quash_iterate(c.get(), "fresh = TRUE AND bucket < 600", 0, &raw));
  const Iterator filtered(raw);
  // Writes afterwards are not seen, compaction does not disturb.
  REQUIRE_OK(quash_delete_where(c.get(), "bucket >= 300", nullptr));
  REQUIRE_OK(quash_add(c.get(), SampleRows(10, 16, 90000, 3).Get(), nullptr));
  REQUIRE_OK(quash_compact(db.get()));
  const auto read = [](quash_iterator* iterator, size_t page_rows) {
    std::vector<int64_t> ids;
    for (;;) {
      quash_result* page = nullptr;
      REQUIRE_OK(quash_iterator_next(iterator, page_rows, &page));
      const Result owned(page);
      const auto some = IntIds(page);
      if (some.empty()) return ids;
      CHECK(some.size() <= page_rows);
      ids.insert(ids.end(), some.begin(), some.end());
    }
  };
  std::vector<int64_t> expected, expected_filtered;
  for (int64_t id = 2000; id < 2500; ++id) expected.push_back(id);
  for (int64_t id = 100; id < 1600; ++id) expected.push_back(id);
  for (const int64_t id : expected) {
    if (id % 2 == 0 && id % 1000 < 600) expected_filtered.push_back(id);
  }
  CHECK(read(all.get(), 77) == expected);
  CHECK(read(all.get(), 77).empty());  // stays at the end
  CHECK(read(filtered.get(), 64) == expected_filtered);
}

TEST_CASE("texts of all rows in one piece") {
  const Db db = Open(":memory:");
  const Collection c = Create(db.get(), "c", {.id_type = QUASH_ID_STRING});
  const char* ids[] = {"a", "bc", "d"};
  const char* documents[] = {"one", nullptr, ""};
  std::vector<float> ones(3 * 16, 1);
  quash_rows rows;
  quash_rows_init(&rows);
  rows.n = 3;
  rows.string_ids = ids;
  rows.vectors = ones.data();
  rows.documents = documents;
  REQUIRE_OK(quash_add(c.get(), &rows, nullptr));
  const quash_ids wanted = {3, nullptr, ids};
  quash_result* raw = nullptr;
  REQUIRE_OK(quash_get(c.get(), &wanted, QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS, &raw));
  const Result result(raw);
  quash_texts texts;
  REQUIRE_OK(quash_result_texts(raw, QUASH_TEXT_STRING_ID, &texts));
  CHECK(std::string(texts.bytes, texts.offsets[3]) == "abcd");
  CHECK(texts.offsets[1] == 1);
  CHECK(texts.offsets[2] == 3);
  REQUIRE_OK(quash_result_texts(raw, QUASH_TEXT_METADATA, &texts));
  CHECK(std::string(texts.bytes, texts.offsets[3]) == "{}\n{}\n{}\n");
  for (int again = 0; again < 2; ++again) {
    REQUIRE_OK(quash_result_texts(raw, QUASH_TEXT_DOCUMENT, &texts));
    CHECK(std::string(texts.bytes, texts.offsets[3]) == "one");
    CHECK(texts.present[0] == 1);
    CHECK(texts.present[1] == 0);
    CHECK(texts.present[2] == 1);
  }
  CHECK(quash_result_texts(nullptr, QUASH_TEXT_DOCUMENT, &texts) == QUASH_INVALID);
  CHECK(quash_result_texts(raw, QUASH_TEXT_DOCUMENT, nullptr) == QUASH_INVALID);
  CHECK(quash_result_texts(raw, static_cast<quash_text>(7), &texts) == QUASH_INVALID);
  REQUIRE_OK(quash_get(c.get(), &wanted, 0, &raw));
  const Result bare(raw);
  CHECK(quash_result_texts(raw, QUASH_TEXT_DOCUMENT, &texts) == QUASH_INVALID);
  CHECK(std::string(quash_errmsg()).find("documents") != std::string::npos);
}

TEST_SUITE_END();

}  // namespace
}  // namespace capi_test
