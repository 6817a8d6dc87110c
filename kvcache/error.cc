#include "kvcache/error.h"

#include <algorithm>
#include <cstring>

namespace quash {
namespace {

// Fixed storage, so that recording an error cannot itself run out of memory.
thread_local char error_text[1024] = "";

}  // namespace

quash_kv_status RecordError(quash_kv_status status, std::string_view message) noexcept {
  const size_t size = std::min(message.size(), sizeof(error_text) - 1);
  std::memcpy(error_text, message.data(), size);
  error_text[size] = '\0';
  return status;
}

const char* ErrorText() noexcept { return error_text; }

}  // namespace quash
