// A database directory: its RocksDB instance, lock, witness and collections.
// Thread-safe. The C API (api_*.cc) is a thin layer over Database and
// Collection: it checks pointers, marshals, and catches.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "libquashdb/progress.h"
#include "libquashdb/schema.h"
#include "libquashdb/snapshot.h"
#include "libquashdb/status.h"

namespace quash {

struct OpenOptions {
  quash_open_mode mode = QUASH_OPEN_CREATE;
  quash_durability durability = QUASH_DURABILITY_FULL;
  uint64_t memory_budget_bytes = 0;
  uint32_t threads = 0;
};

// One row's stored metadata and document.
struct Record {
  std::vector<Value> values;  // aligned with spec.fields, possibly shorter
  std::string document;
  bool has_document = false;
};

// Rows to write, already checked against the spec: ids distinct and of the
// right type, vectors finite (and non-zero for cosine), values of their types.
struct WriteBatch {
  size_t n = 0;
  const float* vectors = nullptr;      // [n, dim]; normalised here for cosine
  std::vector<Id> ids;                 // [n], empty: assign int64 ids
  std::vector<Record> records;         // [n] or empty
};

enum class WriteMode { kAdd, kUpsert };

class Collection {
 public:
  virtual ~Collection() = default;

  // Latest published snapshot. Everything reachable from it stays readable
  // while it is held, whatever is written, compacted or dropped meanwhile.
  virtual Status GetSnapshot(SnapshotRef* out) const = 0;

  // One atomic batch; on any error nothing changed.
  //   assigned  out, may be null: the ids in row order
  virtual Status Write(const WriteBatch& batch, WriteMode mode, const Progress& progress,
                       std::vector<Id>* assigned) = 0;
  virtual Status Delete(std::span<const Id> ids, uint64_t* deleted) = 0;
  // Atomically deletes the rows that match, evaluated under the writer lock.
  virtual Status DeleteWhere(std::string_view filter, const Progress& progress,
                             uint64_t* deleted) = 0;
  virtual Status AddField(const Field& field) = 0;  // checked here: CheckFields()
  virtual Status SetWidths(const SearchWidths& widths) = 0;  // an empty curve: as it is

  // Where each id's row is in `snapshot`: segment index and row, or
  // segment == kMissing.
  struct Location {
    uint32_t segment;
    uint32_t row;
  };
  static constexpr uint32_t kMissing = UINT32_MAX;
  virtual Status Find(const Snapshot& snapshot, std::span<const Id> ids,
                      std::vector<Location>* out) const = 0;

  // Stored records of rows of `snapshot`, in the order of `rows`; fields of a row
  // without metadata are null. Rows near each other are read together.
  virtual Status ReadRecords(const Snapshot& snapshot, std::span<const Location> rows,
                             std::vector<Record>* out) const = 0;

  virtual Status Stats(quash_collection_info* out) const = 0;

  // Later snapshots are searched on this GPU; null: on the CPU.
  virtual Status AttachGpu(std::shared_ptr<GpuGroup> gpu) = 0;
};

class Database {
 public:
  virtual ~Database() = default;

  static Status Open(const std::string& path, const OpenOptions& options,
                     std::unique_ptr<Database>* out);
  static Status Restore(const std::string& backup_path, const std::string& path);

  virtual const OpenOptions& options() const = 0;
  virtual Status Close() = 0;  // flush, sync, witness; later calls give MISUSE
  virtual Status Refresh() = 0;
  virtual Status Checkpoint() = 0;
  virtual Status Backup(const std::string& path, const Progress& progress) = 0;
  // `report` is written on OK and on CORRUPT.
  virtual Status Verify(const Progress& progress, std::string* report_json) = 0;
  virtual Status Compact(const Progress& progress) = 0;
  virtual Status StatsJson(std::string* out) const = 0;

  // spec.number is assigned here.
  virtual Status CreateCollection(CollectionSpec spec, std::shared_ptr<Collection>* out) = 0;
  virtual Status OpenCollection(std::string_view name, std::shared_ptr<Collection>* out) = 0;
  virtual Status DropCollection(std::string_view name) = 0;
  virtual Status ListCollections(std::vector<std::string>* names) const = 0;
};

}  // namespace quash
