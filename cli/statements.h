// Runs statements against the session's database.
#pragma once

#include <string_view>

#include "cli/ast.h"
#include "cli/session.h"

namespace quash::cli {

// Parses and runs one statement. Throws Error, with an offset into `text`
// where one is known.
void RunStatement(Session& session, std::string_view text);

// Runs a SELECT or explains it; the search subcommand builds its own.
void RunSelect(Session& session, const Select& select);
void RunExplain(Session& session, const Select& select);

}  // namespace quash::cli
