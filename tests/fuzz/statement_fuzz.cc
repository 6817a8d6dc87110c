// libFuzzer: splitting input into statements, the lexer and the parser. Any
// bytes either parse or throw Error with an offset inside the statement. Of several
// statements the first is parsed: an error thrown takes longer than all the rest.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "cli/error.h"
#include "cli/lexer.h"
#include "cli/parser.h"
#include "cli/text.h"

namespace {

void Parse(const std::string& text) {
  try {
    quash::cli::ParseStatement(text);
  } catch (const quash::cli::Error& error) {
    if (!error.offset() || *error.offset() > text.size()) std::abort();
    quash::cli::Excerpt(text, *error.offset());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  quash::cli::StatementBuffer buffer;
  std::string statement;
  size_t line = 0;
  bool parsed = false;
  for (size_t begin = 0; begin <= input.size();) {
    const size_t end = std::min(input.find('\n', begin), input.size());
    buffer.AddLine(input.substr(begin, end - begin));
    while (buffer.Take(&statement, &line)) {
      if (line == 0) std::abort();
      if (!parsed) Parse(statement);
      parsed = true;
    }
    begin = end + 1;
  }
  if (!parsed) Parse(buffer.text());
  return 0;
}
