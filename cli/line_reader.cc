#include "cli/line_reader.h"

#include <fmt/format.h>

#include <cstdlib>

#include "cli/error.h"

namespace quash::cli {

LineReader::LineReader(const std::string& path) : file_(path) {}
LineReader::~LineReader() { std::free(buffer_); }

bool LineReader::Next(std::string_view* line) {
  const ssize_t length = ::getline(&buffer_, &capacity_, file_.stream());
  if (length < 0) {
    if (std::ferror(file_.stream()) != 0) {
      throw Error(fmt::format("{}: cannot read line {}", file_.path(), line_ + 1));
    }
    return false;
  }
  *line = std::string_view(buffer_, static_cast<size_t>(length));
  if (line->ends_with('\n')) line->remove_suffix(1);
  if (line->ends_with('\r')) line->remove_suffix(1);
  if (line_ == 0 && line->starts_with("\xEF\xBB\xBF")) line->remove_prefix(3);
  ++line_;
  return true;
}

void LineReader::Rewind() {
  std::rewind(file_.stream());
  line_ = 0;
}

std::string LineReader::Where() const { return fmt::format("{}:{}", file_.path(), line_); }

}  // namespace quash::cli
