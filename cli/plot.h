// Pictures of a collection, drawn by the Python package.
#pragma once

#include <string>

#include "cli/session.h"

namespace quash::cli {

struct PlotOptions {
  std::string collection;
  std::string file;
  std::string kind = "recall";  // or "map"
  std::string by;               // map: a field, or empty
};

// Runs `python3 -m quashdb.plot`, or the interpreter that QUASHDB_PYTHON names.
// Throws Error.
void Plot(Session& session, const PlotOptions& options);

}  // namespace quash::cli
