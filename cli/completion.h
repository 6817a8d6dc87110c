// What Tab offers, by what stands before the word: dot-commands and their
// arguments, clauses, collections, fields, option values, files.
#pragma once

#include <string_view>

#include "cli/line_editor.h"
#include "cli/session.h"

namespace quash::cli {

// Completions of the last word of `line`, sorted.
//   before  earlier lines of the same statement
CompletionSet Completions(const Session& session, std::string_view before, std::string_view line);

}  // namespace quash::cli
