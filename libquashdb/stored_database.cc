#include "libquashdb/stored_database.h"

#include <rocksdb/write_batch.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>

#include "libquashdb/collection_draft.h"
#include "libquashdb/json_text.h"
#include "libquashdb/key.h"
#include "libquashdb/suggest.h"

namespace quash {
namespace {

// Collection 0 is the database's own.
const std::string kCommitKey = CollectionPrefix(0) + "commit";
const std::string kNextCollectionKey = CollectionPrefix(0) + "next";

// Families whose commit number every batch rewrites: a family that lost its
// newest files shows an older one. Codes and rerank tier hold values too large
// to compact for that; their newest segment is looked at instead.
constexpr Family kMarked[] = {Family::kCatalog, Family::kTail,    Family::kDocs,
                              Family::kIds,     Family::kDeletes, Family::kMetaIndex};

std::string EncodeNumber(uint64_t number) {
  std::string bytes;
  AppendBigEndian(number, &bytes);
  return bytes;
}

constexpr int kCatchUpAttempts = 6;
constexpr std::chrono::seconds kCatchUpTime(5);
constexpr uint64_t kDefaultBlockCache = 64u << 20;
constexpr uint64_t kDefaultWriteBuffers = 128u << 20;

// Looks at a database beside its writer, which may replace files between two reads of ours.
// That shows as a log that has gone (QUASH_BUSY), a missing file or families at different
// commits: the next look is whole.
Status LookUntilWhole(const std::function<Status()>& look) {
  const auto end = std::chrono::steady_clock::now() + kCatchUpTime;
  for (int failures = 0;;) {
    Status status = look();
    if (status.ok()) return status;
    if (status.code() == QUASH_BUSY) {
      if (std::chrono::steady_clock::now() >= end) return status;
      continue;
    }
    if (++failures == kCatchUpAttempts) return status;
    std::this_thread::sleep_for(std::chrono::milliseconds(5 << failures));
  }
}

}  // namespace

Status Database::Open(const std::string& path, const OpenOptions& options,
                      std::unique_ptr<Database>* out) {
  if (path == ":memory:" && options.mode != QUASH_OPEN_CREATE) {
    return Error(QUASH_INVALID, "\":memory:\" is always new, expected mode create");
  }
  Status no_directory;  // which another look would not change
  const auto look = [&] {
    std::unique_ptr<DatabaseDirectory> directory;
    no_directory = DatabaseDirectory::Open(path, options.mode, &directory);
    if (!no_directory.ok()) return Status();
    auto database = std::make_unique<StoredDatabase>(std::move(directory), options);
    QUASH_RETURN_IF_ERROR(database->Start());
    *out = std::move(database);
    return Status();
  };
  QUASH_RETURN_IF_ERROR(options.mode == QUASH_OPEN_FOLLOWER ? LookUntilWhole(look) : look());
  return no_directory;
}

StoredDatabase::StoredDatabase(std::unique_ptr<DatabaseDirectory> directory,
                               const OpenOptions& options)
    : directory_(std::move(directory)), options_(options) {}

StoredDatabase::~StoredDatabase() { (void)Close(); }

Store::Options StoredDatabase::MakeStoreOptions() const {
  Store::Options options;
  options.in_memory = directory_->in_memory();
  options.create = directory_->is_new();
  if (options_.mode == QUASH_OPEN_READONLY) options.access = Store::Access::kReadOnly;
  if (options_.mode == QUASH_OPEN_FOLLOWER) options.access = Store::Access::kFollower;
  // Of a budget, an eighth buffers writes (twice that while a flush runs), an
  // eighth caches RocksDB's blocks and three eighths hold parts; the rest is for
  // what is being read and written.
  const uint64_t budget = options_.memory_budget_bytes;
  options.block_cache_bytes = budget == 0 ? kDefaultBlockCache : budget / 8;
  options.write_buffer_bytes = budget == 0 ? kDefaultWriteBuffers : budget / 8;
  return options;
}

Status StoredDatabase::Start() {
  const uint64_t budget = options_.memory_budget_bytes;
  cache_ = std::make_shared<PartCache>(budget == 0 ? UINT64_MAX : budget / 8 * 3);
  const Store::Options store_options = MakeStoreOptions();
  QUASH_RETURN_IF_ERROR(Store::Open(directory_->data_path(), store_options, &store_));

  uint64_t stored_commit = 0;
  QUASH_RETURN_IF_ERROR(CheckCommitNumbers(*store_, &stored_commit));
  if (directory_->is_new()) {
    if (stored_commit > 0) {
      return Error(QUASH_CORRUPT, "{} is damaged: quashdb.witness is missing",
                   directory_->path());
    }
  } else {
    uint64_t witnessed = 0;
    QUASH_RETURN_IF_ERROR(directory_->ReadWitness(&witnessed));
    if (stored_commit < witnessed) {
      return Error(QUASH_CORRUPT,
                   "{} is damaged: {} committed batches are missing; restore a backup",
                   directory_->path(), witnessed - stored_commit);
    }
    witnessed_ = witnessed;
  }
  commit_number_ = stored_commit;
  durable_commit_ = stored_commit;
  QUASH_RETURN_IF_ERROR(ReadCatalog(*store_, &entries_, &next_collection_));
  view_ = store_->NewView();
  if (directory_->is_new()) QUASH_RETURN_IF_ERROR(directory_->WriteWitness(0));
  if (is_writer() && !directory_->in_memory() && options_.durability == QUASH_DURABILITY_FULL) {
    witness_thread_ = std::thread([this] { WitnessLoop(); });
  }
  return Status();
}

Status StoredDatabase::CheckCommitNumbers(const Store& store, uint64_t* commit_number) const {
  bool first = true;
  for (const Family family : kMarked) {
    rocksdb::PinnableSlice value;
    bool found = false;
    uint64_t number = 0;
    QUASH_RETURN_IF_ERROR(store.Get(family, kCommitKey, nullptr, &value, &found));
    std::string_view bytes(value.data(), value.size());
    if (found && (!TakeBigEndian(&bytes, &number) || !bytes.empty())) {
      return Error(QUASH_CORRUPT, "{} is damaged: bad commit number", directory_->path());
    }
    if (!first && number != *commit_number) {
      return Error(QUASH_CORRUPT,
                   "{} is damaged: its parts are of different commits ({} and {}); restore a "
                   "backup",
                   directory_->path(), *commit_number, number);
    }
    *commit_number = number;
    first = false;
  }
  return Status();
}

Status StoredDatabase::ReadCatalog(const Store& store, CatalogEntries* entries,
                                   uint32_t* next_collection) const {
  rocksdb::PinnableSlice value;
  bool found = false;
  uint64_t next = 1;
  QUASH_RETURN_IF_ERROR(store.Get(Family::kCatalog, kNextCollectionKey, nullptr, &value, &found));
  std::string_view bytes(value.data(), value.size());
  if (found && (!TakeBigEndian(&bytes, &next) || next == 0 || next > UINT32_MAX)) {
    return Error(QUASH_CORRUPT, "{} is damaged: bad collection number", directory_->path());
  }
  *next_collection = static_cast<uint32_t>(next);
  entries->clear();
  // One seek per collection that is there, however many were dropped or a damaged count
  // speaks of: segments lie between the entries.
  const std::string end = CollectionPrefix(static_cast<uint32_t>(next));
  for (uint32_t number = 1; number < next; ++number) {
    const Status sought = store.Scan(
        Family::kCatalog, CollectionPrefix(number), end, nullptr,
        [&](std::string_view key, std::string_view) {
          return TakeBigEndian(&key, &number)
                     ? Status(QUASH_CANCELLED, "found")
                     : Error(QUASH_CORRUPT, "{} is damaged: bad catalog key", directory_->path());
        });
    if (sought.ok()) break;  // none from here on
    if (sought.code() != QUASH_CANCELLED) return sought;
    QUASH_RETURN_IF_ERROR(
        store.Get(Family::kCatalog, CatalogKey(number, 'c'), nullptr, &value, &found));
    if (!found) continue;  // dropped
    CatalogEntry entry;
    QUASH_RETURN_IF_ERROR(DecodeCatalogEntry({value.data(), value.size()}, &entry));
    if (entry.spec.number != number) {
      return Error(QUASH_CORRUPT, "{} is damaged: a catalog entry is misplaced",
                   directory_->path());
    }
    entries->emplace(entry.spec.name, std::move(entry));
  }
  return Status();
}

Status StoredDatabase::CheckWritable() const {
  if (options_.mode == QUASH_OPEN_READONLY || options_.mode == QUASH_OPEN_FOLLOWER) {
    return Error(QUASH_READONLY, "{} is open {}", directory_->path(),
                 options_.mode == QUASH_OPEN_READONLY ? "read-only" : "as follower");
  }
  return store_->WriteError();
}

Status StoredDatabase::Commit(rocksdb::WriteBatch* batch, const std::function<void()>& publish) {
  QUASH_RETURN_IF_ERROR(
      directory_->CheckSpace(3 * batch->GetDataSize() + store_->unflushed_bytes()));
  const std::string number = EncodeNumber(commit_number_ + 1);
  for (const Family family : kMarked) store_->Put(batch, family, kCommitKey, number);
  const bool sync = options_.durability == QUASH_DURABILITY_FULL;
  // What is committed is published whatever happens: nothing is allocated, other
  // than by RocksDB, once it is written.
  std::shared_ptr<ReadView> view = store_->PrepareView();
  QUASH_RETURN_IF_ERROR(store_->Write(batch, sync));
  ++commit_number_;
  view->Take();
  // What readers wait for is an exchange of pointers: RocksDB's lock, and freeing what
  // was replaced, are outside.
  std::shared_ptr<const ReadView> replaced = std::move(view);
  {
    const std::lock_guard lock(publish_mutex_);
    view_.swap(replaced);
    publish();
    const std::lock_guard collections_lock(handed_out_mutex_);
    for (StoredCollection* collection : loaded_) collection->ForgetHandedOut();
  }
  if (sync) {
    const std::lock_guard lock(witness_mutex_);
    durable_commit_ = commit_number_;
    witness_wake_.notify_one();
  }
  return Status();
}

// Under the collections lock.
Status StoredDatabase::NoCollection(std::string_view name) const {
  std::vector<std::string_view> names;
  for (const auto& [known, unused] : entries_) names.push_back(known);
  return Error(QUASH_NOT_FOUND, "no collection {}{}", QuoteForMessage(name),
               Suggestion(name, names));
}

Status StoredDatabase::LoadCollection(std::string_view name,
                                      std::shared_ptr<StoredCollection>* out) {
  const std::lock_guard lock(collections_mutex_);
  if (const auto loaded = collections_.find(name); loaded != collections_.end()) {
    *out = loaded->second;
    return Status();
  }
  const auto entry = entries_.find(name);
  if (entry == entries_.end()) return NoCollection(name);
  std::shared_ptr<StoredCollection> collection;
  QUASH_RETURN_IF_ERROR(StoredCollection::Load(this, store_, entry->second, &collection));
  {
    // Room first: one that is known and not in this list would show its readers an old state.
    const std::lock_guard handed_out_lock(handed_out_mutex_);
    loaded_.reserve(loaded_.size() + 1);
    collections_.emplace(std::string(name), collection);
    loaded_.push_back(collection.get());
  }
  if (is_writer() && collection->WantsPartitions()) WakeUpkeep();
  *out = std::move(collection);
  return Status();
}

Status StoredDatabase::LoadAll(std::vector<std::shared_ptr<StoredCollection>>* out) {
  std::vector<std::string> names;
  QUASH_RETURN_IF_ERROR(ListCollections(&names));
  for (const std::string& name : names) {
    std::shared_ptr<StoredCollection> collection;
    const Status status = LoadCollection(name, &collection);
    if (status.code() == QUASH_NOT_FOUND) continue;  // dropped meanwhile
    QUASH_RETURN_IF_ERROR(status);
    out->push_back(std::move(collection));
  }
  return Status();
}

Status StoredDatabase::OpenCollection(std::string_view name, std::shared_ptr<Collection>* out) {
  std::shared_ptr<StoredCollection> collection;
  QUASH_RETURN_IF_ERROR(LoadCollection(name, &collection));
  *out = std::move(collection);
  return Status();
}

Status StoredDatabase::CreateCollection(CollectionSpec spec, std::shared_ptr<Collection>* out) {
  const std::string name = spec.name;
  const std::lock_guard lock(writer_mutex_);
  QUASH_RETURN_IF_ERROR(CheckWritable());
  const std::lock_guard collections_lock(collections_mutex_);
  if (entries_.contains(name)) {
    return Error(QUASH_EXISTS, "collection {} exists already", QuoteForMessage(name));
  }
  spec.number = next_collection_;
  CatalogEntry entry;
  entry.codebook = MakeLevelCodebook(GetCodebook(spec.dim, spec.bits));
  entry.segment_rows = SegmentRows(spec.dim);
  entry.spec = std::move(spec);
  rocksdb::WriteBatch batch;
  const uint32_t number = entry.spec.number;
  store_->Put(&batch, Family::kCatalog, CatalogKey(number, 'c'), EncodeCatalogEntry(entry));
  store_->Put(&batch, Family::kCatalog, CatalogKey(number, 's'), EncodeState({}));
  store_->Put(&batch, Family::kCatalog, kNextCollectionKey, EncodeNumber(number + uint64_t{1}));

  std::shared_ptr<StoredCollection> collection;
  QUASH_RETURN_IF_ERROR(StoredCollection::Create(this, store_, entry, &collection));
  CatalogEntries new_entry;
  new_entry.emplace(name, std::move(entry));
  decltype(collections_) new_collection;
  new_collection.emplace(name, collection);
  {
    const std::lock_guard handed_out_lock(handed_out_mutex_);
    loaded_.reserve(loaded_.size() + 1);
  }
  QUASH_RETURN_IF_ERROR(Commit(&batch, [] {}));
  ++next_collection_;
  entries_.merge(new_entry);
  collections_.merge(new_collection);
  {
    const std::lock_guard handed_out_lock(handed_out_mutex_);
    loaded_.push_back(collection.get());
  }
  if (out != nullptr) *out = std::move(collection);
  return Status();
}

Status StoredDatabase::DropCollection(std::string_view name) {
  const std::lock_guard lock(writer_mutex_);
  QUASH_RETURN_IF_ERROR(CheckWritable());
  const std::lock_guard collections_lock(collections_mutex_);
  const auto entry = entries_.find(name);
  if (entry == entries_.end()) return NoCollection(name);
  const uint32_t number = entry->second.spec.number;
  // One that is not loaded has no readers, and may be too damaged to be.
  const auto loaded = collections_.find(name);
  if (loaded != collections_.end()) loaded->second->RetireSegments();
  rocksdb::WriteBatch batch;
  for (size_t family = 0; family < kNumFamilies; ++family) {
    store_->DeleteRange(&batch, static_cast<Family>(family), CollectionPrefix(number),
                        CollectionPrefix(number + 1));
  }
  QUASH_RETURN_IF_ERROR(Commit(&batch, [] {}));
  if (loaded != collections_.end()) {
    {
      const std::lock_guard publish_lock(publish_mutex_);
      const std::lock_guard handed_out_lock(handed_out_mutex_);
      std::erase(loaded_, loaded->second.get());
      loaded->second->Detach();
    }
    collections_.erase(loaded);
  }
  entries_.erase(entry);
  return Status();
}

Status StoredDatabase::ListCollections(std::vector<std::string>* names) const {
  const std::lock_guard lock(collections_mutex_);
  names->clear();
  for (const auto& [name, unused] : entries_) names->push_back(name);
  return Status();
}

Status StoredDatabase::Refresh() {
  if (options_.mode != QUASH_OPEN_FOLLOWER) return Status();
  // Until a look is whole all stays as it was.
  const std::lock_guard lock(refresh_mutex_);
  return LookUntilWhole([this] { return FollowLatest(); });
}

// A new secondary instance each time: one that catches up in place goes on
// reading keys from its memtable that the writer has since replaced in tables.
Status StoredDatabase::FollowLatest() {
  std::shared_ptr<Store> store;
  QUASH_RETURN_IF_ERROR(Store::Open(directory_->data_path(), MakeStoreOptions(), &store));
  uint64_t commit_number = 0;
  QUASH_RETURN_IF_ERROR(CheckCommitNumbers(*store, &commit_number));
  if (commit_number < commit_number_) {
    return Error(QUASH_CORRUPT, "{} is damaged: {} batches that were read before are missing",
                 directory_->path(), commit_number_ - commit_number);
  }
  CatalogEntries entries;
  uint32_t next_collection = 1;
  QUASH_RETURN_IF_ERROR(ReadCatalog(*store, &entries, &next_collection));

  const std::lock_guard lock(collections_mutex_);
  std::map<std::string, std::shared_ptr<StoredCollection>, std::less<>> fresh;
  for (const auto& [name, loaded] : collections_) {
    const auto entry = entries.find(name);
    if (entry == entries.end() || entry->second.spec.number != loaded->number()) continue;
    QUASH_RETURN_IF_ERROR(StoredCollection::Load(this, store, entry->second, &fresh[name]));
  }

  // Nothing fails from here on. Snapshots that are held keep the store they were
  // taken from.
  const std::lock_guard publish_lock(publish_mutex_);
  const std::lock_guard handed_out_lock(handed_out_mutex_);
  store_ = std::move(store);
  view_ = store_->NewView();
  commit_number_ = commit_number;
  next_collection_ = next_collection;
  entries_ = std::move(entries);
  for (auto loaded = collections_.begin(); loaded != collections_.end();) {
    const auto state = fresh.find(loaded->first);
    if (state != fresh.end()) {
      loaded->second->Adopt(state->second.get());
      ++loaded;
    } else {
      loaded->second->Detach();
      std::erase(loaded_, loaded->second.get());
      loaded = collections_.erase(loaded);
    }
  }
  return Status();
}

Status StoredDatabase::Checkpoint() {
  if (options_.mode == QUASH_OPEN_READONLY || options_.mode == QUASH_OPEN_FOLLOWER) {
    return Status();
  }
  const std::lock_guard lock(writer_mutex_);
  QUASH_RETURN_IF_ERROR(store_->SyncWal());
  QUASH_RETURN_IF_ERROR(store_->FlushAll());
  return WriteWitness();
}

// Under the writer lock, with everything up to commit_number_ durable.
Status StoredDatabase::WriteWitness() {
  const std::lock_guard lock(witness_mutex_);
  durable_commit_ = commit_number_;
  if (witnessed_ == durable_commit_) return Status();
  QUASH_RETURN_IF_ERROR(directory_->WriteWitness(durable_commit_));
  witnessed_ = durable_commit_;
  return Status();
}

// Of what was acknowledged. Under the writer lock.
bool StoredDatabase::AllDurable() {
  const std::lock_guard lock(witness_mutex_);
  return durable_commit_ == commit_number_;
}

void StoredDatabase::WitnessLoop() {
  std::unique_lock lock(witness_mutex_);
  while (!witness_stop_) {
    witness_wake_.wait(lock, [this] { return witness_stop_ || durable_commit_ != witnessed_; });
    witness_wake_.wait_for(lock, std::chrono::milliseconds(800), [this] { return witness_stop_; });
    if (witness_stop_ || durable_commit_ == witnessed_) continue;
    // A failure leaves the older, weaker witness; the next round tries again.
    if (directory_->WriteWitness(durable_commit_).ok()) witnessed_ = durable_commit_;
  }
}

void StoredDatabase::StopWitness() {
  if (!witness_thread_.joinable()) return;
  {
    const std::lock_guard lock(witness_mutex_);
    witness_stop_ = true;
    witness_wake_.notify_one();
  }
  witness_thread_.join();
}

void StoredDatabase::DetachAll() {
  const std::lock_guard lock(collections_mutex_);
  const std::lock_guard publish_lock(publish_mutex_);
  for (auto& [name, collection] : collections_) collection->Detach();
}

Status StoredDatabase::Close() {
  if (closed_) return Status();
  closed_ = true;
  StopUpkeep();
  StopWitness();
  Status status;
  if (store_ != nullptr && is_writer()) {
    const std::lock_guard lock(writer_mutex_);
    status = store_->WriteError();
    if (status.ok()) {
      status = store_->SyncWal();
      if (status.ok() && !directory_->in_memory()) status = store_->FlushAll();
      if (status.ok()) status = WriteWitness();
    } else if (AllDurable()) {
      status = Status();  // who wrote was told
    }
  }
  DetachAll();
  {
    const std::lock_guard lock(collections_mutex_);
    collections_.clear();
  }
  {
    const std::lock_guard lock(publish_mutex_);
    view_.reset();
  }
  store_.reset();
  directory_.reset();
  return status;
}

Status StoredDatabase::Compact(const Progress& progress) {
  {
    const std::lock_guard lock(writer_mutex_);
    QUASH_RETURN_IF_ERROR(CheckWritable());
  }
  std::vector<std::shared_ptr<StoredCollection>> collections;
  QUASH_RETURN_IF_ERROR(LoadAll(&collections));
  for (const auto& collection : collections) {
    const Status status = collection->Compact(progress);
    if (status.code() == QUASH_NOT_FOUND) continue;  // dropped meanwhile
    QUASH_RETURN_IF_ERROR(status);
  }
  collections.clear();
  if (!directory_->in_memory()) {
    const std::lock_guard lock(writer_mutex_);
    QUASH_RETURN_IF_ERROR(store_->FlushAll());
    QUASH_RETURN_IF_ERROR(WriteWitness());
  }
  return store_->CompactAll([&] { return progress && progress(0, 0); });
}

std::shared_ptr<Store> StoredDatabase::store() const {
  const std::lock_guard lock(publish_mutex_);
  return store_;
}

Status StoredDatabase::StatsJson(std::string* out) const {
  auto& self = const_cast<StoredDatabase&>(*this);  // loading is not a change
  std::vector<std::shared_ptr<StoredCollection>> collections;
  QUASH_RETURN_IF_ERROR(self.LoadAll(&collections));
  JsonArray list;
  for (const auto& collection : collections) {
    quash_collection_info info;
    const Status status = collection->Stats(&info);
    if (status.code() == QUASH_NOT_FOUND) continue;
    QUASH_RETURN_IF_ERROR(status);
    list.Add(JsonObject({{"name", collection->name()},
                         {"rows", info.rows},
                         {"dead_rows", info.dead_rows},
                         {"segments", info.segments},
                         {"tail_rows", info.tail_rows},
                         {"code_bytes", info.code_bytes},
                         {"rerank_bytes", info.rerank_bytes},
                         {"resident_bytes", info.resident_bytes},
                         {"hot_bytes", info.hot_bytes},
                         {"lists", info.lists},
                         {"indexed_rows", info.indexed_rows},
                         {"list_bytes", info.list_bytes},
                         {"generation", info.generation}}));
  }
  const std::shared_ptr<Store> store = this->store();
  *out = JsonObject({{"path", directory_->path()},
                     {"format_version", kFormatVersion},
                     {"durability",
                      options_.durability == QUASH_DURABILITY_FULL ? "full" : "normal"},
                     {"memory_budget_bytes", options_.memory_budget_bytes},
                     {"cache_bytes", cache_->used_bytes()},
                     {"storage_memory_bytes", store->memory_bytes()},
                     {"disk_bytes", store->disk_bytes()},
                     {"sequence", store->sequence()},
                     {"collections", list}})
             .text();
  return Status();
}

}  // namespace quash
