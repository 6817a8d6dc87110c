// Lines of a text file, of any length, numbered.
#pragma once

#include <string>
#include <string_view>

#include "cli/matrix.h"

namespace quash::cli {

class LineReader {
 public:
  explicit LineReader(const std::string& path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line without its line end; valid until the next call. A byte
  // order mark at the start of the file is skipped.
  bool Next(std::string_view* line);
  void Rewind();
  // "path:17" for the line last given.
  std::string Where() const;
  uint64_t line() const { return line_; }
  const InputFile& file() const { return file_; }

 private:
  InputFile file_;
  char* buffer_ = nullptr;  // getline's
  size_t capacity_ = 0;
  uint64_t line_ = 0;
};

}  // namespace quash::cli
