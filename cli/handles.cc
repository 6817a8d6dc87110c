#include "cli/handles.h"

namespace quash::cli {

void Check(quash_status status, std::optional<size_t> offset) {
  if (status == QUASH_OK) return;
  std::string message = quash_errmsg();
  if (message.empty()) message = quash_status_name(status);
  if (status == QUASH_CANCELLED) throw Error("interrupted", std::nullopt, kExitInterrupted);
  throw Error(message, offset);
}

void CheckFilter(quash_status status, std::optional<size_t> filter_offset) {
  if (status == QUASH_OK) return;
  const long within = quash_error_offset();
  if (filter_offset && within >= 0) Check(status, *filter_offset + static_cast<size_t>(within));
  Check(status, status == QUASH_NOT_FOUND ? filter_offset : std::nullopt);
}

std::string TakeText(char* text) {
  std::string copy = text == nullptr ? "" : text;
  quash_free(text);
  return copy;
}

}  // namespace quash::cli
