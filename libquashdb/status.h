// Status of an internal operation: a quash_status with its message. Internal
// code returns Status; the C boundary (api_*.cc) records it for quash_errmsg().
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "quashdb.h"

namespace quash {

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  Status(quash_status code, std::string message, long offset = -1)
      : code_(code), message_(std::move(message)), offset_(offset) {}

  bool ok() const { return code_ == QUASH_OK; }
  quash_status code() const { return code_; }
  const std::string& message() const { return message_; }
  long offset() const { return offset_; }  // in filter text, or -1

 private:
  quash_status code_ = QUASH_OK;
  std::string message_;
  long offset_ = -1;
};

// Error(QUASH_INVALID, "dim is {}, expected 1 to {}", dim, QUASH_DIM_MAX)
template <typename... Args>
Status Error(quash_status code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}

#define QUASH_RETURN_IF_ERROR(expression)                  \
  do {                                                     \
    if (::quash::Status quash_status_ = (expression); !quash_status_.ok()) \
      return quash_status_;                                \
  } while (0)

}  // namespace quash
