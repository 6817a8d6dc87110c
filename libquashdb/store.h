// The RocksDB instance under a database: its column families, options, error
// mapping and read views. Nothing above this file opens or configures RocksDB.
// Thread-safe, but Write() is for one writer at a time.
#pragma once

#include <rocksdb/db.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libquashdb/status.h"

namespace quash {

// Fixed for the format, so that a follower never meets an unknown one.
enum class Family : uint8_t {
  kCatalog,    // collections, their state and segments
  kCodes,      // planes, ids and slots of sealed segments
  kRerank,     // rerank tier of sealed segments, 32 rows a value
  kTail,       // rows not yet sealed
  kDocs,       // metadata and document of one row
  kIds,        // external id to slot
  kDeletes,    // live bitmap of a segment
  kLists,      // partition index
  kMetaIndex,  // metadata columns of sealed segments
};
inline constexpr size_t kNumFamilies = 9;

class ReadView;

class Store : public std::enable_shared_from_this<Store> {
 public:
  enum class Access { kReadWrite, kReadOnly, kFollower };
  struct Options {
    Access access = Access::kReadWrite;
    bool in_memory = false;
    bool create = false;              // nothing is there yet
    uint64_t block_cache_bytes = 0;   // of RocksDB
    uint64_t write_buffer_bytes = 0;  // of all families together
  };

  //   path  directory of the RocksDB files, ignored if in_memory
  static Status Open(const std::string& path, const Options& options,
                     std::shared_ptr<Store>* out);
  ~Store();

  // *found false and OK if there is no such key. view null: the latest state.
  Status Get(Family family, std::string_view key, const ReadView* view,
             rocksdb::PinnableSlice* value, bool* found) const;
  // One value or "not found" per key.
  //   values  [keys.size()] out; found [keys.size()] out
  Status MultiGet(Family family, const std::vector<std::string>& keys, const ReadView* view,
                  std::vector<rocksdb::PinnableSlice>* values, std::vector<uint8_t>* found) const;
  // Calls `visit(key, value)` for every key in [begin, end) until it fails.
  using Visitor = std::function<Status(std::string_view key, std::string_view value)>;
  Status Scan(Family family, const std::string& begin, const std::string& end,
              const ReadView* view, const Visitor& visit) const;

  // Staging of a batch; Write() applies it whole.
  void Put(rocksdb::WriteBatch* batch, Family family, std::string_view key,
           std::string_view value) const;
  void Delete(rocksdb::WriteBatch* batch, Family family, std::string_view key) const;
  void DeleteRange(rocksdb::WriteBatch* batch, Family family, std::string_view begin,
                   std::string_view end) const;
  // After a failure every later write is refused until the database is opened
  // again: what RocksDB kept of the failed one is unknown.
  Status Write(rocksdb::WriteBatch* batch, bool sync);

  Status SyncWal();
  Status FlushAll();
  // Merges every family so that deleted data gives its space back.
  //   poll  called between families, true to stop
  Status CompactAll(const std::function<bool()>& poll);
  // Compacts the families of which too much is dead: values that later deletions have
  // hidden take `most_dead` of what the others do. Leaves large ones to RocksDB's own
  // compaction, which keeps them in bounds without holding up other families.
  // For one thread.
  //   has_room  asked for so many bytes before as many are written
  //   stop      ends it early when set
  Status Reclaim(double most_dead, const std::function<bool(uint64_t)>& has_room,
                 std::atomic<bool>* stop);
  Status VerifyChecksums() const;
  // Hard-links a consistent copy into `path`, which must not exist.
  Status Checkpoint(const std::string& path);

  uint64_t sequence() const { return db_->GetLatestSequenceNumber(); }
  uint64_t disk_bytes() const;
  uint64_t memory_bytes() const;
  uint64_t unflushed_bytes() const;  // that a flush will write to new files
  // Written since FlushAll(), at most: what the logs hold. A log stays until all families
  // with values in it are flushed.
  uint64_t logged_bytes() const { return logged_bytes_.load(std::memory_order_relaxed); }
  // OK, or why writes are refused.
  Status WriteError() const;

  std::shared_ptr<const ReadView> NewView();
  // A view of nothing, to be taken later, when allocating must not fail.
  std::shared_ptr<ReadView> PrepareView();

 private:
  class ErrorLatch;
  friend class ReadView;
  Store() = default;

  struct TableCounts {
    uint64_t bytes = 0;
    uint64_t values = 0;
    uint64_t deletions = 0;
  };
  Status CountTables(rocksdb::ColumnFamilyHandle* family, TableCounts* counts) const;
  rocksdb::ReadOptions MakeReadOptions(Family family, const ReadView* view) const;
  rocksdb::ColumnFamilyHandle* handle(Family family) const {
    return handles_[static_cast<size_t>(family)];
  }

  Access access_ = Access::kReadWrite;
  bool in_memory_ = false;
  std::unique_ptr<rocksdb::Env> env_;
  std::shared_ptr<ErrorLatch> latch_;
  std::shared_ptr<rocksdb::Cache> block_cache_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> handles_;  // by Family, then "default"
  uint64_t unreclaimable_[kNumFamilies] = {};          // deletions after Reclaim()
  std::atomic<uint64_t> logged_bytes_{0};
};

// One state of the store, readable while held whatever is written afterwards.
class ReadView {
 public:
  ~ReadView();
  ReadView(const ReadView&) = delete;
  ReadView& operator=(const ReadView&) = delete;
  const Store& store() const { return *store_; }
  void Take();  // the present state, once

 private:
  friend class Store;
  explicit ReadView(std::shared_ptr<Store> store);
  std::shared_ptr<Store> store_;
  const rocksdb::Snapshot* snapshot_ = nullptr;  // null where nothing writes
};

// A RocksDB status as ours; `what` is the thing being done.
Status FromRocks(const rocksdb::Status& status, std::string_view what);

}  // namespace quash
