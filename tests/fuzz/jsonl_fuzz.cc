// libFuzzer: JSON Lines as the shell imports them. Any bytes give rows of finite
// vectors, the first one again after Rewind(), or an Error that names file and line.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "cli/error.h"
#include "cli/import.h"
#include "tests/fuzz/memory_file.h"

namespace {

// At most `rows` rows as text, or false if one is refused.
bool Read(quash::cli::RowSource& source, const std::string& path, size_t rows,
          std::string* text) {
  quash::cli::ImportRow row;
  try {
    for (; rows > 0 && source.Next(&row); --rows) {
      for (const float x : row.vector) {
        if (!std::isfinite(x)) std::abort();
      }
      if (!source.Where().starts_with(path + ":")) std::abort();
      using Json = quash::cli::OrderedJson;
      *text += row.metadata.dump(-1, ' ', false, Json::error_handler_t::replace);
      *text += row.id.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      *text += row.document.value_or("") + std::to_string(row.vector.size()) + "\n";
    }
  } catch (const quash::cli::Error& error) {
    if (!std::string_view(error.what()).starts_with(path)) std::abort();
    return false;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile file(".jsonl");
  file.Set(data, size);
  quash::cli::ImportOptions options;
  options.file = file.path();
  const auto source = quash::cli::OpenJsonlSource(options);
  std::string first, all;
  if (!Read(*source, file.path(), 1, &first)) return 0;
  source->Rewind();
  (void)Read(*source, file.path(), SIZE_MAX, &all);
  if (!all.starts_with(first)) std::abort();
  return 0;
}
