#include "libquashdb/database_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <system_error>

namespace quash {
namespace {

namespace fs = std::filesystem;

constexpr char kFormatFile[] = "/quashdb.format";
constexpr char kLockFile[] = "/quashdb.lock";
constexpr char kWitnessFile[] = "/quashdb.witness";
constexpr char kFormatPrefix[] = "QuashDB format ";
constexpr uint64_t kReserveBytes = 64u << 20;

std::string SystemError() { return std::generic_category().message(errno); }

Status ReadSmallFile(const std::string& path, std::string* out, bool* found) {
  *found = false;
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    if (errno == ENOENT) return Status();
    return Error(QUASH_IO, "cannot open {}: {}", path, SystemError());
  }
  char buffer[256];
  const ssize_t size = read(file, buffer, sizeof(buffer));
  const std::string reason = size < 0 ? SystemError() : "";
  close(file);
  if (size < 0) return Error(QUASH_IO, "cannot read {}: {}", path, reason);
  out->assign(buffer, static_cast<size_t>(size));
  *found = true;
  return Status();
}

Status CheckFormat(const std::string& path, bool* found) {
  std::string text;
  QUASH_RETURN_IF_ERROR(ReadSmallFile(path + kFormatFile, &text, found));
  if (!*found) return Status();
  uint32_t version = 0;
  const size_t prefix = sizeof(kFormatPrefix) - 1;
  const char* digits = text.data() + std::min(prefix, text.size());
  const auto parsed = std::from_chars(digits, text.data() + text.size(), version);
  if (text.compare(0, prefix, kFormatPrefix) != 0 || parsed.ec != std::errc() || version == 0) {
    return Error(QUASH_CORRUPT, "{}{} is damaged", path, kFormatFile);
  }
  if (version > kFormatVersion) {
    return Error(QUASH_VERSION,
                 "{} has format version {}, this library reads versions up to {}: use a newer "
                 "QuashDB",
                 path, version, kFormatVersion);
  }
  return Status();
}

}  // namespace

Status SyncDirectory(const std::string& path) {
  const int directory = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return Error(QUASH_IO, "cannot open {}: {}", path, SystemError());
  const bool failed = fsync(directory) != 0;
  const std::string reason = failed ? SystemError() : "";
  close(directory);
  return failed ? Error(QUASH_IO, "cannot sync {}: {}", path, reason) : Status();
}

Status ListDirectory(const std::string& path, std::vector<std::string>* names) {
  struct CloseDirectory {
    void operator()(DIR* directory) const { closedir(directory); }
  };
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir(path.c_str()));
  if (directory == nullptr) return Error(QUASH_IO, "cannot list {}: {}", path, SystemError());
  names->clear();
  errno = 0;
  while (const dirent* entry = readdir(directory.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names->emplace_back(name);
    errno = 0;
  }
  return errno == 0 ? Status() : Error(QUASH_IO, "cannot list {}: {}", path, SystemError());
}

void RemoveTree(const std::string& path) noexcept {
  try {
    std::vector<std::string> names;
    if (!ListDirectory(path, &names).ok()) return;
    for (const std::string& name : names) {
      const std::string entry = path + "/" + name;
      struct stat info;
      if (lstat(entry.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {
        RemoveTree(entry);
      } else {
        unlink(entry.c_str());
      }
    }
    rmdir(path.c_str());
  } catch (const std::bad_alloc&) {  // it stays
  }
}

Status WriteFileAtomically(const std::string& path, const std::string& content) {
  const std::string temporary = path + ".new";
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return Error(QUASH_IO, "cannot create {}: {}", temporary, SystemError());
  const bool written = write(file, content.data(), content.size()) ==
                           static_cast<ssize_t>(content.size()) &&
                       fsync(file) == 0;
  const std::string reason = written ? "" : SystemError();
  close(file);
  if (!written) {
    unlink(temporary.c_str());
    return Error(QUASH_IO, "cannot write {}: {}", temporary, reason);
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    return Error(QUASH_IO, "cannot rename {}: {}", temporary, SystemError());
  }
  return SyncDirectory(fs::path(path).parent_path());
}

Status DatabaseDirectory::Open(const std::string& path, quash_open_mode mode,
                               std::unique_ptr<DatabaseDirectory>* out) {
  std::unique_ptr<DatabaseDirectory> directory(new DatabaseDirectory);
  directory->path_ = path;
  if (path == ":memory:") {
    directory->in_memory_ = true;
    directory->is_new_ = true;
    *out = std::move(directory);
    return Status();
  }
  while (directory->path_.size() > 1 && directory->path_.back() == '/') {
    directory->path_.pop_back();
  }
  struct stat info = {};
  bool exists = stat(path.c_str(), &info) == 0;
  if (!exists && errno != ENOENT && errno != ENOTDIR) {
    return Error(QUASH_IO, "cannot look at {}: {}", path, SystemError());
  }
  if (exists && !S_ISDIR(info.st_mode)) {
    return Error(QUASH_CORRUPT, "{} is a file, expected a database directory", path);
  }
  if (!exists) {
    if (mode != QUASH_OPEN_CREATE) return Error(QUASH_NOT_FOUND, "no database at {}", path);
    if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
      return Error(QUASH_IO, "cannot make the directory {}: {}", path, SystemError());
    }
  }
  bool has_format = false;
  QUASH_RETURN_IF_ERROR(CheckFormat(directory->path_, &has_format));
  if (!has_format) {
    // Nothing but our lock may be there: a creation cut short, or an empty
    // directory.
    std::vector<std::string> names;
    QUASH_RETURN_IF_ERROR(ListDirectory(path, &names));
    bool is_empty = true;
    for (const std::string& name : names) {
      is_empty &= name == &kLockFile[1] || name == std::string(&kFormatFile[1]) + ".new";
    }
    if (!is_empty) {
      return Error(QUASH_CORRUPT, "{} is not a QuashDB database: {} is missing", path,
                   &kFormatFile[1]);
    }
    if (mode != QUASH_OPEN_CREATE) {
      return Error(QUASH_NOT_FOUND, "no database at {}: the directory is empty", path);
    }
  }
  QUASH_RETURN_IF_ERROR(directory->Lock(mode));
  const bool is_writer = mode == QUASH_OPEN_CREATE || mode == QUASH_OPEN_READWRITE;
  if (!has_format && is_writer) {
    // The directory's own name is to survive a power cut too, whoever made it.
    QUASH_RETURN_IF_ERROR(SyncDirectory(fs::absolute(directory->path_).parent_path()));
    QUASH_RETURN_IF_ERROR(WriteFormat(directory->path_));
  }

  std::string ignored;
  bool has_witness = false;
  QUASH_RETURN_IF_ERROR(
      ReadSmallFile(directory->path_ + kWitnessFile, &ignored, &has_witness));
  if (!has_witness) {
    // It is written last when a database is made. Whether anything was committed
    // without it shows when the data are read.
    if (!is_writer) {
      return Error(QUASH_CORRUPT, "{} is incomplete: {} is missing", path, &kWitnessFile[1]);
    }
    directory->is_new_ = true;
  }
  *out = std::move(directory);
  return Status();
}

DatabaseDirectory::~DatabaseDirectory() {
  if (lock_file_ >= 0) close(lock_file_);
}

Status DatabaseDirectory::Lock(quash_open_mode mode) {
  if (mode == QUASH_OPEN_FOLLOWER) return Status();
  const std::string file = path_ + kLockFile;
  const bool shared = mode == QUASH_OPEN_READONLY;
  lock_file_ = shared ? open(file.c_str(), O_RDONLY | O_CLOEXEC)
                      : open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_file_ < 0) {
    // A backup on read-only media may have none, and can have no writer.
    if (shared && errno == ENOENT) return Status();
    return Error(QUASH_IO, "cannot open {}: {}", file, SystemError());
  }
  if (flock(lock_file_, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Error(QUASH_IO, "cannot lock {}: {}", file, SystemError());
    // Beside readers the file holds the process that wrote last, if any.
    const bool readers_only = !shared && flock(lock_file_, LOCK_SH | LOCK_NB) == 0;
    char pid[32] = "";
    const ssize_t size = readers_only ? 0 : pread(lock_file_, pid, sizeof(pid) - 1, 0);
    if (size > 0) {
      pid[strcspn(pid, "\n")] = '\0';
      return Error(QUASH_BUSY, "{} is open in process {}; open it as follower to read beside it",
                   path_, pid);
    }
    return Error(QUASH_BUSY, "{} is open for reading in another process", path_);
  }
  if (!shared) {
    const std::string pid = fmt::format("{}\n", getpid());
    if (ftruncate(lock_file_, 0) != 0 ||
        pwrite(lock_file_, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
      return Error(QUASH_IO, "cannot write {}: {}", file, SystemError());
    }
  }
  return Status();
}

Status DatabaseDirectory::WriteFormat(const std::string& path) {
  return WriteFileAtomically(path + kFormatFile,
                             fmt::format("{}{}\n", kFormatPrefix, kFormatVersion));
}

// "commit <number> <XXH3-64 of the text before, in hex>"
Status DatabaseDirectory::WriteWitnessFile(const std::string& path, uint64_t commit_number) {
  const std::string text = fmt::format("commit {} ", commit_number);
  return WriteFileAtomically(
      path + kWitnessFile,
      fmt::format("{}{:016x}\n", text, XXH3_64bits(text.data(), text.size())));
}

Status DatabaseDirectory::WriteWitness(uint64_t commit_number) const {
  if (in_memory_) return Status();
  return WriteWitnessFile(path_, commit_number);
}

Status DatabaseDirectory::ReadWitness(uint64_t* commit_number) const {
  *commit_number = 0;
  if (in_memory_) return Status();
  std::string text;
  bool found = false;
  QUASH_RETURN_IF_ERROR(ReadSmallFile(path_ + kWitnessFile, &text, &found));
  unsigned long long number = 0;
  int checked = 0;
  const bool parsed =
      found && std::sscanf(text.c_str(), "commit %llu %n", &number, &checked) == 1 && checked > 0;
  if (!parsed || text != fmt::format("{}{:016x}\n", text.substr(0, checked),
                                     XXH3_64bits(text.data(), checked))) {
    return Error(QUASH_CORRUPT, "{}{} is damaged", path_, kWitnessFile);
  }
  *commit_number = number;
  return Status();
}

Status DatabaseDirectory::CheckSpace(uint64_t bytes) const {
  if (in_memory_) return Status();
  struct statvfs info = {};
  if (statvfs(path_.c_str(), &info) != 0) {
    return Error(QUASH_IO, "cannot look at the disk of {}: {}", path_, SystemError());
  }
  const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
  const uint64_t needed = kReserveBytes + bytes;
  if (free_bytes >= needed) return Status();
  return Error(QUASH_FULL, "the disk of {} has {} bytes free, a write needs {}", path_, free_bytes,
               needed);
}

}  // namespace quash
