#include "tests/fault/failing_io.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

namespace failing_io {
namespace {

namespace fs = std::filesystem;

struct State {
  std::mutex mutex;
  std::string directory;                 // with a slash at its end
  std::map<std::string, off_t> durable;  // file -> bytes that are synced
};

State& state() {
  static State* const state = new State;  // used until the process ends
  return *state;
}

std::atomic<bool> active{false};
Failure failure;  // unchanged while active
std::atomic<uint64_t> calls{0};
std::atomic<uint64_t> failures{0};

// The next definition of a libc function after this library's.
template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::string PathOf(int file) {
  char link[32], path[4096];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
  const ssize_t size = readlink(link, path, sizeof(path));
  return {path, static_cast<size_t>(std::max<ssize_t>(size, 0))};
}

bool IsWatched(const std::string& path) {
  return path.size() > state().directory.size() && path.starts_with(state().directory);
}

bool IsMeant(const std::string& path) {
  const std::string name = fs::path(path).filename();
  switch (failure.files) {
    case Files::kAny:
      return true;
    case Files::kLog:
      return name.ends_with(".log");
    case Files::kTable:
      return name.ends_with(".sst");
    case Files::kManifest:
      return name.starts_with("MANIFEST-");
    case Files::kCurrent:
      return name == "CURRENT" || name.ends_with(".dbtmp");
    case Files::kOwn:
      return name.starts_with("quashdb.");
  }
  return false;
}

// Counts a call; true if it is to fail, with errno set.
bool Fails(Kind kind, const std::string& path) {
  if (kind != failure.kind || !IsMeant(path)) return false;
  const uint64_t number = ++calls;
  if (failure.first == 0 || number < failure.first) return false;
  if (number > failure.first && !failure.from_there) return false;
  ++failures;
  errno = failure.error == Error::kEnospc ? ENOSPC : EIO;
  return true;
}

bool Fails(Kind kind, int file) {
  if (!active || kind != failure.kind) return false;
  const std::string path = PathOf(file);
  return IsWatched(path) && Fails(kind, path);
}
bool FailsPath(Kind kind, const char* path) {
  return active && IsWatched(path) && Fails(kind, std::string(path));
}

// Half of all runs: the first half of the bytes arrives.
bool TearsWrites() { return failure.first % 2 == 0; }
bool IsShort() { return failure.error == Error::kShort; }
size_t ShortSize(size_t size) { return std::max<size_t>(size / 2, 1); }

// The disk has kept what was synced before and nothing else.
void ForgetUnsynced(int file, const std::string& path) {
  struct stat info;
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) return;
  const std::lock_guard lock(state().mutex);
  const off_t durable = state().durable[path];
  static const auto next = Next<int(int, off_t)>("ftruncate");
  if (durable < info.st_size && next(file, durable) != 0) std::perror("ftruncate");
}

int Sync(int file, int (*next)(int)) {
  const std::string path = active ? PathOf(file) : "";
  if (!IsWatched(path)) return next(file);
  if (Fails(Kind::kSync, path)) {
    const int error = errno;
    ForgetUnsynced(file, path);
    errno = error;
    return -1;
  }
  struct stat info;
  if (fstat(file, &info) != 0) return -1;
  const std::lock_guard lock(state().mutex);
  state().durable[path] = info.st_size;
  return 0;
}

}  // namespace

void Start(const char* directory, const Failure& what) {
  active = false;
  {
    const std::lock_guard lock(state().mutex);
    state().directory = std::string(directory) + "/";
    state().durable.clear();
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
      if (entry.is_regular_file()) {
        state().durable[entry.path()] = static_cast<off_t>(entry.file_size());
      }
    }
  }
  failure = what;
  calls = 0;
  failures = 0;
  active = true;
}

void Stop() { active = false; }

uint64_t Calls() { return calls; }
uint64_t Failed() { return failures; }

namespace {

// Of a preloaded library: begins when the process does, reports when it ends.
struct FromEnvironment {
  FromEnvironment() {
    const char* directory = std::getenv("QUASH_FAILING_DIRECTORY");
    const char* settings = std::getenv("QUASH_FAILING_IO");
    if (directory == nullptr || settings == nullptr) return;
    int kind = 0, files = 0, error = 0;
    std::string how;
    Failure wanted;
    std::istringstream(settings) >> kind >> files >> error >> wanted.first >> how;
    wanted.kind = static_cast<Kind>(kind);
    wanted.files = static_cast<Files>(files);
    wanted.error = static_cast<Error>(error);
    wanted.from_there = how == "on";
    Start(directory, wanted);
  }
  ~FromEnvironment() {
    if (!active) return;
    Stop();
    if (const char* report = std::getenv("QUASH_FAILING_REPORT")) {
      std::ofstream(report) << calls << ' ' << failures << '\n';
    }
  }
};
const FromEnvironment from_environment;

}  // namespace

}  // namespace failing_io

using failing_io::Fails;
using failing_io::FailsPath;
using failing_io::Kind;
using failing_io::Next;

extern "C" {

ssize_t write(int file, const void* data, size_t size) {
  static const auto next = Next<ssize_t(int, const void*, size_t)>("write");
  if (Fails(Kind::kWrite, file)) {
    if (failing_io::IsShort()) return next(file, data, failing_io::ShortSize(size));
    const int error = errno;
    if (failing_io::TearsWrites()) (void)!next(file, data, size / 2);
    errno = error;
    return -1;
  }
  return next(file, data, size);
}

ssize_t pwrite(int file, const void* data, size_t size, off_t offset) {
  static const auto next = Next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  if (Fails(Kind::kWrite, file)) {
    if (failing_io::IsShort()) return next(file, data, failing_io::ShortSize(size), offset);
    const int error = errno;
    if (failing_io::TearsWrites()) (void)!next(file, data, size / 2, offset);
    errno = error;
    return -1;
  }
  return next(file, data, size, offset);
}

int fsync(int file) {
  static const auto next = Next<int(int)>("fsync");
  return failing_io::Sync(file, next);
}

int fdatasync(int file) {
  static const auto next = Next<int(int)>("fdatasync");
  return failing_io::Sync(file, next);
}

int sync_file_range(int file, off_t offset, off_t size, unsigned flags) {
  static const auto next = Next<int(int, off_t, off_t, unsigned)>("sync_file_range");
  // Without flags it only asks whether the file system has it.
  if (flags != 0 && Fails(Kind::kSync, file)) return -1;
  return next(file, offset, size, flags);
}

ssize_t read(int file, void* data, size_t size) {
  static const auto next = Next<ssize_t(int, void*, size_t)>("read");
  if (Fails(Kind::kRead, file)) {
    return failing_io::IsShort() ? next(file, data, failing_io::ShortSize(size)) : -1;
  }
  return next(file, data, size);
}

ssize_t pread(int file, void* data, size_t size, off_t offset) {
  static const auto next = Next<ssize_t(int, void*, size_t, off_t)>("pread");
  if (Fails(Kind::kRead, file)) {
    return failing_io::IsShort() ? next(file, data, failing_io::ShortSize(size), offset) : -1;
  }
  return next(file, data, size, offset);
}

size_t fread_unlocked(void* data, size_t size, size_t count, FILE* file) {
  static const auto next = Next<size_t(void*, size_t, size_t, FILE*)>("fread_unlocked");
  if (Fails(Kind::kRead, fileno(file))) {
    return 0;
  }
  return next(data, size, count, file);
}

int open(const char* path, int flags, ...) {
  static const auto next = Next<int(const char*, int, ...)>("open");
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
  }
  const Kind kind = (flags & O_CREAT) != 0 ? Kind::kCreate : Kind::kOpen;
  if (FailsPath(kind, path)) return -1;
  return next(path, flags, mode);
}

int rename(const char* from, const char* to) noexcept {
  static const auto next = Next<int(const char*, const char*)>("rename");
  if (FailsPath(Kind::kRename, to)) return -1;
  return next(from, to);
}

int ftruncate(int file, off_t size) noexcept {
  static const auto next = Next<int(int, off_t)>("ftruncate");
  if (Fails(Kind::kCreate, file)) return -1;
  return next(file, size);
}

int link(const char* from, const char* to) noexcept {
  static const auto next = Next<int(const char*, const char*)>("link");
  if (FailsPath(Kind::kRename, from)) return -1;
  return next(from, to);
}

int unlink(const char* path) noexcept {
  static const auto next = Next<int(const char*)>("unlink");
  if (FailsPath(Kind::kRename, path)) return -1;
  return next(path);
}

}  // extern "C"
