// Status of an internal operation: a quash_kv_status with its message. The C
// boundary (api.cc) records it for quash_kv_errmsg().
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "quash_kv.h"

namespace quash::kv {

class [[nodiscard]] Status {
 public:
  Status() = default;  // OK
  Status(quash_kv_status code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == QUASH_KV_OK; }
  quash_kv_status code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  quash_kv_status code_ = QUASH_KV_OK;
  std::string message_;
};

// Invalid("head_dim is {}, expected a multiple of 16", head_dim)
template <typename... Args>
Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return Status(QUASH_KV_INVALID, fmt::format(format, std::forward<Args>(args)...));
}

#define QUASH_KV_RETURN_IF_ERROR(expression)                                         \
  do {                                                                               \
    if (::quash::kv::Status quash_kv_status_ = (expression); !quash_kv_status_.ok()) \
      return quash_kv_status_;                                                       \
  } while (0)

}  // namespace quash::kv
