// What Tab offers: dot-commands, keywords, collections and fields.
#pragma once

#include <string_view>

#include "cli/line_editor.h"
#include "cli/session.h"

namespace quash::cli {

// Completions of the last word of `line`, sorted.
CompletionSet Completions(const Session& session, std::string_view line);

}  // namespace quash::cli
