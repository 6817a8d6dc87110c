// The C boundary of libquashkv: the text of quash_kv_errmsg(), kept per thread,
// and the guard that turns exceptions into statuses.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <new>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "quash_kv.h"

namespace quash {

// Keeps `message` (cut at 1023 bytes) as this thread's error text; returns
// `status`.
quash_kv_status RecordError(quash_kv_status status, std::string_view message) noexcept;

// This thread's error text, "" before the first; valid until the next error.
const char* ErrorText() noexcept;

// SetError(QUASH_KV_INVALID, "dim is {}, expected 1 to {}", dim, kMaxDim)
template <typename... Args>
quash_kv_status SetError(quash_kv_status status, fmt::format_string<Args...> format,
                         Args&&... args) {
  return RecordError(status, fmt::format(format, std::forward<Args>(args)...));
}

// Runs the body of a C function, which returns a quash_kv_status. Exceptions
// become QUASH_KV_NOMEM, QUASH_KV_INVALID (std::invalid_argument) or
// QUASH_KV_INTERNAL.
template <typename Body>
quash_kv_status Guarded(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return RecordError(QUASH_KV_NOMEM, "out of memory");
  } catch (const std::length_error&) {
    return RecordError(QUASH_KV_NOMEM, "out of memory");
  } catch (const std::invalid_argument& error) {
    return RecordError(QUASH_KV_INVALID, error.what());
  } catch (const std::exception& error) {
    return RecordError(QUASH_KV_INTERNAL, error.what());
  } catch (...) {
    return RecordError(QUASH_KV_INTERNAL, "unknown exception");
  }
}

}  // namespace quash
