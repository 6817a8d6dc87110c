// Backup, restore and verification of whole databases.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <new>
#include <system_error>

#include "libquashdb/json_text.h"
#include "libquashdb/stored_database.h"

namespace quash {
namespace {

namespace fs = std::filesystem;

// Where a copy is to be made.
//   target  out: `path` without slashes at its end
Status CheckTarget(const std::string& path, std::string* target) {
  if (path == ":memory:") {
    return Error(QUASH_INVALID,
                 "\":memory:\" is no directory, expected a path that does not exist");
  }
  *target = path.substr(0, std::max<size_t>(path.find_last_not_of('/') + 1, 1));
  std::error_code error;
  if (fs::symlink_status(*target, error).type() != fs::file_type::not_found) {
    return Error(QUASH_EXISTS, "{} exists already, expected a path that does not", path);
  }
  const fs::path parent = fs::absolute(*target).parent_path();
  if (!fs::is_directory(parent, error)) {
    return Error(QUASH_NOT_FOUND, "the directory {} does not exist", parent.string());
  }
  return Status();
}

// A sibling of `path` to build the copy in, so that a copy cut short is never
// taken for a whole one.
Status MakeSibling(const std::string& path, std::string* sibling) {
  *sibling = path + ".partial-XXXXXX";
  if (mkdtemp(sibling->data()) == nullptr) {
    return Error(QUASH_IO, "cannot make {}: {}", *sibling,
                 std::generic_category().message(errno));
  }
  return Status();
}

Status RenameInPlace(const std::string& sibling, const std::string& path) {
  if (rename(sibling.c_str(), path.c_str()) != 0) {
    return Error(errno == EEXIST || errno == ENOTEMPTY ? QUASH_EXISTS : QUASH_IO,
                 "cannot rename {} to {}: {}", sibling, path,
                 std::generic_category().message(errno));
  }
  return SyncDirectory(fs::absolute(path).parent_path());
}

// Runs `fill(sibling)` and puts the result at `path`, or leaves nothing.
template <typename Fill>
Status BuildCopy(const std::string& path, Fill&& fill) {
  std::string sibling;
  QUASH_RETURN_IF_ERROR(MakeSibling(path, &sibling));
  Status status;
  try {
    status = fill(sibling);
    if (status.ok()) status = RenameInPlace(sibling, path);
  } catch (const std::bad_alloc&) {
    RemoveTree(sibling);
    throw;
  }
  if (!status.ok()) RemoveTree(sibling);
  return status;
}

Status SyncFile(const fs::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0 || fsync(file) != 0) {
    const std::string reason = std::generic_category().message(errno);
    if (file >= 0) close(file);
    return Error(QUASH_IO, "cannot sync {}: {}", path.string(), reason);
  }
  close(file);
  return Status();
}

// The regular files of a directory, but for the lock, copied and synced.
Status CopyFiles(const std::string& from, const std::string& to) {
  std::vector<std::string> names;
  QUASH_RETURN_IF_ERROR(ListDirectory(from, &names));
  for (const std::string& name : names) {
    std::error_code error;
    const fs::path source = from + "/" + name;
    const fs::path target = to + "/" + name;
    if (name == "quashdb.lock" || !fs::is_regular_file(source, error)) continue;
    fs::copy_file(source, target, error);
    if (error) return Error(QUASH_IO, "cannot copy {}: {}", source.string(), error.message());
    QUASH_RETURN_IF_ERROR(SyncFile(target));
  }
  return Status();
}

}  // namespace

Status StoredDatabase::Backup(const std::string& path, const Progress& progress) {
  if (options_.mode == QUASH_OPEN_READONLY || options_.mode == QUASH_OPEN_FOLLOWER) {
    return Error(QUASH_READONLY, "a backup needs {} open for writing", directory_->path());
  }
  if (directory_->in_memory()) {
    return Error(QUASH_INVALID, "a \":memory:\" database has no files to back up");
  }
  std::string target;
  QUASH_RETURN_IF_ERROR(CheckTarget(path, &target));
  if (progress && progress(0, 1)) return Error(QUASH_CANCELLED, "the backup was cancelled");
  return BuildCopy(target, [&](const std::string& sibling) -> Status {
    uint64_t commit_number = 0;
    {
      // Commits wait while files are linked, not while they are copied.
      const std::lock_guard lock(writer_mutex_);
      QUASH_RETURN_IF_ERROR(store_->WriteError());
      QUASH_RETURN_IF_ERROR(directory_->CheckSpace(0));
      QUASH_RETURN_IF_ERROR(store_->Checkpoint(sibling + "/data"));
      commit_number = commit_number_;
    }
    QUASH_RETURN_IF_ERROR(DatabaseDirectory::WriteFormat(sibling));
    return DatabaseDirectory::WriteWitnessFile(sibling, commit_number);
  });
}

Status Database::Restore(const std::string& backup_path, const std::string& path) {
  std::string target;
  QUASH_RETURN_IF_ERROR(CheckTarget(path, &target));
  // Open until its files are copied: its lock, where it has one, keeps writers out.
  OpenOptions options;
  options.mode = QUASH_OPEN_READONLY;
  std::unique_ptr<Database> backup;
  QUASH_RETURN_IF_ERROR(Open(backup_path, options, &backup));
  std::string report;
  QUASH_RETURN_IF_ERROR(backup->Verify(nullptr, &report));
  return BuildCopy(target, [&](const std::string& sibling) -> Status {
    QUASH_RETURN_IF_ERROR(CopyFiles(backup_path, sibling));
    const std::string data = sibling + "/data";
    if (mkdir(data.c_str(), 0700) != 0) {
      return Error(QUASH_IO, "cannot make {}: {}", data, std::generic_category().message(errno));
    }
    QUASH_RETURN_IF_ERROR(CopyFiles(backup_path + "/data", data));
    QUASH_RETURN_IF_ERROR(SyncDirectory(data));
    return SyncDirectory(sibling);
  });
}

Status StoredDatabase::Verify(const Progress& progress, std::string* report_json) {
  std::vector<std::string> problems;
  uint64_t rows = 0;
  uint64_t segments = 0;
  uint64_t bytes = 0;
  const Status checksums = store()->VerifyChecksums();
  if (!checksums.ok()) problems.push_back(checksums.message());
  std::vector<std::string> names;
  QUASH_RETURN_IF_ERROR(ListCollections(&names));
  for (const std::string& name : names) {
    std::shared_ptr<StoredCollection> collection;
    const Status loaded = LoadCollection(name, &collection);
    if (loaded.code() == QUASH_NOT_FOUND) continue;  // dropped meanwhile
    if (!loaded.ok()) {
      problems.push_back(loaded.message());
      continue;
    }
    const Status status = collection->Verify(progress, &bytes, &problems);
    if (status.code() == QUASH_NOT_FOUND) continue;
    QUASH_RETURN_IF_ERROR(status);
    quash_collection_info info;
    QUASH_RETURN_IF_ERROR(collection->Stats(&info));
    rows += info.rows;
    segments += info.segments;
  }
  JsonArray list;
  for (const std::string& problem : problems) list.Add(problem);
  *report_json = JsonObject({{"ok", problems.empty()},
                             {"collections", names.size()},
                             {"rows", rows},
                             {"segments", segments},
                             {"bytes", bytes},
                             {"problems", list}})
                     .text();
  if (problems.empty()) return Status();
  return Error(QUASH_CORRUPT, "{} problems, the first: {}", problems.size(), problems.front());
}

}  // namespace quash
