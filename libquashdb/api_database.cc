// quash_open() to quash_verify() and quash_stats().
#include <unistd.h>

#include <atomic>

#include "libquashdb/api_handles.h"

using quash::Error;
using quash::Guard;
using quash::NullArgument;
using quash::Status;
using quash::WithDatabase;
using quash::WithDatabaseToWrite;

namespace {

constexpr uint64_t kMinMemoryBudget = 64u << 20;

// RocksDB's threads do not survive a fork, and its pools do not notice. Once a
// process has started them its forked children cannot open databases, and must
// leave by _exit(): the destructors of RocksDB's statics wait for the threads.
std::atomic<pid_t> rocksdb_process{0};

Status EnterRocksDb() {
  pid_t process = 0;
  if (rocksdb_process.compare_exchange_strong(process, getpid()) || process == getpid()) {
    return Status();
  }
  return Error(QUASH_MISUSE,
               "process {} opened a database before it forked, and its forked children cannot: "
               "open databases after the fork only, or start new processes",
               process);
}

Status CheckPath(const char* path, const char* name) {
  if (path == nullptr) return NullArgument(name);
  if (*path == '\0') return Error(QUASH_INVALID, "{} is empty, expected a directory", name);
  return Status();
}

}  // namespace

extern "C" {

void quash_open_options_init(quash_open_options* options) {
  if (options == nullptr) return;
  *options = quash_open_options{};
  options->struct_size = sizeof(*options);
}

quash_status quash_open(const char* path, const quash_open_options* options, quash_db** out_db) {
  return Guard([&]() -> Status {
    if (out_db == nullptr) return NullArgument("out_db");
    QUASH_RETURN_IF_ERROR(CheckPath(path, "path"));
    quash_open_options given;
    quash_open_options_init(&given);
    QUASH_RETURN_IF_ERROR(quash::CopyOptions(options, "quash_open_options", &given));
    if (const uint32_t mode = quash::EnumNumber(given.mode); mode > QUASH_OPEN_FOLLOWER) {
      return Error(QUASH_INVALID, "mode is {}, expected a quash_open_mode", mode);
    }
    if (const uint32_t durability = quash::EnumNumber(given.durability);
        durability > QUASH_DURABILITY_NORMAL) {
      return Error(QUASH_INVALID, "durability is {}, expected a quash_durability", durability);
    }
    if (given.memory_budget_bytes != 0 && given.memory_budget_bytes < kMinMemoryBudget) {
      return Error(QUASH_INVALID, "memory_budget_bytes is {}, expected 0 or at least {}",
                   given.memory_budget_bytes, kMinMemoryBudget);
    }
    QUASH_RETURN_IF_ERROR(EnterRocksDb());
    std::unique_ptr<quash::Database> database;
    QUASH_RETURN_IF_ERROR(quash::Database::Open(
        path, {given.mode, given.durability, given.memory_budget_bytes, given.threads},
        &database));
    auto db = std::make_unique<quash_db>();
    db->handle = std::make_shared<quash::DatabaseHandle>(std::move(database));
    *out_db = db.release();
    return Status();
  });
}

quash_status quash_close(quash_db* db) {
  if (db == nullptr) return QUASH_OK;
  const quash_status status = Guard([&]() -> Status {
    QUASH_RETURN_IF_ERROR(db->handle->CheckNotInProgress());
    return db->handle->Close();
  });
  if (status != QUASH_MISUSE) delete db;  // else in use: by a call, by the parent of a fork
  return status;
}

quash_status quash_refresh(quash_db* db) {
  return WithDatabase(db, [](quash::Database& database) { return database.Refresh(); });
}

quash_status quash_set_progress(quash_db* db, quash_progress_fn callback, void* user_data) {
  return Guard([&]() -> Status {
    if (db == nullptr) return NullArgument("db");
    db->handle->SetProgress(callback, user_data);
    return Status();
  });
}

quash_status quash_checkpoint(quash_db* db) {
  return WithDatabaseToWrite(db, [](quash::Database& database) { return database.Checkpoint(); });
}

quash_status quash_backup(quash_db* db, const char* path) {
  return WithDatabaseToWrite(db, [&](quash::Database& database) -> Status {
    QUASH_RETURN_IF_ERROR(CheckPath(path, "path"));
    return database.Backup(path, db->handle->progress());
  });
}

quash_status quash_restore(const char* backup_path, const char* path) {
  return Guard([&]() -> Status {
    QUASH_RETURN_IF_ERROR(CheckPath(backup_path, "backup_path"));
    QUASH_RETURN_IF_ERROR(CheckPath(path, "path"));
    QUASH_RETURN_IF_ERROR(EnterRocksDb());
    return quash::Database::Restore(backup_path, path);
  });
}

quash_status quash_verify(quash_db* db, char** out_report) {
  return WithDatabase(db, [&](quash::Database& database) -> Status {
    std::string report;
    const Status status = database.Verify(db->handle->progress(), &report);
    if (out_report != nullptr && (status.ok() || status.code() == QUASH_CORRUPT)) {
      QUASH_RETURN_IF_ERROR(quash::CopyText(report, out_report));
    }
    return status;
  });
}

quash_status quash_compact(quash_db* db) {
  return WithDatabaseToWrite(db, [&](quash::Database& database) {
    return database.Compact(db->handle->progress());
  });
}

quash_status quash_stats(quash_db* db, char** out_json) {
  return WithDatabase(db, [&](quash::Database& database) -> Status {
    if (out_json == nullptr) return NullArgument("out_json");
    std::string text;
    QUASH_RETURN_IF_ERROR(database.StatsJson(&text));
    return quash::CopyText(text, out_json);
  });
}

}  // extern "C"
