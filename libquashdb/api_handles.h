// The objects behind the C handles and the guard every C entry runs in.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "libquashdb/database.h"
#include "libquashdb/executor.h"
#include "quashdb.h"

namespace quash {

// Shared by a quash_db and everything opened from it, so that a handle that
// outlives quash_close() finds a closed database instead of freed memory.
class DatabaseHandle {
 public:
  explicit DatabaseHandle(std::unique_ptr<Database> database);
  ~DatabaseHandle();

  Database& database() { return *database_; }
  Status Close();

  // Snapshots held between calls, dropped by Release() or Close(): a snapshot must
  // not outlive the storage it pins.
  void Hold(SnapshotRef* snapshot);
  void Release(SnapshotRef* snapshot);

  void SetProgress(quash_progress_fn callback, void* user_data);
  Progress progress();
  // Refuses on a thread that is in the progress callback of a call on this database: the
  // call holds what a write or Close() would wait for.
  Status CheckNotInProgress() const;

 private:
  friend class Call;
  std::unique_ptr<Database> database_;
  const pid_t pid_;
  std::shared_mutex calls_;  // shared by calls in flight, exclusive in Close()
  // Set before Close() waits: calls that come then are refused, since the mutex
  // lets them pass a waiting writer, and threads that keep calling hold it off.
  std::atomic<bool> closed_ = false;
  std::mutex held_mutex_;
  std::set<SnapshotRef*> held_;
  std::mutex progress_mutex_;
  quash_progress_fn progress_callback_ = nullptr;
  void* progress_user_data_ = nullptr;
};

// A call in flight: refuses closed handles and forked children.
class Call {
 public:
  explicit Call(DatabaseHandle& handle);
  const Status& status() const { return status_; }

 private:
  std::shared_lock<std::shared_mutex> lock_;
  Status status_;
};

// Keeps the status as this thread's last error and returns its code. Never
// allocates.
quash_status RecordError(const Status& status) noexcept;
quash_status RecordNoMemory() noexcept;
quash_status RecordInternal(const char* what) noexcept;

// Runs the body of a C entry; nothing is thrown past it.
template <typename Body>
quash_status Guard(Body&& body) noexcept {
  try {
    return RecordError(body());
  } catch (const std::bad_alloc&) {
    return RecordNoMemory();
  } catch (const std::exception& e) {
    return RecordInternal(e.what());
  } catch (...) {
    return RecordInternal("unknown exception");
  }
}

Status NullArgument(const char* name);

// Copies an option struct whose struct_size may be smaller (an older caller)
// over the defaults already in *to.
template <typename Options>
Status CopyOptions(const Options* from, const char* type, Options* to) {
  if (from == nullptr) return Status();
  if (from->struct_size < sizeof(size_t) || from->struct_size > sizeof(Options)) {
    return Error(QUASH_INVALID, "{}.struct_size is {}, expected {}: fill it with {}_init()", type,
                 from->struct_size, sizeof(Options), type);
  }
  std::memcpy(static_cast<void*>(to), from, from->struct_size);
  to->struct_size = sizeof(Options);
  return Status();
}

// The number in a caller's enum. C lets it be any, and C++ must not load one
// that is no enumerator.
template <typename Enum>
uint32_t EnumNumber(const Enum& value) {
  static_assert(sizeof(Enum) == sizeof(uint32_t));
  uint32_t number;
  std::memcpy(&number, &value, sizeof(number));
  return number;
}

// Text for a char** out parameter, freed by quash_free().
Status CopyText(const std::string& text, char** out);

Status ParseIds(const quash_ids* ids, const CollectionSpec& spec, std::vector<Id>* out);
// One string id of a caller: UTF-8, 1..QUASH_ID_BYTES_MAX bytes.
Status CheckStringId(const char* id, size_t row, std::string* out);

// Finite coordinates, and no zero vector where the metric is cosine. `what`
// names the rows in messages ("vector", "query").
Status CheckVectors(const float* vectors, size_t n, const CollectionSpec& spec, const char* what);

// Refuses vectors that the rerank tier of `spec` cannot represent.
Status CheckFitsRerank(const float* vectors, size_t n, const CollectionSpec& spec);

// Bounds the length of a filter before anything reads it.
Status CheckFilterText(const char* filter, std::string_view* text);

// The checked form of quash_search_options against a collection.
Status MakeSearchPlan(const quash_search_options& options, const CollectionSpec& spec,
                      uint32_t default_threads, SearchPlan* plan);

// Fills a result with the rows of `hits` (ids, scores) and what `include` asks; on up to
// `threads` threads, each with queries of its own.
Status FillResult(const Collection& collection, const Snapshot& snapshot,
                  const std::vector<std::vector<Hit>>& hits, bool with_scores, uint32_t include,
                  size_t threads, quash_result* result);

// The same into a caller's arrays, of a collection with int64 ids.
//   ids     [queries, k] out, padded with -1
//   scores  [queries, k] out, padded with NaN
//   counts  [queries] out, or null
Status FillArrays(const Snapshot& snapshot, const std::vector<std::vector<Hit>>& hits, size_t k,
                  size_t threads, int64_t* ids, float* scores, uint32_t* counts);

}  // namespace quash

struct quash_db {
  std::shared_ptr<quash::DatabaseHandle> handle;
};

struct quash_collection {
  std::shared_ptr<quash::DatabaseHandle> handle;  // outlives the collection
  std::shared_ptr<quash::Collection> collection;
};

struct quash_query {
  std::shared_ptr<quash::DatabaseHandle> handle;
  std::shared_ptr<quash::Collection> collection;
  quash::SearchPlan plan;
  uint32_t include = 0;
  bool has_run = false;
  quash::SearchStats stats;
  quash::SearchWidths measured;
  double recall_target = 0;
  uint64_t indexed_rows = 0;
  size_t nq = 0;
  std::string gpu;  // devices attached at the last run
};

struct quash_iterator {
  std::shared_ptr<quash::DatabaseHandle> handle;
  std::shared_ptr<quash::Collection> collection;
  quash::SnapshotRef snapshot;
  std::shared_ptr<const quash::Filter> filter;
  uint32_t include = 0;
  uint32_t segment = 0;            // next segment to look at
  uint32_t row = 0;                // next row in it
  std::vector<uint32_t> matching;  // of `segment`; empty: not yet evaluated

  ~quash_iterator() {
    if (handle) handle->Release(&snapshot);
  }
};

struct quash_result {
  uint32_t dim = 0;
  quash_id_type id_type = QUASH_ID_INT64;
  bool has_scores = false;
  uint32_t include = 0;
  std::vector<size_t> offsets{0};
  std::vector<int64_t> int_ids;
  std::vector<std::string> string_ids;
  std::vector<float> scores;
  std::vector<float> vectors;
  std::vector<std::string> metadata;
  std::vector<std::optional<std::string>> documents;

  // One kind of text of all rows, made when first asked for.
  struct Texts {
    bool made = false;
    std::string bytes;
    std::vector<uint64_t> offsets;
    std::vector<uint8_t> present;
  };
  std::mutex texts_mutex;
  Texts texts[QUASH_TEXT_DOCUMENT + 1];

  size_t rows() const { return offsets.back(); }
};

namespace quash {

// Runs `body(Database&)` on the database of an open handle.
template <typename Body>
quash_status WithDatabase(quash_db* db, Body&& body) noexcept {
  return Guard([&]() -> Status {
    if (db == nullptr) return NullArgument("db");
    Call call(*db->handle);
    QUASH_RETURN_IF_ERROR(call.status());
    return body(db->handle->database());
  });
}

// Runs `body(Collection&)` on a collection of an open database.
template <typename Body>
quash_status WithCollection(quash_collection* collection, Body&& body) noexcept {
  return Guard([&]() -> Status {
    if (collection == nullptr) return NullArgument("collection");
    Call call(*collection->handle);
    QUASH_RETURN_IF_ERROR(call.status());
    return body(*collection->collection);
  });
}

// The same for bodies that wait for the writer lock.
template <typename Body>
quash_status WithDatabaseToWrite(quash_db* db, Body&& body) noexcept {
  return WithDatabase(db, [&](Database& database) -> Status {
    QUASH_RETURN_IF_ERROR(db->handle->CheckNotInProgress());
    return body(database);
  });
}
template <typename Body>
quash_status WithCollectionToWrite(quash_collection* collection, Body&& body) noexcept {
  return WithCollection(collection, [&](Collection& opened) -> Status {
    QUASH_RETURN_IF_ERROR(collection->handle->CheckNotInProgress());
    return body(opened);
  });
}

}  // namespace quash
