// A library that stands between the process and libc and writes down what is
// done to the files of one directory, so that the disk can be rebuilt as a power
// cut might have left it (power_image.h).
//
// Recorded are open() of new files, write, pwrite, ftruncate, fsync, fdatasync,
// rename, link, unlink, unlinkat, remove, mkdir, rmdir and syncs of directories:
// all that RocksDB, libquashdb and std::filesystem use. Thread-safe: calls are
// recorded in the order in which they happened.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace file_journal {

struct Event {
  enum class Kind {
    kCreate,         // path, file
    kMkdir,          // path
    kWrite,          // file, offset, bytes
    kTruncate,       // file, offset: the new size
    kSync,           // file
    kRename,         // path, target
    kLink,           // path, target
    kRemove,         // path: file or directory
    kSyncDirectory,  // path
    kMark,           // offset, bytes: the test's own
  };
  Kind kind;
  std::string path = {}, target = {};  // relative to the directory; "" is itself
  uint64_t file = 0;                   // a number per file ever made, not its name
  int64_t offset = 0;
  std::string bytes = {};
};

// Begins recording what happens below `directory`: absolute, without symbolic
// links. What is there counts as durable, under the file numbers that
// `Initial()` gives.
void Start(const std::string& directory);
void Stop();

// Something that the test wants to find between the events of files.
void Mark(int64_t number, const std::string& text);

struct InitialFile {
  std::string path;
  bool is_directory;
  uint64_t file;
  std::string bytes;
};
// Valid until the next Start(); read them when stopped.
const std::vector<InitialFile>& Initial();
const std::vector<Event>& Events();

}  // namespace file_journal
