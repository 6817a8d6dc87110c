// The files of a database directory that are not RocksDB's:
//   quashdb.format   says that this is a database, and of which format version
//   quashdb.lock     flock()ed while open, holds the pid of the writer
//   quashdb.witness  the last commit known to be durable
//   data/            RocksDB
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "libquashdb/status.h"
#include "quashdb.h"

namespace quash {

inline constexpr uint32_t kFormatVersion = 1;

class DatabaseDirectory {
 public:
  // Finds or makes the directory and takes the lock that `mode` needs.
  // ":memory:" has neither.
  static Status Open(const std::string& path, quash_open_mode mode,
                     std::unique_ptr<DatabaseDirectory>* out);
  ~DatabaseDirectory();  // gives the lock back
  DatabaseDirectory(const DatabaseDirectory&) = delete;
  DatabaseDirectory& operator=(const DatabaseDirectory&) = delete;

  const std::string& path() const { return path_; }
  bool in_memory() const { return in_memory_; }
  std::string data_path() const { return path_ + "/data"; }
  // There is no witness: nothing may have been committed here.
  bool is_new() const { return is_new_; }

  // The witness's commit number; QUASH_CORRUPT if the file is damaged or missing.
  Status ReadWitness(uint64_t* commit_number) const;
  // Replaced atomically and synced.
  Status WriteWitness(uint64_t commit_number) const;

  // QUASH_FULL unless the disk has room for `bytes` and a reserve: RocksDB must
  // not meet a full disk itself.
  Status CheckSpace(uint64_t bytes) const;

  // Writes the format and witness files of a copy.
  static Status WriteFormat(const std::string& path);
  static Status WriteWitnessFile(const std::string& path, uint64_t commit_number);

 private:
  DatabaseDirectory() = default;
  Status Lock(quash_open_mode mode);

  std::string path_;
  bool in_memory_ = false;
  bool is_new_ = false;
  int lock_file_ = -1;
};

// Writes `path` whole or not at all: temporary, fsync, rename, fsync of the
// directory.
Status WriteFileAtomically(const std::string& path, const std::string& content);
Status SyncDirectory(const std::string& path);

// What is in a directory, but for "." and "..", in no order. The iterators of
// libstdc++ end the process where memory has run out.
Status ListDirectory(const std::string& path, std::vector<std::string>* names);
// Removes a directory and the files in it, to any depth, as far as that goes.
void RemoveTree(const std::string& path) noexcept;

}  // namespace quash
