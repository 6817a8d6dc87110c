#include "tests/fault/file_journal.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>

namespace file_journal {
namespace {

namespace fs = std::filesystem;
using Kind = Event::Kind;

struct State {
  std::mutex mutex;
  std::string directory;            // with a slash at its end
  std::map<ino_t, uint64_t> files;  // of the files that are there, their numbers
  uint64_t next_file = 1;
  std::vector<InitialFile> initial;
  std::vector<Event> events;
};

State& state() {
  static State* const state = new State;  // used until the process ends
  return *state;
}

std::atomic<bool> active{false};

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

// The path below the directory, or nothing if it is elsewhere.
std::optional<std::string> Relative(const std::string& path) {
  const std::string& directory = state().directory;
  if (path + "/" == directory) return "";
  if (!path.starts_with(directory)) return std::nullopt;
  return path.substr(directory.size());
}

std::string PathOf(int file) {
  char link[32], path[4096];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
  const ssize_t size = readlink(link, path, sizeof(path));
  return {path, static_cast<size_t>(std::max<ssize_t>(size, 0))};
}

// The number of a file that is recorded, else 0. Its name may be gone.
uint64_t NumberOf(int file, struct stat* info) {
  if (fstat(file, info) != 0 || !S_ISREG(info->st_mode)) return 0;
  const std::string path = PathOf(file);
  if (!path.starts_with(state().directory)) return 0;
  const auto found = state().files.find(info->st_ino);
  return found == state().files.end() ? 0 : found->second;
}

void Record(Event event) { state().events.push_back(std::move(event)); }

ssize_t RecordWrite(const void* data, ssize_t written, off_t offset, uint64_t number) {
  if (number != 0 && written > 0) {
    Record({.kind = Kind::kWrite,
            .file = number,
            .offset = offset,
            .bytes = std::string(static_cast<const char*>(data), static_cast<size_t>(written))});
  }
  return written;
}

int Sync(int file, int (*next)(int)) {
  if (!active) return next(file);
  const std::lock_guard lock(state().mutex);
  struct stat info;
  if (const uint64_t number = NumberOf(file, &info); number != 0) {
    Record({.kind = Kind::kSync, .file = number});
    return 0;  // the real disk need not wait
  }
  if (fstat(file, &info) == 0 && S_ISDIR(info.st_mode)) {
    if (const auto path = Relative(PathOf(file))) {
      Record({.kind = Kind::kSyncDirectory, .path = *path});
      return 0;
    }
  }
  return next(file);
}

// Does a call that changes a name, and records it if it succeeds.
template <typename Call>
int Rename(Kind kind, const char* from, const char* to, Call&& call) {
  if (!active) return call();
  const std::lock_guard lock(state().mutex);
  const int result = call();
  if (result != 0) return result;
  const auto path = Relative(from), target = Relative(to);
  if (path && target) Record({.kind = kind, .path = *path, .target = *target});
  return result;
}

template <typename Call>
int ChangeName(Kind kind, const char* name, Call&& call) {
  if (!active) return call();
  const std::lock_guard lock(state().mutex);
  const int result = call();
  const auto path = Relative(name);
  if (result == 0 && path) Record({.kind = kind, .path = *path});
  return result;
}

}  // namespace

void Start(const std::string& directory) {
  active = false;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.directory = directory + "/";
  s.files.clear();
  s.initial.clear();
  s.events.clear();
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    InitialFile file = {fs::relative(entry.path(), directory), entry.is_directory(), 0, ""};
    struct stat info;
    if (!file.is_directory && stat(entry.path().c_str(), &info) == 0) {
      file.file = s.next_file++;
      s.files[info.st_ino] = file.file;
      std::ifstream stream(entry.path(), std::ios::binary);
      file.bytes.assign(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    }
    s.initial.push_back(std::move(file));
  }
  active = true;
}

void Stop() { active = false; }

void Mark(int64_t number, const std::string& text) {
  const std::lock_guard lock(state().mutex);
  Record({.kind = Kind::kMark, .offset = number, .bytes = text});
}

const std::vector<InitialFile>& Initial() { return state().initial; }
const std::vector<Event>& Events() { return state().events; }

}  // namespace file_journal

using file_journal::active;
using file_journal::ChangeName;
using file_journal::Event;
using file_journal::Next;
using file_journal::state;

extern "C" {

int open(const char* path, int flags, ...) {
  static const auto next = Next<int(const char*, int, ...)>("open");
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
  }
  if (!active || (flags & (O_CREAT | O_TRUNC)) == 0) return next(path, flags, mode);
  const auto relative = file_journal::Relative(path);
  if (!relative) return next(path, flags, mode);
  const std::lock_guard lock(state().mutex);
  struct stat info;
  const bool existed = stat(path, &info) == 0;
  const int file = next(path, flags, mode);
  if (file < 0 || fstat(file, &info) != 0) return file;
  if (!existed) {
    // An inode number may have belonged to a file that is gone.
    const uint64_t number = state().next_file++;
    state().files[info.st_ino] = number;
    file_journal::Record({.kind = Event::Kind::kCreate, .path = *relative, .file = number});
  } else if ((flags & O_TRUNC) != 0) {
    file_journal::Record(
        {.kind = Event::Kind::kTruncate, .file = state().files[info.st_ino], .offset = 0});
  }
  return file;
}

ssize_t write(int file, const void* data, size_t size) {
  static const auto next = Next<ssize_t(int, const void*, size_t)>("write");
  if (!active) return next(file, data, size);
  const std::lock_guard lock(state().mutex);
  struct stat info;
  const uint64_t number = file_journal::NumberOf(file, &info);
  off_t offset = 0;
  if (number != 0) {
    const bool appends = (fcntl(file, F_GETFL) & O_APPEND) != 0;
    offset = appends ? info.st_size : lseek(file, 0, SEEK_CUR);
  }
  return file_journal::RecordWrite(data, next(file, data, size), offset, number);
}

ssize_t pwrite(int file, const void* data, size_t size, off_t offset) {
  static const auto next = Next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  if (!active) return next(file, data, size, offset);
  const std::lock_guard lock(state().mutex);
  struct stat info;
  const uint64_t number = file_journal::NumberOf(file, &info);
  return file_journal::RecordWrite(data, next(file, data, size, offset), offset, number);
}

int ftruncate(int file, off_t size) noexcept {
  static const auto next = Next<int(int, off_t)>("ftruncate");
  if (!active) return next(file, size);
  const std::lock_guard lock(state().mutex);
  struct stat info;
  const uint64_t number = file_journal::NumberOf(file, &info);
  const int result = next(file, size);
  if (result == 0 && number != 0) {
    file_journal::Record({.kind = Event::Kind::kTruncate, .file = number, .offset = size});
  }
  return result;
}

int fsync(int file) {
  static const auto next = Next<int(int)>("fsync");
  return file_journal::Sync(file, next);
}

int fdatasync(int file) {
  static const auto next = Next<int(int)>("fdatasync");
  return file_journal::Sync(file, next);
}

int rename(const char* from, const char* to) noexcept {
  static const auto next = Next<int(const char*, const char*)>("rename");
  return file_journal::Rename(Event::Kind::kRename, from, to, [&] { return next(from, to); });
}

int link(const char* from, const char* to) noexcept {
  static const auto next = Next<int(const char*, const char*)>("link");
  return file_journal::Rename(Event::Kind::kLink, from, to, [&] { return next(from, to); });
}

int unlink(const char* path) noexcept {
  static const auto next = Next<int(const char*)>("unlink");
  return ChangeName(Event::Kind::kRemove, path, [&] { return next(path); });
}

int unlinkat(int directory, const char* path, int flags) noexcept {
  static const auto next = Next<int(int, const char*, int)>("unlinkat");
  if (!active) return next(directory, path, flags);
  const bool is_whole = path[0] == '/' || directory == AT_FDCWD;
  const std::string name = is_whole ? path : file_journal::PathOf(directory) + "/" + path;
  return ChangeName(Event::Kind::kRemove, name.c_str(),
                    [&] { return next(directory, path, flags); });
}

int remove(const char* path) noexcept {
  static const auto next = Next<int(const char*)>("remove");
  return ChangeName(Event::Kind::kRemove, path, [&] { return next(path); });
}

int mkdir(const char* path, mode_t mode) noexcept {
  static const auto next = Next<int(const char*, mode_t)>("mkdir");
  return ChangeName(Event::Kind::kMkdir, path, [&] { return next(path, mode); });
}

int rmdir(const char* path) noexcept {
  static const auto next = Next<int(const char*)>("rmdir");
  return ChangeName(Event::Kind::kRemove, path, [&] { return next(path); });
}

}  // extern "C"
