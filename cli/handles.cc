#include "cli/handles.h"

namespace quash::cli {

void Check(quash_status status, std::optional<size_t> offset) {
  if (status == QUASH_OK) return;
  std::string message = quash_errmsg();
  if (message.empty()) message = quash_status_name(status);
  if (status == QUASH_CANCELLED) throw Error("interrupted", std::nullopt, kExitInterrupted);
  if (status == QUASH_CORRUPT) throw Error(message, offset, kExitDamaged);
  throw Error(message, offset);
}

namespace {

// The library says "filter, byte 12: ..."; a caret in the statement says it better.
std::string WithoutPlace(const std::string& message) {
  constexpr std::string_view kBefore = "filter, byte ";
  if (!message.starts_with(kBefore)) return message;
  const size_t end = message.find_first_not_of("0123456789", kBefore.size());
  const bool whole = end != std::string::npos && message.compare(end, 2, ": ") == 0;
  return whole ? message.substr(end + 2) : message;
}

}  // namespace

void CheckFilter(quash_status status, std::optional<size_t> filter_offset) {
  if (status == QUASH_OK) return;
  const long within = quash_error_offset();
  if (filter_offset && within >= 0) {
    throw Error(WithoutPlace(quash_errmsg()), *filter_offset + static_cast<size_t>(within));
  }
  Check(status, status == QUASH_NOT_FOUND ? filter_offset : std::nullopt);
}

std::string TakeText(char* text) {
  std::string copy = text == nullptr ? "" : text;
  quash_free(text);
  return copy;
}

}  // namespace quash::cli
