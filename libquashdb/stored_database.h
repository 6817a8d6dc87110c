// The Database over a directory: lock, format, witness, store and collections.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "libquashdb/catalog.h"
#include "libquashdb/database.h"
#include "libquashdb/database_directory.h"
#include "libquashdb/part_cache.h"
#include "libquashdb/store.h"
#include "libquashdb/stored_collection.h"

namespace quash {

class StoredDatabase final : public Database {
 public:
  // `directory` is locked, and of a known format.
  StoredDatabase(std::unique_ptr<DatabaseDirectory> directory, const OpenOptions& options);
  ~StoredDatabase() override;

  Status Start();  // once, before anything else

  const OpenOptions& options() const override { return options_; }
  Status Close() override;
  Status Refresh() override;
  Status Checkpoint() override;
  Status Backup(const std::string& path, const Progress& progress) override;
  Status Verify(const Progress& progress, std::string* report_json) override;
  Status Compact(const Progress& progress) override;
  Status StatsJson(std::string* out) const override;
  Status CreateCollection(CollectionSpec spec, std::shared_ptr<Collection>* out) override;
  Status OpenCollection(std::string_view name, std::shared_ptr<Collection>* out) override;
  Status DropCollection(std::string_view name) override;
  Status ListCollections(std::vector<std::string>* names) const override;

  // ---- For collections ----
  std::mutex& writer_mutex() { return writer_mutex_; }
  std::mutex& publish_mutex() const { return publish_mutex_; }
  // Why a write cannot begin. Under the writer lock.
  Status CheckWritable() const;
  // Makes a batch durable, then calls `publish` under the publish lock; readers wait
  // for it, so it should free nothing large. Under the writer lock.
  Status Commit(rocksdb::WriteBatch* batch, const std::function<void()>& publish);
  // View of the last commit. Under the publish lock.
  const std::shared_ptr<const ReadView>& view() const { return view_; }
  const std::shared_ptr<PartCache>& cache() const { return cache_; }
  // Has partition indexes looked after soon, on a thread of the database. Under the
  // writer lock.
  void WakeUpkeep() noexcept;

 private:
  using CatalogEntries = std::map<std::string, CatalogEntry, std::less<>>;

  // A follower's refresh replaces the store while other calls read from it.
  std::shared_ptr<Store> store() const;
  bool is_writer() const {
    return options_.mode == QUASH_OPEN_CREATE || options_.mode == QUASH_OPEN_READWRITE;
  }
  Store::Options MakeStoreOptions() const;
  Status ReadCatalog(const Store& store, CatalogEntries* entries, uint32_t* next_collection) const;
  Status CheckCommitNumbers(const Store& store, uint64_t* commit_number) const;
  Status NoCollection(std::string_view name) const;
  Status LoadCollection(std::string_view name, std::shared_ptr<StoredCollection>* out);
  Status LoadAll(std::vector<std::shared_ptr<StoredCollection>>* out);
  Status WriteWitness();
  bool AllDurable();
  void WitnessLoop();
  void StopWitness();
  void UpkeepLoop();
  Status ReclaimSpace(bool finish);
  void StopUpkeep();
  void DetachAll();
  Status FollowLatest();

  std::unique_ptr<DatabaseDirectory> directory_;
  const OpenOptions options_;
  std::shared_ptr<Store> store_;  // a follower's under the publish lock
  std::shared_ptr<PartCache> cache_;

  // Lock order: refresh, writer, collections, publish, handed out.
  std::mutex refresh_mutex_;  // one at a time: none may put back what is older
  std::mutex writer_mutex_;
  mutable std::mutex collections_mutex_;
  CatalogEntries entries_;
  std::map<std::string, std::shared_ptr<StoredCollection>, std::less<>> collections_;
  uint32_t next_collection_ = 1;
  mutable std::mutex publish_mutex_;
  std::shared_ptr<const ReadView> view_;
  uint64_t commit_number_ = 0;
  std::mutex handed_out_mutex_;
  std::vector<StoredCollection*> loaded_;  // to make forget what they handed out
  bool closed_ = false;

  // Keeps the witness within a second of the commits (durability full).
  std::thread witness_thread_;
  std::mutex witness_mutex_;
  std::condition_variable witness_wake_;
  bool witness_stop_ = false;
  uint64_t witnessed_ = 0;
  uint64_t durable_commit_ = 0;

  // Keeps partition indexes; started when there is one to keep.
  std::thread upkeep_thread_;
  std::mutex upkeep_mutex_;
  std::condition_variable upkeep_wake_;
  std::atomic<bool> upkeep_stop_{false};
  bool upkeep_due_ = false;
};

}  // namespace quash
