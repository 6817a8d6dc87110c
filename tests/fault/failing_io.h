// A library that stands between the process and libc and makes file calls fail.
// Linked before libc, its write(), fsync() and the rest are the ones that
// RocksDB and libquashdb call.
//
// Counted and failed are calls on files below one directory:
//   kWrite   write, pwrite; where `first` is even, after the first half of the bytes
//   kSync    fsync, fdatasync: what was not synced before is gone; sync_file_range.
//            Those that succeed do not wait for the disk
//   kRead    read, pread, fread_unlocked
//   kOpen    open of a file that is to be there
//   kCreate  open of one that may be made, ftruncate
//   kRename  rename, link, unlink
// Thread-safe. Nothing is counted before Start().
//
// Preloaded into another program (LD_PRELOAD), it is started by the environment:
//   QUASH_FAILING_DIRECTORY  as for Start()
//   QUASH_FAILING_IO         "KIND FILES ERROR FIRST once|on", numbers of what is below
//   QUASH_FAILING_REPORT     file that gets "CALLS FAILED" when the program ends
#pragma once

#include <cstdint>

namespace failing_io {

enum class Kind { kWrite, kSync, kRead, kOpen, kCreate, kRename };
inline constexpr int kNumKinds = 6;

// RocksDB's log, tables, manifest, CURRENT with the file that becomes it, and
// the files that are libquashdb's own.
enum class Files { kAny, kLog, kTable, kManifest, kCurrent, kOwn };
inline constexpr int kNumFiles = 6;

// kShort: half of the bytes are written or read, and that is no error; other
// calls give EIO.
enum class Error { kEio, kEnospc, kShort };
inline constexpr int kNumErrors = 3;

// What fails.
struct Failure {
  Kind kind = Kind::kWrite;
  Files files = Files::kAny;
  Error error = Error::kEio;
  uint64_t first = 0;       // number of the call that fails, from 1; 0: none
  bool from_there = false;  // all from `first` on fail, not that one alone
};

// Begins counting from 0.
//   directory  absolute, without symbolic links
void Start(const char* directory, const Failure& failure);
void Stop();

uint64_t Calls();   // of the failure's kind and files, since Start()
uint64_t Failed();  // since Start()

}  // namespace failing_io
