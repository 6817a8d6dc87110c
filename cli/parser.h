// Parses one statement. The grammar is in README.md.
#pragma once

#include <string_view>

#include "cli/ast.h"

namespace quash::cli {

// Parses `text`, one statement with or without its ';'. Throws Error with an
// offset, naming what was expected and, for a near miss, what was meant.
Statement ParseStatement(std::string_view text);

// A type as written in CREATE: "STRING", "INT[]", ... Throws Error.
quash_field_type ParseFieldType(std::string_view text);
// The reverse, upper case.
std::string FieldTypeName(quash_field_type type);

// "[0.1, 2, ...]" as written in a statement or on a command line.
std::vector<float> ParseVector(std::string_view text);

}  // namespace quash::cli
