// The state of a disk after a power cut, from a journal of file calls.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/fault/file_journal.h"

namespace fault_test {

// A file system that promises what POSIX does and no more: bytes of a file are
// safe after its sync, names in a directory after the directory's. Names are
// journaled in order within a directory, as ext4, XFS and Btrfs do.
class PowerImage {
 public:
  explicit PowerImage(const std::vector<file_journal::InitialFile>& initial);

  // Follows one more event.
  void Apply(const file_journal::Event& event);

  // What the power cut leaves, made in the directory `path`, which is emptied:
  // of each directory, the names up to a random one of the changes since its
  // sync; of each file, what was synced and of the rest the first bytes, or
  // these and noise, or zeros, or sectors of all three.
  //
  // Returns whether RocksDB's manifest ends in other bytes than were written to it.
  // RocksDB cannot tell that from damage and refuses it. File systems that order
  // data before sizes (ext4 by default, XFS, Btrfs, ZFS) leave no such file.
  bool Write(const std::string& path, std::mt19937_64& random) const;

 private:
  struct File {
    std::string durable;  // as of the last sync
    std::vector<const file_journal::Event*> pending = {};
  };
  struct Node {
    bool is_directory = false;
    uint64_t file = 0;
  };
  using Names = std::map<std::string, Node>;

  static void Change(const file_journal::Event& event, Names* names);
  static std::string DirectoryOf(const file_journal::Event& event);
  static std::string Surviving(const File& file, std::mt19937_64& random, bool* has_noise);

  std::map<uint64_t, File> files_;
  Names durable_names_;
  // Per directory; what is not synced yet.
  std::map<std::string, std::vector<const file_journal::Event*>> pending_names_;
};

}  // namespace fault_test
