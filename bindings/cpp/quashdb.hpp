// C++17 wrapper of quashdb.h: ownership by RAII, errors as exceptions, spans.
//
//   auto db = quashdb::Database::Open("notes.qdb");
//   auto notes = db.GetOrCreateCollection("notes", quashdb::CollectionOptions(384));
//   notes.Add(vectors);                                   // [n * 384] float
//   const quashdb::Result found = notes.Search(query, 10);
//   for (std::size_t row = found.begin(0); row < found.end(0); ++row)
//     use(found.int_ids()[row], found.scores()[row]);
//
// Link the library quashdb. Objects move and are not copied; calls on a closed or moved-from one
// throw Error with QUASH_INVALID. Threads may share Database and Collection; the others belong to
// one at a time. Shapes, ranges and statuses are those of quashdb.h.
#ifndef QUASHDB_HPP_
#define QUASHDB_HPP_

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "quashdb.h"

namespace quashdb {

// A call that gave a status other than QUASH_OK; what() is the library's message.
class Error : public std::runtime_error {
 public:
  Error(quash_status status, const std::string& message, long offset = -1)
      : std::runtime_error(message), status_(status), offset_(offset) {}

  quash_status status() const noexcept { return status_; }
  // Byte offset in the filter text of a QUASH_SYNTAX or QUASH_TYPE error, or -1.
  long offset() const noexcept { return offset_; }

 private:
  quash_status status_;
  long offset_;
};

// A view of n values owned elsewhere, as std::span of C++20; made from arrays and
// from anything with data() and size().
template <typename T>
class Span {
 public:
  constexpr Span() noexcept = default;
  constexpr Span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <std::size_t n>
  constexpr Span(T (&values)[n]) noexcept : data_(values), size_(n) {}
  template <
      typename Container,
      typename = std::enable_if_t<
          std::is_convertible_v<
              std::remove_pointer_t<decltype(std::declval<Container&>().data())> (*)[], T (*)[]> &&
          std::is_convertible_v<decltype(std::declval<Container&>().size()), std::size_t>>>
  constexpr Span(Container&& values) noexcept : data_(values.data()), size_(values.size()) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }
  constexpr T& operator[](std::size_t i) const noexcept { return data_[i]; }
  constexpr Span subspan(std::size_t offset, std::size_t count) const noexcept {
    return Span(data_ + offset, count);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

// total is 0 while unknown; false or an exception, which comes out, cancels the call.
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

namespace detail {

// Thrown by a progress callback on this thread; C code must not be unwound.
inline thread_local std::exception_ptr callback_exception;

inline int CallProgress(void* user_data, std::uint64_t done, std::uint64_t total) noexcept {
  try {
    return (*static_cast<const Progress*>(user_data))(done, total) ? 0 : 1;
  } catch (...) {
    callback_exception = std::current_exception();
    return 1;
  }
}

inline void Check(quash_status status) {
  if (callback_exception) std::rethrow_exception(std::exchange(callback_exception, nullptr));
  if (status != QUASH_OK) throw Error(status, quash_errmsg(), quash_error_offset());
}

template <typename T, auto free_function>
struct Free {
  void operator()(T* handle) const noexcept { free_function(handle); }
};
template <typename T, auto free_function>
using Handle = std::unique_ptr<T, Free<T, free_function>>;

// A NUL inside would silently cut the text short.
inline const char* Text(const std::string& text, const char* what) {
  if (text.find('\0') == std::string::npos) return text.c_str();
  throw Error(QUASH_INVALID, std::string(what) + " holds a NUL character");
}

inline const char* TextOrNull(const std::optional<std::string>& text, const char* what) {
  return text ? Text(*text, what) : nullptr;
}

template <typename Function>
std::string TakeText(Function&& function) {
  char* text = nullptr;
  Check(function(&text));
  const std::unique_ptr<char, Free<void, quash_free>> owned(text);
  return std::string(text);
}

inline std::vector<const char*> Texts(Span<const std::string> texts, const char* what,
                                      bool empty_is_null) {
  std::vector<const char*> pointers;
  pointers.reserve(texts.size());
  for (const std::string& text : texts) {
    pointers.push_back(empty_is_null && text.empty() ? nullptr : Text(text, what));
  }
  return pointers;
}

}  // namespace detail

inline constexpr std::uint32_t kIncludeTexts = QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS;

inline std::string Version() { return quash_version(); }
inline std::string Isa() { return quash_isa(); }

struct OpenOptions : quash_open_options {
  OpenOptions() { quash_open_options_init(this); }
};

// Set members by name, as options.metric = QUASH_METRIC_L2.
struct CollectionOptions : quash_collection_options {
  explicit CollectionOptions(std::uint32_t dimension) {
    quash_collection_options_init(this);
    dim = dimension;
  }

  std::vector<std::pair<std::string, quash_field_type>> fields;
};

struct SearchOptions {
  bool exact = false;
  std::optional<std::string> filter;
  double min_score = -std::numeric_limits<double>::infinity();
  std::uint32_t candidates = 0;         // 0: chosen
  std::uint32_t rerank_candidates = 0;  // 0: chosen
  std::uint32_t planes = 0;             // 0: chosen
  std::uint32_t nprobe = 0;             // lists probed; 0: by recall
  double recall = 0;                    // of a partitioned collection; 0: the default, 1: every row
  std::uint32_t include = 0;            // QUASH_INCLUDE_ flags
  std::uint32_t threads = 0;            // 0: as at open
  // Paging: rows after (score, id), the last row of the page before.
  std::optional<std::pair<float, std::int64_t>> after_int;
  std::optional<std::pair<float, std::string>> after_string;
};

struct MeasureOptions : quash_measure_options {
  MeasureOptions() { quash_measure_options_init(this); }
};

// A batch of rows to write, viewed during the call only.
struct Rows {
  Span<const std::int64_t> int_ids;    // [n], or empty in Add(): assigned
  Span<const std::string> string_ids;  // [n] for id type string
  Span<const float> vectors;           // [n * dim]
  Span<const std::string> metadata;    // [n] JSON objects, "" for none; or empty
  Span<const std::string> documents;   // [n] texts, "" for none; or empty
};

// Ids of either type, viewed during the call only.
class Ids {
 public:
  Ids(Span<const std::int64_t> ids) : ids_{ids.size(), ids.data(), nullptr} {}
  Ids(std::initializer_list<std::int64_t> ids) : ids_{ids.size(), ids.begin(), nullptr} {}
  Ids(Span<const std::string> ids) : texts_(detail::Texts(ids, "id", /*empty_is_null=*/false)) {
    ids_ = {ids.size(), nullptr, texts_.data()};
  }
  Ids(const Ids&) = delete;
  Ids& operator=(const Ids&) = delete;

  const quash_ids* get() const noexcept { return &ids_; }
  std::size_t size() const noexcept { return ids_.n; }

 private:
  std::vector<const char*> texts_;
  quash_ids ids_{};
};

// Rows found or read. Spans and texts live as long as the Result.
class Result {
 public:
  explicit Result(quash_result* result, std::size_t dim) : result_(result), dim_(dim) {}

  std::size_t num_queries() const { return quash_result_num_queries(result_.get()); }
  // Rows of query i are begin(i) .. end(i) - 1.
  std::size_t begin(std::size_t query) const { return offsets()[query]; }
  std::size_t end(std::size_t query) const { return offsets()[query + 1]; }
  std::size_t size() const { return offsets()[num_queries()]; }

  // [size()]; empty for id type string.
  Span<const std::int64_t> int_ids() const { return View(quash_result_int_ids(result_.get()), 1); }
  // Empty for id type int64 or a row out of range.
  std::string_view string_id(std::size_t row) const {
    return TextView(quash_result_string_id(result_.get(), row)).value_or(std::string_view());
  }
  // [size()], higher is better; empty for rows read.
  Span<const float> scores() const { return View(quash_result_scores(result_.get()), 1); }
  // [size() * dim]; empty unless included.
  Span<const float> vectors() const { return View(quash_result_vectors(result_.get()), dim_); }
  // [dim]; vectors must be included.
  Span<const float> vector(std::size_t row) const { return vectors().subspan(row * dim_, dim_); }
  // JSON object; nothing unless included.
  std::optional<std::string_view> metadata(std::size_t row) const {
    return TextView(quash_result_metadata(result_.get(), row));
  }
  // Nothing if the row has none or documents are not included.
  std::optional<std::string_view> document(std::size_t row) const {
    return TextView(quash_result_document(result_.get(), row));
  }

 private:
  const std::size_t* offsets() const {
    static constexpr std::size_t kNone[1] = {0};
    const std::size_t* offsets = quash_result_offsets(result_.get());
    return offsets != nullptr ? offsets : kNone;
  }
  template <typename T>
  Span<const T> View(const T* data, std::size_t per_row) const {
    return data == nullptr ? Span<const T>() : Span<const T>(data, size() * per_row);
  }
  static std::optional<std::string_view> TextView(const char* text) {
    return text == nullptr ? std::nullopt : std::optional<std::string_view>(text);
  }

  detail::Handle<quash_result, quash_result_free> result_;
  std::size_t dim_;
};

// Rows of one snapshot, in insertion order.
class Iterator {
 public:
  Iterator(quash_iterator* iterator, std::size_t dim) : iterator_(iterator), dim_(dim) {}

  // Up to max_rows next rows; an empty result is the end.
  Result Next(std::size_t max_rows) {
    quash_result* result = nullptr;
    detail::Check(quash_iterator_next(iterator_.get(), max_rows, &result));
    return Result(result, dim_);
  }

 private:
  detail::Handle<quash_iterator, quash_iterator_free> iterator_;
  std::size_t dim_;
};

namespace detail {

inline std::size_t CountRows(Span<const float> vectors, std::size_t dim, const char* what) {
  if (dim != 0 && vectors.size() % dim == 0) return vectors.size() / dim;
  throw Error(QUASH_INVALID, std::string(what) + " has " + std::to_string(vectors.size()) +
                                 " values, expected a multiple of dim " + std::to_string(dim));
}

// quash_search_options that point into `options`.
inline quash_search_options MakeSearchOptions(const SearchOptions& options) {
  quash_search_options made;
  quash_search_options_init(&made);
  made.exact = options.exact ? 1 : 0;
  made.filter = TextOrNull(options.filter, "filter");
  made.min_score = options.min_score;
  made.candidates = options.candidates;
  made.rerank_candidates = options.rerank_candidates;
  made.planes = options.planes;
  made.nprobe = options.nprobe;
  made.recall = options.recall;
  made.include = options.include;
  made.threads = options.threads;
  if (options.after_int) {
    made.has_cursor = 1;
    made.cursor_score = options.after_int->first;
    made.cursor_int_id = options.after_int->second;
  }
  if (options.after_string) {
    made.has_cursor = 1;
    made.cursor_score = options.after_string->first;
    made.cursor_string_id = Text(options.after_string->second, "id of after_string");
  }
  return made;
}

}  // namespace detail

// A search whose options are checked and filter compiled once.
class Query {
 public:
  Query(quash_query* query, std::size_t dim) : query_(query), dim_(dim) {}

  // queries: [nq * dim].
  Result Run(Span<const float> queries, std::size_t k) {
    quash_result* result = nullptr;
    const std::size_t nq = detail::CountRows(queries, dim_, "queries");
    detail::Check(quash_query_run(query_.get(), queries.data(), nq, k, &result));
    return Result(result, dim_);
  }

  // JSON object on the last run.
  std::string Explain() const {
    return detail::TakeText([&](char** out) { return quash_query_explain(query_.get(), out); });
  }

 private:
  detail::Handle<quash_query, quash_query_free> query_;
  std::size_t dim_;
};

class Collection {
 public:
  explicit Collection(quash_collection* collection) : collection_(collection) {
    dim_ = Stats().dim;
  }

  std::size_t dim() const noexcept { return dim_; }

  // Adds rows as one atomic batch.
  void Add(const Rows& rows) {
    Write(rows,
          [&](const quash_rows& given) { return quash_add(collection_.get(), &given, nullptr); });
  }

  // The same for [n * dim] vectors of an int64 collection; returns ids assigned.
  std::vector<std::int64_t> Add(Span<const float> vectors) {
    Rows rows;
    rows.vectors = vectors;
    std::vector<std::int64_t> ids(detail::CountRows(vectors, dim_, "vectors"));
    Write(rows, [&](const quash_rows& given) {
      return quash_add(collection_.get(), &given, ids.data());
    });
    return ids;
  }

  // Adds rows, replacing those whose id is stored, as one atomic batch.
  void Upsert(const Rows& rows) {
    Write(rows, [&](const quash_rows& given) { return quash_upsert(collection_.get(), &given); });
  }

  // Returns the number of rows removed; unknown ids are skipped.
  std::uint64_t Delete(const Ids& ids) {
    std::uint64_t deleted = 0;
    detail::Check(quash_delete(collection_.get(), ids.get(), &deleted));
    return deleted;
  }
  std::uint64_t DeleteWhere(const std::string& filter) {
    std::uint64_t deleted = 0;
    detail::Check(quash_delete_where(collection_.get(), detail::Text(filter, "filter"), &deleted));
    return deleted;
  }

  void AddField(const std::string& name, quash_field_type type) {
    const quash_field field = {detail::Text(name, "field name"), type};
    detail::Check(quash_collection_add_field(collection_.get(), &field));
  }

  // queries: [nq * dim].
  Result Search(Span<const float> queries, std::size_t k, const SearchOptions& options = {}) const {
    const quash_search_options given = detail::MakeSearchOptions(options);
    const std::size_t nq = detail::CountRows(queries, dim_, "queries");
    quash_result* result = nullptr;
    detail::Check(quash_search(collection_.get(), queries.data(), nq, k, &given, &result));
    return Result(result, dim_);
  }

  // Into the caller's [nq * k] buffers, padded with -1 and NaN; int64 ids.
  void SearchInto(Span<const float> queries, std::size_t k, Span<std::int64_t> ids,
                  Span<float> scores, const SearchOptions& options = {}) const {
    const quash_search_options given = detail::MakeSearchOptions(options);
    const std::size_t nq = detail::CountRows(queries, dim_, "queries");
    if (ids.size() != nq * k || scores.size() != nq * k) {
      throw Error(QUASH_INVALID, "ids has " + std::to_string(ids.size()) + " values, scores " +
                                     std::to_string(scores.size()) +
                                     ", expected nq * k = " + std::to_string(nq * k));
    }
    detail::Check(quash_search_into(collection_.get(), queries.data(), nq, k, &given, ids.data(),
                                    scores.data(), nullptr));
  }

  // By stored rows, one query for each id.
  Result SearchById(const Ids& ids, std::size_t k, const SearchOptions& options = {}) const {
    const quash_search_options given = detail::MakeSearchOptions(options);
    quash_result* result = nullptr;
    detail::Check(quash_search_by_id(collection_.get(), ids.get(), k, &given, &result));
    return Result(result, dim_);
  }

  Query Prepare(const SearchOptions& options = {}) const {
    const quash_search_options given = detail::MakeSearchOptions(options);
    quash_query* query = nullptr;
    detail::Check(quash_query_prepare(collection_.get(), &given, &query));
    return Query(query, dim_);
  }

  // Rows in the order asked, unknown ids left out.
  Result Get(const Ids& ids, std::uint32_t include = kIncludeTexts) const {
    quash_result* result = nullptr;
    detail::Check(quash_get(collection_.get(), ids.get(), include, &result));
    return Result(result, dim_);
  }

  // Whether each id is stored.
  std::vector<bool> Contains(const Ids& ids) const {
    std::vector<std::uint8_t> found(ids.size());
    detail::Check(quash_contains(collection_.get(), ids.get(), found.data()));
    return std::vector<bool>(found.begin(), found.end());
  }

  // Live rows that match; no filter: all.
  std::uint64_t Count(const std::optional<std::string>& filter = std::nullopt) const {
    std::uint64_t count = 0;
    detail::Check(quash_count(collection_.get(), detail::TextOrNull(filter, "filter"), &count));
    return count;
  }

  Iterator Iterate(const std::optional<std::string>& filter = std::nullopt,
                   std::uint32_t include = kIncludeTexts) const {
    quash_iterator* iterator = nullptr;
    detail::Check(
        quash_iterate(collection_.get(), detail::TextOrNull(filter, "filter"), include, &iterator));
    return Iterator(iterator, dim_);
  }

  quash_measure_report Measure(const MeasureOptions& options = {}) {
    quash_measure_report report{};
    report.struct_size = sizeof(report);
    detail::Check(quash_measure(collection_.get(), &options, &report));
    return report;
  }

  quash_collection_info Stats() const {
    quash_collection_info info{};
    info.struct_size = sizeof(info);
    detail::Check(quash_collection_stats(collection_.get(), &info));
    return info;
  }

  // JSON object.
  std::string Describe() const {
    return detail::TakeText(
        [&](char** out) { return quash_collection_describe(collection_.get(), out); });
  }

  quash_collection* get() const noexcept { return collection_.get(); }

 private:
  template <typename Function>
  void Write(const Rows& rows, Function&& write) {
    quash_rows given;
    quash_rows_init(&given);
    given.n = detail::CountRows(rows.vectors, dim_, "vectors");
    for (const std::size_t size : {rows.int_ids.size(), rows.string_ids.size(),
                                   rows.metadata.size(), rows.documents.size()}) {
      if (size == 0 || size == given.n) continue;
      throw Error(QUASH_INVALID, std::to_string(size) + " ids, metadata or documents for " +
                                     std::to_string(given.n) + " vectors");
    }
    const auto string_ids = detail::Texts(rows.string_ids, "id", /*empty_is_null=*/false);
    const auto metadata = detail::Texts(rows.metadata, "metadata", /*empty_is_null=*/true);
    const auto documents = detail::Texts(rows.documents, "document", /*empty_is_null=*/true);
    given.int_ids = rows.int_ids.empty() ? nullptr : rows.int_ids.data();
    given.string_ids = string_ids.empty() ? nullptr : string_ids.data();
    given.vectors = rows.vectors.data();
    given.metadata = metadata.empty() ? nullptr : metadata.data();
    given.documents = documents.empty() ? nullptr : documents.data();
    detail::Check(write(given));
  }

  detail::Handle<quash_collection, quash_collection_free> collection_;
  std::size_t dim_ = 0;
};

class Database {
 public:
  // ":memory:" makes a private one that lives as long as the object.
  static Database Open(const std::string& path, const OpenOptions& options = {}) {
    quash_db* db = nullptr;
    detail::Check(quash_open(detail::Text(path, "path"), &options, &db));
    return Database(db);
  }

  // Verifies the backup and copies it to `path`, which must not exist.
  static void Restore(const std::string& backup_path, const std::string& path) {
    detail::Check(
        quash_restore(detail::Text(backup_path, "backup_path"), detail::Text(path, "path")));
  }

  // The destructor closes too, but cannot report what fails.
  void Close() {
    const quash_status status = quash_close(db_.get());
    if (status != QUASH_MISUSE) (void)db_.release();
    detail::Check(status);
  }

  Collection CreateCollection(const std::string& name, const CollectionOptions& options) {
    std::vector<quash_field> fields;
    for (const auto& [field, type] : options.fields) {
      fields.push_back({detail::Text(field, "field name"), type});
    }
    quash_collection_options given = options;
    given.fields = fields.data();
    given.num_fields = fields.size();
    quash_collection* collection = nullptr;
    detail::Check(
        quash_collection_create(db_.get(), detail::Text(name, "name"), &given, &collection));
    return Collection(collection);
  }

  Collection OpenCollection(const std::string& name) const {
    quash_collection* collection = nullptr;
    detail::Check(quash_collection_open(db_.get(), detail::Text(name, "name"), &collection));
    return Collection(collection);
  }

  // Opens it whatever its options are, or creates it with these. QUASH_EXISTS
  // if another thread creates it in between.
  Collection GetOrCreateCollection(const std::string& name, const CollectionOptions& options) {
    try {
      return OpenCollection(name);
    } catch (const Error& error) {
      if (error.status() != QUASH_NOT_FOUND) throw;
    }
    return CreateCollection(name, options);
  }

  void DropCollection(const std::string& name) {
    detail::Check(quash_collection_drop(db_.get(), detail::Text(name, "name")));
  }

  // JSON array of names.
  std::string ListCollections() const {
    return detail::TakeText([&](char** out) { return quash_collection_list(db_.get(), out); });
  }

  // Called on the calling thread during long calls, where it may read and neither write nor
  // close; not to be set while one runs. An empty function removes it.
  void SetProgress(Progress progress) {
    auto kept = progress ? std::make_unique<Progress>(std::move(progress)) : nullptr;
    detail::Check(quash_set_progress(db_.get(), kept ? detail::CallProgress : nullptr, kept.get()));
    progress_ = std::move(kept);
  }

  void Refresh() { detail::Check(quash_refresh(db_.get())); }
  void Checkpoint() { detail::Check(quash_checkpoint(db_.get())); }
  void Compact() { detail::Check(quash_compact(db_.get())); }
  void Backup(const std::string& path) {
    detail::Check(quash_backup(db_.get(), detail::Text(path, "path")));
  }

  // JSON report. Damage throws Error with QUASH_CORRUPT, after writing it to *damage if given.
  std::string Verify(std::string* damage = nullptr) {
    char* report = nullptr;
    const quash_status status = quash_verify(db_.get(), &report);
    const std::unique_ptr<char, detail::Free<void, quash_free>> owned(report);
    if (status != QUASH_OK && report != nullptr && damage != nullptr) *damage = report;
    detail::Check(status);
    return report;
  }

  // JSON object.
  std::string Stats() const {
    return detail::TakeText([&](char** out) { return quash_stats(db_.get(), out); });
  }

  quash_db* get() const noexcept { return db_.get(); }

 private:
  explicit Database(quash_db* db) : db_(db) {}
  std::unique_ptr<Progress> progress_;  // destroyed after the database is closed
  detail::Handle<quash_db, quash_close> db_;
};

}  // namespace quashdb

#endif  // QUASHDB_HPP_
