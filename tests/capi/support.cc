#include "tests/capi/support.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <random>

namespace capi_test {

std::string TakeText(char* text) {
  REQUIRE(text != nullptr);
  std::string copy = text;
  quash_free(text);
  return copy;
}

nlohmann::json TakeJson(char* text) { return nlohmann::json::parse(TakeText(text)); }

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "quashdb-test-XXXXXX").string();
  REQUIRE(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Db Open(const std::string& path, quash_open_mode mode, quash_durability durability) {
  quash_open_options options;
  quash_open_options_init(&options);
  options.mode = mode;
  options.durability = durability;
  quash_db* db = nullptr;
  REQUIRE_OK(quash_open(path.c_str(), &options, &db));
  return Db(db);
}

std::vector<quash_field> SampleFields() {
  return {{"bucket", QUASH_FIELD_INT},       {"lang", QUASH_FIELD_STRING},
          {"price", QUASH_FIELD_FLOAT},      {"fresh", QUASH_FIELD_BOOL},
          {"tags", QUASH_FIELD_STRING_LIST}, {"sizes", QUASH_FIELD_INT_LIST}};
}

Collection Create(quash_db* db, const char* name, const Settings& settings) {
  quash_collection_options options;
  quash_collection_options_init(&options);
  options.dim = settings.dim;
  options.metric = settings.metric;
  options.id_type = settings.id_type;
  options.bits = settings.bits;
  options.rerank = settings.rerank;
  options.rotation = settings.rotation;
  options.fields = settings.fields.data();
  options.num_fields = settings.fields.size();
  quash_collection* collection = nullptr;
  REQUIRE_OK(quash_collection_create(db, name, &options, &collection));
  return Collection(collection);
}

Collection OpenCollection(quash_db* db, const char* name) {
  quash_collection* collection = nullptr;
  REQUIRE_OK(quash_collection_open(db, name, &collection));
  return Collection(collection);
}

std::vector<float> RandomVectors(size_t n, size_t dim, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> vectors(n * dim);
  for (float& x : vectors) x = normal(random);
  return vectors;
}

const quash_rows* Rows::Get() {
  quash_rows& rows = view.rows;
  quash_rows_init(&rows);
  rows.n = n;
  rows.vectors = vectors.data();
  if (!int_ids.empty()) rows.int_ids = int_ids.data();
  const auto point = [](const auto& texts, std::vector<const char*>* pointers) {
    pointers->clear();
    for (const std::string& text : texts) pointers->push_back(text.c_str());
    return pointers->empty() ? nullptr : pointers->data();
  };
  rows.string_ids = point(string_ids, &view.string_ids);
  rows.metadata = point(metadata, &view.metadata);
  view.documents.clear();
  for (const auto& text : documents) view.documents.push_back(text ? text->c_str() : nullptr);
  if (!documents.empty()) rows.documents = view.documents.data();
  return &rows;
}

Rows SampleRows(size_t n, size_t dim, int64_t first_id, uint64_t seed) {
  constexpr const char* kLangs[] = {"en", "de", "fr", "it", "pl"};
  Rows rows;
  rows.n = n;
  rows.vectors = RandomVectors(n, dim, seed);
  for (size_t i = 0; i < n; ++i) {
    const int64_t id = first_id + static_cast<int64_t>(i);
    rows.int_ids.push_back(id);
    nlohmann::json metadata = {{"bucket", id % 1000},
                               {"lang", kLangs[id % 5]},
                               {"price", static_cast<double>(id % 7) / 4},
                               {"fresh", id % 2 == 0},
                               {"tags", {fmt::format("t{}", id % 3), "all"}},
                               {"sizes", {id % 4, 100}}};
    if (id % 10 == 9) metadata.erase("price");  // nulls
    rows.metadata.push_back(metadata.dump());
    rows.documents.emplace_back();
    if (id % 2 == 0) rows.documents.back() = fmt::format("document {}", id);
  }
  return rows;
}

std::vector<int64_t> IntIds(const quash_result* result, size_t query) {
  const size_t* offsets = quash_result_offsets(result);
  const int64_t* ids = quash_result_int_ids(result);
  return {ids + offsets[query], ids + offsets[query + 1]};
}

std::vector<float> Scores(const quash_result* result, size_t query) {
  const size_t* offsets = quash_result_offsets(result);
  const float* scores = quash_result_scores(result);
  return {scores + offsets[query], scores + offsets[query + 1]};
}

uint64_t Count(quash_collection* collection, const char* filter) {
  uint64_t count = 0;
  REQUIRE_OK(quash_count(collection, filter, &count));
  return count;
}

double ExactScore(quash_metric metric, const float* query, const float* vector, size_t dim) {
  double dot = 0, query_sq = 0, vector_sq = 0, difference_sq = 0;
  for (size_t i = 0; i < dim; ++i) {
    const double q = query[i], x = vector[i];
    dot += q * x;
    query_sq += q * q;
    vector_sq += x * x;
    difference_sq += (q - x) * (q - x);
  }
  switch (metric) {
    case QUASH_METRIC_IP:
      return dot;
    case QUASH_METRIC_COSINE:
      return dot / std::sqrt(query_sq * vector_sq);
    case QUASH_METRIC_L2:
      return -difference_sq;
  }
  return 0;
}

namespace {

#define RETURN_IF_NOT_OK(call)                                      \
  do {                                                              \
    if (const quash_status status_ = (call); status_ != QUASH_OK) { \
      return status_;                                               \
    }                                                               \
  } while (0)

void AppendRows(const quash_result* page, uint32_t dim, Vectors form, std::string* dump) {
  const int64_t* int_ids = quash_result_int_ids(page);
  const float* vectors = quash_result_vectors(page);
  const size_t rows = quash_result_offsets(page)[1];
  for (size_t row = 0; row < rows; ++row) {
    const char* document = quash_result_document(page, row);
    *dump += fmt::format(
        "{} {} {}",
        int_ids != nullptr ? std::to_string(int_ids[row]) : quash_result_string_id(page, row),
        quash_result_metadata(page, row), document ? document : "NULL");
    if (form == Vectors::kBytes) {
      dump->append(1, ' ').append(reinterpret_cast<const char*>(vectors + row * dim),
                                  dim * sizeof(float));
    } else {
      for (uint32_t i = 0; i < dim; ++i) *dump += fmt::format(" {}", vectors[row * dim + i]);
    }
    *dump += '\n';
  }
}

quash_status DumpCollection(quash_collection* collection, Vectors form, std::string* dump) {
  char* text = nullptr;
  RETURN_IF_NOT_OK(quash_collection_describe(collection, &text));
  *dump += std::string(text) + "\n";
  quash_free(text);
  quash_collection_info info{};
  info.struct_size = sizeof(info);
  RETURN_IF_NOT_OK(quash_collection_stats(collection, &info));
  quash_iterator* iterator = nullptr;
  RETURN_IF_NOT_OK(quash_iterate(
      collection, nullptr, QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS | QUASH_INCLUDE_VECTORS,
      &iterator));
  const Iterator owned(iterator);
  for (;;) {
    quash_result* page = nullptr;
    RETURN_IF_NOT_OK(quash_iterator_next(iterator, 1000, &page));
    const Result owned_page(page);
    if (quash_result_offsets(page)[1] == 0) return QUASH_OK;
    AppendRows(page, info.dim, form, dump);
  }
}

}  // namespace

quash_status TryDump(quash_db* db, std::string* dump, Vectors form) {
  dump->clear();
  char* text = nullptr;
  RETURN_IF_NOT_OK(quash_collection_list(db, &text));
  const auto names = nlohmann::json::parse(text).get<std::vector<std::string>>();
  quash_free(text);
  for (const std::string& name : names) {
    quash_collection* collection = nullptr;
    RETURN_IF_NOT_OK(quash_collection_open(db, name.c_str(), &collection));
    const Collection owned(collection);
    RETURN_IF_NOT_OK(DumpCollection(collection, form, dump));
  }
  return QUASH_OK;
}

std::string Dump(quash_db* db) {
  std::string dump;
  REQUIRE_OK(TryDump(db, &dump));
  return dump;
}

}  // namespace capi_test
