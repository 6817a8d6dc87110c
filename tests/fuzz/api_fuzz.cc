// libFuzzer: sequences of calls of quashdb.h, made from bytes, on a database in
// memory, checked against a map of what should be stored. Half of the collections are
// partitioned as soon as they have some rows. Aborts, after a line on stderr, when a
// promise of the header is broken.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "quashdb.h"

namespace {

#define REQUIRE(condition)                                                                         \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      std::fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #condition, quash_errmsg()); \
      std::abort();                                                                                \
    }                                                                                              \
  } while (0)

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t Next() { return empty() ? 0 : data_[at_++]; }
  uint32_t Below(uint32_t n) { return Next() % n; }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

struct Row {
  std::vector<float> vector;
  std::optional<int64_t> year;
  bool operator==(const Row&) const = default;
};

// Collections come and go; now and then the database is a new one, so that what is
// deleted does not pile up.
quash_db* Db() {
  static quash_db* db = nullptr;
  static int inputs = 0;
  if (inputs++ % 200 == 0) {
    if (db != nullptr) REQUIRE(quash_close(db) == QUASH_OK);
    quash_open_options options;
    quash_open_options_init(&options);
    options.threads = 1;
    REQUIRE(quash_open(":memory:", &options, &db) == QUASH_OK);
  }
  return db;
}

class Session {
 public:
  explicit Session(Bytes* bytes) : bytes_(*bytes), db_(Db()) {
    quash_collection_options options;
    quash_collection_options_init(&options);
    dim_ = 1 + bytes_.Below(9);
    const uint8_t choices = bytes_.Next();
    is_text_ = choices % 4 == 0;
    has_lists_ = choices / 4 % 2 == 0;
    if (has_lists_) options.partition_rows = QUASHDB_MIN_PARTITION_ROWS;
    const quash_field field = {"year", QUASH_FIELD_INT};
    options.dim = dim_;
    options.metric = QUASH_METRIC_L2;
    options.id_type = is_text_ ? QUASH_ID_STRING : QUASH_ID_INT64;
    bits_ = 1 + bytes_.Below(4);
    options.bits = bits_;
    options.rerank = QUASH_RERANK_F32;
    options.rotation = static_cast<quash_rotation>(bytes_.Below(2));
    options.seed = bytes_.Next();
    options.fields = &field;
    options.num_fields = 1;
    (void)quash_collection_drop(db_, "c");
    REQUIRE(quash_collection_create(db_, "c", &options, &collection_) == QUASH_OK);
    REQUIRE(quash_collection_create(db_, "c", &options, nullptr) == QUASH_EXISTS);
  }
  ~Session() {
    quash_iterator_free(iterator_);
    quash_collection_free(collection_);
  }

  void Step() {
    switch (bytes_.Below(14)) {
      case 0:
      case 1:
        return Write(/*upsert=*/false);
      case 2:
      case 3:
        return Write(/*upsert=*/true);
      case 4:
        return Delete();
      case 5:
        return DeleteWhere();
      case 6:
      case 7:
        return Search();
      case 8:
        return Get();
      case 9:
        return Count();
      case 10:
        return Iterate();
      case 11:
        return Misuse();
      case 12:
        return Reopen();
      default:
        return Compact();
    }
  }

  void CheckAll() {
    uint64_t count = 0;
    REQUIRE(quash_count(collection_, nullptr, &count) == QUASH_OK && count == rows_.size());
    quash_iterator* iterator = nullptr;
    REQUIRE(quash_iterate(collection_, nullptr, kInclude, &iterator) == QUASH_OK);
    std::map<int64_t, Row> found;
    while (true) {
      quash_result* page = nullptr;
      REQUIRE(quash_iterator_next(iterator, 5, &page) == QUASH_OK);
      const size_t n = quash_result_offsets(page)[1];
      for (size_t i = 0; i < n; ++i) REQUIRE(found.emplace(IdAt(page, i), RowAt(page, i)).second);
      quash_result_free(page);
      if (n == 0) break;
    }
    quash_iterator_free(iterator);
    REQUIRE(found == rows_);
  }

 private:
  static constexpr uint32_t kIds = 60;  // that rows are written with
  static constexpr uint32_t kInclude = QUASH_INCLUDE_METADATA | QUASH_INCLUDE_VECTORS;

  // Ids as the collection has them.
  struct Ids {
    std::vector<int64_t> ints;
    std::vector<std::string> texts;
    std::vector<const char*> pointers;
    quash_ids View(bool is_text) {
      for (const int64_t id : ints) texts.push_back(std::string(1, 'k').append(std::to_string(id)));
      for (const std::string& text : texts) pointers.push_back(text.c_str());
      return {ints.size(), is_text ? nullptr : ints.data(), is_text ? pointers.data() : nullptr};
    }
  };

  int64_t IdAt(const quash_result* result, size_t row) const {
    if (!is_text_) return quash_result_int_ids(result)[row];
    const char* text = quash_result_string_id(result, row);
    REQUIRE(text != nullptr && text[0] == 'k');
    return std::strtoll(text + 1, nullptr, 10);
  }
  Row RowAt(const quash_result* result, size_t row) const {
    Row found;
    const float* vector = quash_result_vectors(result) + row * dim_;
    found.vector.assign(vector, vector + dim_);
    const std::string metadata = quash_result_metadata(result, row);
    if (const size_t colon = metadata.find("\"year\":"); colon != std::string::npos) {
      found.year = std::strtoll(metadata.c_str() + colon + 7, nullptr, 10);
    }
    return found;
  }
  std::vector<float> Vector() {
    std::vector<float> vector(dim_);
    for (float& x : vector) x = static_cast<float>(static_cast<int8_t>(bytes_.Next()));
    return vector;
  }

  void Write(bool upsert) {
    // Many at a time differ in their ids, else they are refused, and take few bytes.
    const bool many = bytes_.Below(12) == 0;
    const size_t n = many ? 40 : bytes_.Below(5);
    const uint32_t first = many ? bytes_.Below(kIds) : 0;
    std::minstd_rand random(many ? bytes_.Next() + 1 : 1);
    Ids ids;
    std::vector<Row> rows(n);
    std::vector<float> vectors;
    std::vector<std::string> metadata(n);
    std::vector<const char*> pointers;
    bool repeats = false, exists = false;
    for (size_t i = 0; i < n; ++i) {
      const int64_t id = many ? (first + i) % kIds : bytes_.Below(kIds);
      repeats |= std::find(ids.ints.begin(), ids.ints.end(), id) != ids.ints.end();
      exists |= rows_.contains(id);
      ids.ints.push_back(id);
      rows[i].vector.resize(dim_);
      for (float& x : rows[i].vector) {
        x = static_cast<int8_t>(many ? random() : bytes_.Next());
      }
      vectors.insert(vectors.end(), rows[i].vector.begin(), rows[i].vector.end());
      const uint8_t year = many ? static_cast<uint8_t>(random()) : bytes_.Next();
      if (year % 4 != 0) rows[i].year = year;
      metadata[i] = year % 4 == 0 ? "{}" : "{\"year\":" + std::to_string(year) + "}";
    }
    for (const std::string& text : metadata) pointers.push_back(text.c_str());
    const quash_ids view = ids.View(is_text_);
    quash_rows batch;
    quash_rows_init(&batch);
    batch.n = n;
    batch.int_ids = view.int_ids;
    batch.string_ids = view.string_ids;
    batch.vectors = vectors.data();
    batch.metadata = pointers.data();
    if (n == 0) batch.vectors = reinterpret_cast<const float*>(pointers.data());  // not looked at
    const quash_status status =
        upsert ? quash_upsert(collection_, &batch) : quash_add(collection_, &batch, nullptr);
    if (repeats) {
      REQUIRE(status == QUASH_INVALID);
    } else if (exists && !upsert) {
      REQUIRE(status == QUASH_EXISTS);
    } else {
      REQUIRE(status == QUASH_OK);
      for (size_t i = 0; i < n; ++i) rows_[ids.ints[i]] = rows[i];
    }
  }

  void Delete() {
    Ids ids;
    for (uint32_t left = bytes_.Below(20); left > 0; --left) ids.ints.push_back(bytes_.Below(70));
    const quash_ids view = ids.View(is_text_);
    uint64_t deleted = 0, expected = 0;
    for (const int64_t id : ids.ints) expected += rows_.erase(id);
    REQUIRE(quash_delete(collection_, &view, &deleted) == QUASH_OK);
    REQUIRE(deleted == expected);
  }

  void DeleteWhere() {
    const int64_t year = bytes_.Next();
    const std::string filter = "year > " + std::to_string(year);
    uint64_t deleted = 0;
    REQUIRE(quash_delete_where(collection_, filter.c_str(), &deleted) == QUASH_OK);
    REQUIRE(deleted ==
            std::erase_if(rows_, [&](const auto& row) { return row.second.year > year; }));
  }

  // Every row a candidate and small whole numbers: the staged search is exact.
  void Search() {
    const std::vector<float> query = Vector();
    const size_t k = 1 + bytes_.Below(50);
    quash_search_options options;
    quash_search_options_init(&options);
    options.exact = bytes_.Below(2);
    options.candidates = options.rerank_candidates = 1000;
    options.nprobe = UINT32_MAX;  // every list
    options.planes = bytes_.Below(std::min<uint32_t>(bits_, 2) + 1);
    options.include = bytes_.Below(2) * kInclude;
    const bool filtered = bytes_.Below(2) == 1;
    const int64_t year = bytes_.Next();
    const std::string filter = "year <= " + std::to_string(year) + " OR year IS NULL";
    if (filtered) options.filter = filter.c_str();
    quash_result* result = nullptr;
    REQUIRE(quash_search(collection_, query.data(), 1, k, &options, &result) == QUASH_OK);
    std::vector<float> scores;
    for (const auto& [id, row] : rows_) {
      if (filtered && row.year > year) continue;
      scores.push_back(Score(query, row.vector));
    }
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.resize(std::min(scores.size(), k));
    REQUIRE(quash_result_offsets(result)[1] == scores.size());
    for (size_t i = 0; i < scores.size(); ++i) {
      REQUIRE(quash_result_scores(result)[i] == scores[i]);
      const auto row = rows_.find(IdAt(result, i));
      REQUIRE(row != rows_.end() && Score(query, row->second.vector) == scores[i]);
      if (options.include != 0) REQUIRE(RowAt(result, i) == row->second);
    }
    quash_result_free(result);
  }
  static float Score(const std::vector<float>& a, const std::vector<float>& b) {
    float sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum -= (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
  }

  void Get() {
    Ids ids;
    for (uint32_t left = bytes_.Below(10); left > 0; --left) ids.ints.push_back(bytes_.Below(70));
    const quash_ids view = ids.View(is_text_);
    quash_result* result = nullptr;
    std::vector<uint8_t> found(ids.ints.size() + 1, 77);
    REQUIRE(quash_contains(collection_, &view, found.data()) == QUASH_OK);
    REQUIRE(found.back() == 77);
    REQUIRE(quash_get(collection_, &view, kInclude, &result) == QUASH_OK);
    size_t row = 0;
    for (size_t i = 0; i < ids.ints.size(); ++i) {
      const auto expected = rows_.find(ids.ints[i]);
      REQUIRE(found[i] == (expected != rows_.end()));
      if (expected == rows_.end()) continue;
      REQUIRE(row < quash_result_offsets(result)[1]);
      REQUIRE(IdAt(result, row) == ids.ints[i] && RowAt(result, row) == expected->second);
      ++row;
    }
    REQUIRE(row == quash_result_offsets(result)[1]);
    quash_result_free(result);
  }

  void Count() {
    const int64_t year = bytes_.Next();
    const std::string filter = "NOT year = " + std::to_string(year);
    uint64_t count = 0;
    REQUIRE(quash_count(collection_, filter.c_str(), &count) == QUASH_OK);
    REQUIRE(count ==
            static_cast<uint64_t>(std::count_if(rows_.begin(), rows_.end(), [&](const auto& row) {
              return row.second.year && *row.second.year != year;
            })));
  }

  // A cursor that lives across writes goes on with what it began with.
  void Iterate() {
    if (iterator_ == nullptr) {
      REQUIRE(quash_iterate(collection_, nullptr, 0, &iterator_) == QUASH_OK);
      left_ = rows_.size();
      return;
    }
    quash_result* page = nullptr;
    const size_t want = 1 + bytes_.Below(7);
    REQUIRE(quash_iterator_next(iterator_, want, &page) == QUASH_OK);
    const size_t n = quash_result_offsets(page)[1];
    REQUIRE(n == std::min(want, left_));
    left_ -= n;
    quash_result_free(page);
    if (n > 0) return;
    quash_iterator_free(iterator_);
    iterator_ = nullptr;
  }

  void Misuse() {
    const std::vector<float> query(dim_, bytes_.Below(2) == 0 ? NAN : INFINITY);
    quash_result* result = nullptr;
    REQUIRE(quash_search(collection_, query.data(), 1, 3, nullptr, &result) == QUASH_INVALID);
    REQUIRE(quash_search(collection_, query.data(), 1, 0, nullptr, &result) == QUASH_INVALID);
    REQUIRE(quash_search(nullptr, query.data(), 1, 1, nullptr, &result) == QUASH_INVALID);
    REQUIRE(quash_search(collection_, nullptr, 1, 1, nullptr, &result) == QUASH_INVALID);
    // Any bytes as a filter.
    std::string filter;
    for (uint32_t left = bytes_.Below(30); left > 0; --left) {
      filter += static_cast<char>(1 + bytes_.Below(255));
    }
    uint64_t count = 0;
    if (quash_count(collection_, filter.c_str(), &count) != QUASH_OK) {
      REQUIRE(quash_errmsg()[0] != '\0' && count == 0);
      REQUIRE(quash_error_offset() <= static_cast<long>(filter.size()));
    } else {
      REQUIRE(count <= rows_.size());
    }
    const int64_t id = 1;
    const char* text = "k1";
    const quash_ids wrong = {1, is_text_ ? &id : nullptr, is_text_ ? nullptr : &text};
    REQUIRE(quash_get(collection_, &wrong, 0, &result) != QUASH_OK);
    quash_search_options options;
    quash_search_options_init(&options);
    options.struct_size = bytes_.Next() * 3;
    if (quash_search(collection_, query.data(), 1, 3, &options, &result) == QUASH_OK) std::abort();
    REQUIRE(result == nullptr);
  }

  // Seals rows, and makes lists where there are some. What follows in RocksDB, from the
  // eighth call of the progress function or so on, costs more than all other calls
  // together: mostly it is cancelled before.
  void Compact() {
    if (bytes_.Below(has_lists_ ? 4 : 24) != 1) return;  // not 0, where the bytes end
    uint32_t left = bytes_.Below(32) == 1 ? 1000 : bytes_.Below(9);
    const auto stop_after = [](void* data, uint64_t, uint64_t) {
      auto& calls = *static_cast<uint32_t*>(data);
      return calls == 0 ? 1 : (--calls, 0);
    };
    REQUIRE(quash_set_progress(db_, stop_after, &left) == QUASH_OK);
    const quash_status status = quash_compact(db_);
    REQUIRE(status == QUASH_OK || (status == QUASH_CANCELLED && left == 0));
    REQUIRE(quash_set_progress(db_, nullptr, nullptr) == QUASH_OK);
  }

  void Reopen() {
    quash_collection* other = nullptr;
    REQUIRE(quash_collection_open(db_, "c", &other) == QUASH_OK);
    quash_collection_free(collection_);
    collection_ = other;
    char* text = nullptr;
    REQUIRE(quash_collection_describe(collection_, &text) == QUASH_OK);
    quash_free(text);
  }

  Bytes& bytes_;
  quash_db* db_;
  quash_collection* collection_ = nullptr;
  quash_iterator* iterator_ = nullptr;
  size_t left_ = 0;  // of iterator_
  uint32_t dim_ = 0;
  uint32_t bits_ = 0;
  bool is_text_ = false;
  bool has_lists_ = false;  // once there are some rows
  std::map<int64_t, Row> rows_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  Session session(&bytes);
  for (int step = 0; step < 40 && !bytes.empty(); ++step) session.Step();
  session.CheckAll();
  return 0;
}
