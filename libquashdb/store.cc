#include "libquashdb/store.h"

#include <rocksdb/cache.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_batch.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "libquashdb/database_directory.h"
#include "libquashdb/table_check.h"

namespace quash {
namespace {

constexpr const char* kFamilyNames[kNumFamilies] = {
    "catalog", "codes", "rerank", "tail", "docs", "ids", "deletes", "lists", "meta_index"};

constexpr uint64_t kLeastWalBytes = 64u << 20;
// Files of a family that Reclaim() looks after.
constexpr uint64_t kLeastReclaimed = 256u << 10;
constexpr uint64_t kMostReclaimed = uint64_t{1} << 30;

// RocksDB's own log would grow beside the data and be written on read-only
// opens.
class NullLogger : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

class StoreFileSystem : public rocksdb::FileSystemWrapper {
 public:
  using FileSystemWrapper::FileSystemWrapper;
  const char* Name() const override { return "QuashStoreFileSystem"; }

  // RocksDB writes its options into a file at each opening, then parses it again to
  // compare: half of the processor time of opening, for a file that nothing here reads.
  // Failing to create one is ignored (fail_if_options_file_error).
  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* debug) override {
    const std::string_view name = std::string_view(path).substr(path.rfind('/') + 1);
    if (name.starts_with("OPTIONS-")) return rocksdb::IOStatus::NotSupported();
    return FileSystemWrapper::NewWritableFile(path, options, file, debug);
  }

  // Tables are checked as far as RocksDB would believe them unchecked.
  rocksdb::IOStatus NewRandomAccessFile(const std::string& path,
                                        const rocksdb::FileOptions& options,
                                        std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                                        rocksdb::IODebugContext* debug) override {
    rocksdb::IOStatus status =
        FileSystemWrapper::NewRandomAccessFile(path, options, file, debug);
    if (!status.ok() || !path.ends_with(".sst")) return status;
    uint64_t bytes = 0;
    status = GetFileSize(path, options.io_options, &bytes, debug);
    if (!status.ok()) return status;
    const auto read = [&](uint64_t offset, size_t n, char* scratch, std::string_view* out) {
      rocksdb::Slice result;
      rocksdb::IOStatus read_status =
          (*file)->Read(offset, n, options.io_options, &result, scratch, debug);
      *out = {result.data(), result.size()};
      return read_status;
    };
    return CheckTable(bytes, read);
  }
};

rocksdb::Slice ToSlice(std::string_view text) { return {text.data(), text.size()}; }
std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

int MaxOpenFiles() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 512;
  return static_cast<int>(std::clamp<rlim_t>(limit.rlim_cur / 2, 32, 512));
}

bool HoldsLargeValues(Family family) {
  return family == Family::kCodes || family == Family::kRerank;
}

// Values that PartCache keeps, or that are read once.
bool BypassesBlockCache(Family family) {
  return HoldsLargeValues(family) || family == Family::kLists;
}

rocksdb::ColumnFamilyOptions FamilyOptions(Family family,
                                           const std::shared_ptr<rocksdb::Cache>& cache,
                                           uint64_t write_buffer_bytes) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.format_version = 5;
  table.cache_index_and_filter_blocks = true;
  table.pin_l0_filter_and_index_blocks_in_cache = false;
  if (family == Family::kIds) table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));

  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = std::max<uint64_t>(write_buffer_bytes / 2, 4u << 20);
  options.max_write_buffer_number = 2;
  // Codes look random; text does not.
  const bool text = family == Family::kDocs || family == Family::kMetaIndex;
  options.compression = text ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
  if (HoldsLargeValues(family)) options.target_file_size_base = 128u << 20;
  return options;
}

// Paths of RocksDB's logs of writes.
std::vector<std::string> LogsIn(const std::string& path) {
  std::vector<std::string> names, logs;
  (void)ListDirectory(path, &names);
  for (const std::string& name : names) {
    if (name.ends_with(".log")) logs.push_back(path + "/" + name);
  }
  return logs;
}

// RocksDB leaves the empty log of an opening without writes behind until the next
// flush. Failures do no harm.
void RemoveEmptyLogs(const std::string& path) {
  for (const std::string& log : LogsIn(path)) {
    struct stat info;
    if (lstat(log.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 0) {
      unlink(log.c_str());
    }
  }
}

}  // namespace

// Callbacks of RocksDB's threads: remember the first background error and
// refuse automatic recovery, which has lost data (see DESIGN.md).
class Store::ErrorLatch : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason, rocksdb::Status* status) override {
    Set(*status);
  }
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
  void Set(const rocksdb::Status& status) noexcept {
    const std::lock_guard lock(mutex_);
    if (first_.ok()) first_ = status;
    failed_.store(true, std::memory_order_release);
  }
  Status Get() const {
    if (!failed_.load(std::memory_order_acquire)) return Status();
    const std::lock_guard lock(mutex_);
    const Status mapped = FromRocks(first_, "an earlier write failed");
    return Error(mapped.code(), "{}; close and open the database to write again",
                 mapped.message());
  }

 private:
  mutable std::mutex mutex_;
  rocksdb::Status first_;
  std::atomic<bool> failed_{false};
};

Status FromRocks(const rocksdb::Status& status, std::string_view what) {
  if (status.ok()) return Status();
  quash_status code = QUASH_IO;
  // Opening wraps an I/O error of its first look at the files.
  const bool is_out_of_files =
      status.IsInvalidArgument() &&
      status.ToString().find(std::strerror(EMFILE)) != std::string::npos;
  if (!is_out_of_files &&
      (status.IsCorruption() || status.IsInvalidArgument() || status.IsNotFound())) {
    code = QUASH_CORRUPT;
  } else if (status.IsNoSpace()) {
    code = QUASH_FULL;
  } else if (status.IsMemoryLimit()) {
    code = QUASH_NOMEM;
  } else if (status.IsPathNotFound()) {
    code = QUASH_CORRUPT;  // a file that the manifest names
  }
  return Error(code, "{}: {}", what, status.ToString());
}

Status Store::Open(const std::string& path, const Options& options, std::shared_ptr<Store>* out) {
  std::shared_ptr<Store> store(new Store);
  store->access_ = options.access;
  store->in_memory_ = options.in_memory;
  store->latch_ = std::make_shared<ErrorLatch>();
  store->block_cache_ = rocksdb::NewLRUCache(options.block_cache_bytes, 4);

  rocksdb::DBOptions db_options;
  db_options.create_if_missing = options.create;
  db_options.create_missing_column_families = options.create;
  db_options.paranoid_checks = true;
  db_options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  db_options.max_bgerror_resume_count = 0;
  db_options.max_background_jobs = 2;
  // Families of small values would otherwise keep logs that all others are done with.
  db_options.max_total_wal_size = std::max(options.write_buffer_bytes, kLeastWalBytes);
  db_options.db_write_buffer_size = options.write_buffer_bytes;
  db_options.bytes_per_sync = 1u << 20;
  db_options.info_log = std::make_shared<NullLogger>();
  db_options.max_open_files = options.access == Access::kFollower ? -1 : MaxOpenFiles();
  // The default starts 16 threads for each family, which takes longer than opening
  // the files.
  db_options.max_file_opening_threads = 1;
  // Space taken ahead of writing would defeat the free-space floor.
  db_options.allow_fallocate = false;
  db_options.skip_stats_update_on_db_open = true;
  db_options.stats_dump_period_sec = 0;
  db_options.listeners.push_back(store->latch_);
  rocksdb::Env* const base = rocksdb::Env::Default();
  std::unique_ptr<rocksdb::Env> memory(options.in_memory ? rocksdb::NewMemEnv(base) : nullptr);
  store->env_ = rocksdb::NewCompositeEnv(
      std::make_shared<StoreFileSystem>((memory != nullptr ? memory.get() : base)->GetFileSystem()));
  db_options.env = store->env_.get();

  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (size_t i = 0; i < kNumFamilies; ++i) {
    families.emplace_back(kFamilyNames[i],
                          FamilyOptions(static_cast<Family>(i), store->block_cache_,
                                        options.write_buffer_bytes));
  }
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, rocksdb::ColumnFamilyOptions());

  rocksdb::DB* db = nullptr;
  rocksdb::Status status;
  std::vector<std::string> logs;  // to be read beside a writer
  switch (options.access) {
    case Access::kReadWrite:
      if (!options.in_memory) RemoveEmptyLogs(path);
      status = rocksdb::DB::Open(db_options, path, families, &store->handles_, &db);
      break;
    case Access::kReadOnly:
      status = rocksdb::DB::OpenForReadOnly(db_options, path, families, &store->handles_, &db);
      break;
    case Access::kFollower:
      logs = LogsIn(path);
      // The second path is for an info log, which we have turned off.
      status = rocksdb::DB::OpenAsSecondary(db_options, path, path, families, &store->handles_,
                                            &db);
      break;
  }
  store->db_.reset(db);
  QUASH_RETURN_IF_ERROR(FromRocks(status, "opening " + path));
  // RocksDB reads the manifest and then the logs that are there. One that the writer has
  // flushed and removed in between held what neither of these shows.
  for (const std::string& log : logs) {
    if (access(log.c_str(), F_OK) != 0) {
      return Error(QUASH_BUSY, "the writer of {} replaces its files faster than they are read",
                   path);
    }
  }
  *out = std::move(store);
  return Status();
}

Store::~Store() {
  if (db_) {
    for (rocksdb::ColumnFamilyHandle* handle : handles_) {
      (void)db_->DestroyColumnFamilyHandle(handle);
    }
    if (access_ == Access::kReadWrite) (void)db_->Close();
    db_.reset();
  }
}

rocksdb::ReadOptions Store::MakeReadOptions(Family family, const ReadView* view) const {
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  options.fill_cache = !BypassesBlockCache(family);
  if (view != nullptr) options.snapshot = view->snapshot_;
  return options;
}

Status Store::Get(Family family, std::string_view key, const ReadView* view,
                  rocksdb::PinnableSlice* value, bool* found) const {
  value->Reset();  // RocksDB asserts that it is
  const rocksdb::Status status =
      db_->Get(MakeReadOptions(family, view), handle(family), ToSlice(key), value);
  *found = status.ok();
  return status.IsNotFound() ? Status() : FromRocks(status, "reading");
}

Status Store::MultiGet(Family family, const std::vector<std::string>& keys, const ReadView* view,
                       std::vector<rocksdb::PinnableSlice>* values,
                       std::vector<uint8_t>* found) const {
  // PinnableSlice does not move well: build in place.
  *values = std::vector<rocksdb::PinnableSlice>(keys.size());
  found->assign(keys.size(), 0);
  if (access_ == Access::kFollower) {  // secondaries have no MultiGet of their own
    for (size_t i = 0; i < keys.size(); ++i) {
      bool is_there = false;
      QUASH_RETURN_IF_ERROR(Get(family, keys[i], view, &(*values)[i], &is_there));
      (*found)[i] = is_there;
    }
    return Status();
  }
  constexpr size_t kChunk = 1024;
  const rocksdb::ReadOptions options = MakeReadOptions(family, view);
  std::vector<rocksdb::Slice> slices;
  std::vector<rocksdb::Status> statuses(std::min(kChunk, keys.size()));
  for (size_t begin = 0; begin < keys.size(); begin += kChunk) {
    const size_t n = std::min(kChunk, keys.size() - begin);
    slices.assign(keys.begin() + begin, keys.begin() + begin + n);
    db_->MultiGet(options, handle(family), n, slices.data(), values->data() + begin,
                  statuses.data());
    for (size_t i = 0; i < n; ++i) {
      if (!statuses[i].ok() && !statuses[i].IsNotFound()) return FromRocks(statuses[i], "reading");
      (*found)[begin + i] = statuses[i].ok();
    }
  }
  return Status();
}

Status Store::Scan(Family family, const std::string& begin, const std::string& end,
                   const ReadView* view, const Visitor& visit) const {
  rocksdb::ReadOptions options = MakeReadOptions(family, view);
  const rocksdb::Slice upper(end);
  options.iterate_upper_bound = &upper;
  const std::unique_ptr<rocksdb::Iterator> iterator(db_->NewIterator(options, handle(family)));
  for (iterator->Seek(begin); iterator->Valid(); iterator->Next()) {
    QUASH_RETURN_IF_ERROR(visit(ToView(iterator->key()), ToView(iterator->value())));
  }
  return FromRocks(iterator->status(), "scanning");
}

void Store::Put(rocksdb::WriteBatch* batch, Family family, std::string_view key,
                std::string_view value) const {
  (void)batch->Put(handle(family), ToSlice(key), ToSlice(value));
}

void Store::Delete(rocksdb::WriteBatch* batch, Family family, std::string_view key) const {
  (void)batch->Delete(handle(family), ToSlice(key));
}

void Store::DeleteRange(rocksdb::WriteBatch* batch, Family family, std::string_view begin,
                        std::string_view end) const {
  (void)batch->DeleteRange(handle(family), ToSlice(begin), ToSlice(end));
}

Status Store::Write(rocksdb::WriteBatch* batch, bool sync) {
  QUASH_RETURN_IF_ERROR(WriteError());
  rocksdb::WriteOptions options;
  options.sync = sync && !in_memory_;
  logged_bytes_ += batch->GetDataSize();
  const rocksdb::Status status = db_->Write(options, batch);
  if (!status.ok()) latch_->Set(status);
  return FromRocks(status, "writing");
}

Status Store::WriteError() const { return latch_->Get(); }

Status Store::SyncWal() {
  if (in_memory_ || access_ != Access::kReadWrite) return Status();
  QUASH_RETURN_IF_ERROR(WriteError());
  const rocksdb::Status status = db_->SyncWAL();
  if (!status.ok()) latch_->Set(status);
  return FromRocks(status, "syncing");
}

Status Store::FlushAll() {
  QUASH_RETURN_IF_ERROR(WriteError());
  const uint64_t logged = logged_bytes_.exchange(0);  // two threads may flush
  const rocksdb::Status status = db_->Flush(rocksdb::FlushOptions(), handles_);
  if (!status.ok()) {
    latch_->Set(status);
    logged_bytes_ += logged;
  }
  return FromRocks(status, "flushing");
}

Status Store::CompactAll(const std::function<bool()>& poll) {
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  for (size_t i = 0; i < kNumFamilies; ++i) {
    if (poll()) return Error(QUASH_CANCELLED, "compaction was cancelled");
    // Rows leave tombstones by the thousand, which only a rewrite of the last
    // level drops; segments leave few.
    options.bottommost_level_compaction =
        HoldsLargeValues(static_cast<Family>(i))
            ? rocksdb::BottommostLevelCompaction::kIfHaveCompactionFilter
            : rocksdb::BottommostLevelCompaction::kForceOptimized;
    QUASH_RETURN_IF_ERROR(FromRocks(db_->CompactRange(options, handles_[i], nullptr, nullptr),
                                    "compacting"));
  }
  return Status();
}

// Of the files, without what is not flushed. RocksDB knows the counts of files that it
// has written since it was opened, and has to look into the others.
Status Store::CountTables(rocksdb::ColumnFamilyHandle* family, TableCounts* counts) const {
  *counts = {};
  rocksdb::ColumnFamilyMetaData meta;
  db_->GetColumnFamilyMetaData(family, &meta);
  counts->bytes = meta.size;
  bool known = true;
  uint64_t entries = 0;
  for (const rocksdb::LevelMetaData& level : meta.levels) {
    for (const rocksdb::SstFileMetaData& file : level.files) {
      entries += file.num_entries;
      counts->deletions += file.num_deletions;
      known &= file.num_entries != 0;
    }
  }
  if (!known) {
    entries = counts->deletions = 0;
    rocksdb::TablePropertiesCollection tables;
    QUASH_RETURN_IF_ERROR(
        FromRocks(db_->GetPropertiesOfAllTables(family, &tables), "reading table properties"));
    for (const auto& [name, table] : tables) {
      entries += table->num_entries;
      counts->deletions += table->num_deletions;
    }
  }
  counts->values = entries - std::min(entries, counts->deletions);
  return Status();
}

Status Store::Reclaim(double most_dead, const std::function<bool(uint64_t)>& has_room,
                      std::atomic<bool>* stop) {
  for (size_t i = 0; i < kNumFamilies && !*stop; ++i) {
    uint64_t bytes = 0;
    (void)db_->GetIntProperty(handles_[i], rocksdb::DB::Properties::kTotalSstFilesSize, &bytes);
    if (bytes < kLeastReclaimed || bytes > kMostReclaimed) continue;
    TableCounts counts;
    QUASH_RETURN_IF_ERROR(CountTables(handles_[i], &counts));
    // Keys are written once, but for ids and the catalog: a deletion hides one value. What
    // was left the last time is seen by somebody's snapshot.
    if (static_cast<double>(counts.deletions) <=
            most_dead * static_cast<double>(counts.values) ||
        counts.deletions < 2 * unreclaimable_[i] || !has_room(counts.bytes)) {
      continue;
    }
    rocksdb::CompactRangeOptions options;
    options.exclusive_manual_compaction = false;
    options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
    options.canceled = stop;
    const rocksdb::Status status = db_->CompactRange(options, handles_[i], nullptr, nullptr);
    if (*stop) break;
    QUASH_RETURN_IF_ERROR(FromRocks(status, "compacting"));
    QUASH_RETURN_IF_ERROR(CountTables(handles_[i], &counts));
    unreclaimable_[i] = counts.deletions;
  }
  return Status();
}

Status Store::VerifyChecksums() const {
  if (in_memory_) return Status();
  constexpr const char* kWhat = "verifying checksums";
  if (access_ != Access::kFollower) return FromRocks(db_->VerifyChecksum(), kWhat);
  // That looks tables up by name, and the writer removes those that it has replaced: a
  // follower reads what it has open.
  for (size_t i = 0; i < kNumFamilies; ++i) {
    const rocksdb::ReadOptions options = MakeReadOptions(static_cast<Family>(i), nullptr);
    const std::unique_ptr<rocksdb::Iterator> all(db_->NewIterator(options, handles_[i]));
    for (all->SeekToFirst(); all->Valid();) all->Next();
    QUASH_RETURN_IF_ERROR(FromRocks(all->status(), kWhat));
  }
  return Status();
}

Status Store::Checkpoint(const std::string& path) {
  rocksdb::Checkpoint* checkpoint = nullptr;
  QUASH_RETURN_IF_ERROR(FromRocks(rocksdb::Checkpoint::Create(db_.get(), &checkpoint), "backup"));
  const std::unique_ptr<rocksdb::Checkpoint> owned(checkpoint);
  // Flushed first: the copy then needs no WAL, whose hard links are not synced.
  return FromRocks(owned->CreateCheckpoint(path, /*log_size_for_flush=*/0), "backup");
}

uint64_t Store::disk_bytes() const {
  uint64_t total = 0;
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    uint64_t bytes = 0;
    if (db_->GetIntProperty(handle, rocksdb::DB::Properties::kTotalSstFilesSize, &bytes)) {
      total += bytes;
    }
  }
  return total;
}

uint64_t Store::unflushed_bytes() const {
  uint64_t total = 0;
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    uint64_t bytes = 0;
    if (db_->GetIntProperty(handle, rocksdb::DB::Properties::kCurSizeAllMemTables, &bytes)) {
      total += bytes;
    }
  }
  return total;
}

uint64_t Store::memory_bytes() const {
  uint64_t total = block_cache_->GetUsage();
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    uint64_t bytes = 0;
    if (db_->GetIntProperty(handle, rocksdb::DB::Properties::kSizeAllMemTables, &bytes)) {
      total += bytes;
    }
  }
  return total;
}

std::shared_ptr<ReadView> Store::PrepareView() {
  return std::shared_ptr<ReadView>(new ReadView(shared_from_this()));
}

std::shared_ptr<const ReadView> Store::NewView() {
  std::shared_ptr<ReadView> view = PrepareView();
  view->Take();
  return view;
}

ReadView::ReadView(std::shared_ptr<Store> store) : store_(std::move(store)) {}

void ReadView::Take() {
  if (store_->access_ == Store::Access::kReadWrite) snapshot_ = store_->db_->GetSnapshot();
}

ReadView::~ReadView() {
  if (snapshot_ != nullptr) store_->db_->ReleaseSnapshot(snapshot_);
}

}  // namespace quash
