#include "libquashdb/api_handles.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/dispatch.h"

namespace quash {
namespace {

// Fixed storage, so that recording an error cannot itself run out of memory.
struct LastError {
  char message[2048] = "";
  long offset = -1;
};
thread_local LastError last_error;

// The progress callback that this thread is in, and the one that it was called in.
struct ProgressCall {
  const DatabaseHandle* const handle;
  const ProgressCall* const outer;
};
thread_local const ProgressCall* innermost_progress = nullptr;

}  // namespace

quash_status RecordError(const Status& status) noexcept {
  if (status.ok()) return QUASH_OK;
  std::snprintf(last_error.message, sizeof(last_error.message), "%s", status.message().c_str());
  last_error.offset = status.offset();
  return status.code();
}

quash_status RecordNoMemory() noexcept {
  std::snprintf(last_error.message, sizeof(last_error.message), "out of memory");
  last_error.offset = -1;
  return QUASH_NOMEM;
}

quash_status RecordInternal(const char* what) noexcept {
  std::snprintf(last_error.message, sizeof(last_error.message), "internal error: %s", what);
  last_error.offset = -1;
  return QUASH_INTERNAL;
}

Status NullArgument(const char* name) {
  return Error(QUASH_INVALID, "{} is NULL, expected a pointer", name);
}

Status CopyText(const std::string& text, char** out) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  *out = copy;
  return Status();
}

DatabaseHandle::DatabaseHandle(std::unique_ptr<Database> database)
    : database_(std::move(database)), pid_(getpid()) {}

// A forked child has none of the threads that closing would wait for, and the
// files are the parent's: there the database is left as it is.
DatabaseHandle::~DatabaseHandle() {
  if (getpid() != pid_) (void)database_.release();
}

Status DatabaseHandle::Close() {
  if (getpid() != pid_) {
    return Error(QUASH_MISUSE,
                 "the database was opened by process {}, and a forked child may not use it", pid_);
  }
  if (closed_.exchange(true)) return Error(QUASH_MISUSE, "the database is closed already");
  std::unique_lock lock(calls_);
  {
    std::lock_guard held_lock(held_mutex_);
    for (SnapshotRef* snapshot : held_) snapshot->reset();
  }
  return database_->Close();
}

void DatabaseHandle::Hold(SnapshotRef* snapshot) {
  std::lock_guard lock(held_mutex_);
  held_.insert(snapshot);
}

void DatabaseHandle::Release(SnapshotRef* snapshot) {
  if (getpid() != pid_) {  // locks may be held for ever there: left as it is
    (void)new (std::nothrow) SnapshotRef(std::move(*snapshot));
    return;
  }
  std::lock_guard lock(held_mutex_);
  held_.erase(snapshot);
  snapshot->reset();
}

void DatabaseHandle::SetProgress(quash_progress_fn callback, void* user_data) {
  std::lock_guard lock(progress_mutex_);
  progress_callback_ = callback;
  progress_user_data_ = user_data;
}

Progress DatabaseHandle::progress() {
  std::lock_guard lock(progress_mutex_);
  if (progress_callback_ == nullptr) return Progress();
  return [this, callback = progress_callback_, user_data = progress_user_data_](uint64_t done,
                                                                                uint64_t total) {
    const ProgressCall call{this, innermost_progress};
    const struct Leave {
      const ProgressCall& call;
      ~Leave() { innermost_progress = call.outer; }
    } leave{call};
    innermost_progress = &call;
    return callback(user_data, done, total) != 0;
  };
}

Status DatabaseHandle::CheckNotInProgress() const {
  for (const ProgressCall* call = innermost_progress; call != nullptr; call = call->outer) {
    if (call->handle != this) continue;
    return Error(QUASH_MISUSE,
                 "called from the database's progress callback, which may neither write nor close");
  }
  return Status();
}

Call::Call(DatabaseHandle& handle) {
  if (getpid() != handle.pid_) {  // before the lock: its state is the parent's
    status_ = Error(QUASH_MISUSE,
                    "the database was opened by process {}, and a forked child may not use it",
                    handle.pid_);
    return;
  }
  if (!handle.closed_) lock_ = std::shared_lock(handle.calls_);
  if (handle.closed_) status_ = Error(QUASH_MISUSE, "the database is closed");
}

}  // namespace quash

extern "C" {

const char* quash_version(void) { return QUASH_VERSION_STRING; }

const char* quash_isa(void) { return quash::Kernels().name; }

const char* quash_status_name(quash_status status) {
  switch (status) {
    case QUASH_OK: return "QUASH_OK";
    case QUASH_INVALID: return "QUASH_INVALID";
    case QUASH_NOT_FOUND: return "QUASH_NOT_FOUND";
    case QUASH_EXISTS: return "QUASH_EXISTS";
    case QUASH_BUSY: return "QUASH_BUSY";
    case QUASH_READONLY: return "QUASH_READONLY";
    case QUASH_CORRUPT: return "QUASH_CORRUPT";
    case QUASH_IO: return "QUASH_IO";
    case QUASH_FULL: return "QUASH_FULL";
    case QUASH_NOMEM: return "QUASH_NOMEM";
    case QUASH_LIMIT: return "QUASH_LIMIT";
    case QUASH_MISUSE: return "QUASH_MISUSE";
    case QUASH_CANCELLED: return "QUASH_CANCELLED";
    case QUASH_VERSION: return "QUASH_VERSION";
    case QUASH_SYNTAX: return "QUASH_SYNTAX";
    case QUASH_TYPE: return "QUASH_TYPE";
    case QUASH_INTERNAL: return "QUASH_INTERNAL";
    case QUASH_UNSUPPORTED: return "QUASH_UNSUPPORTED";
  }
  return "QUASH_UNKNOWN";
}

const char* quash_errmsg(void) { return quash::last_error.message; }

long quash_error_offset(void) { return quash::last_error.offset; }

void quash_free(void* text) { std::free(text); }

float quash_distance(quash_metric metric, float score) {
  return metric == QUASH_METRIC_COSINE ? 1.0f - score : -score;
}

}  // extern "C"
