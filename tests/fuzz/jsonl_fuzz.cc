// libFuzzer: JSON Lines as the shell imports them. Any bytes give rows of finite
// vectors, the same ones after Rewind(), or an Error that names file and line.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "cli/error.h"
#include "cli/import.h"
#include "tests/fuzz/memory_file.h"

namespace {

std::string ReadAll(quash::cli::RowSource& source, const std::string& path) {
  std::string text;
  quash::cli::ImportRow row;
  try {
    while (source.Next(&row)) {
      for (const float x : row.vector) {
        if (!std::isfinite(x)) std::abort();
      }
      if (!source.Where().starts_with(path + ":")) std::abort();
      using Json = quash::cli::OrderedJson;
      text += row.metadata.dump(-1, ' ', false, Json::error_handler_t::replace);
      text += row.id.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      text += row.document.value_or("") + std::to_string(row.vector.size()) + "\n";
    }
  } catch (const quash::cli::Error& error) {
    if (!std::string(error.what()).starts_with(path)) std::abort();
    text += error.what();
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile file(".jsonl");
  file.Set(data, size);
  quash::cli::ImportOptions options;
  options.file = file.path();
  const auto source = quash::cli::OpenJsonlSource(options);
  const std::string first = ReadAll(*source, file.path());
  source->Rewind();
  if (ReadAll(*source, file.path()) != first) std::abort();
  return 0;
}
