// A library that stands between the process and libc and makes file calls fail.
// Linked before libc, its write(), fsync() and the rest are the ones that
// RocksDB and libquashdb call.
//
// Counted and failed are calls on files below one directory:
//   kWrite  write, pwrite: EIO; where `first` is even, after the first half of the bytes
//   kSync   fsync, fdatasync: EIO, and what was not synced before is gone;
//           sync_file_range: EIO. Those that succeed do not wait for the disk
//   kRead   read, pread, fread_unlocked: EIO
//   kName   open, rename, ftruncate: EIO
// Thread-safe. Nothing is counted before Start().
#pragma once

#include <cstdint>

namespace failing_io {

enum class Kind { kWrite, kSync, kRead, kName };
inline constexpr int kNumKinds = 4;

// Begins counting from 0.
//   directory   absolute, without symbolic links
//   kind        of the calls that fail
//   first       number of the call that fails, from 1; 0: none
//   from_there  all calls of that kind from `first` on fail, not that one alone
void Start(const char* directory, Kind kind, uint64_t first, bool from_there);
void Stop();

uint64_t Calls(Kind kind);  // since Start()
uint64_t Failed();          // since Start()

}  // namespace failing_io
