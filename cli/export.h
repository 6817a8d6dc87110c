// Exporting collections to .jsonl, .csv or .npy with .jsonl.
#pragma once

#include <string>

#include "cli/session.h"

namespace quash::cli {

struct ExportOptions {
  std::string file;
  std::string collection;   // empty: the only one of the database
  std::string filter;       // empty: every row
  bool no_vectors = false;  // leave vectors out of .jsonl and .csv
};

// Writes one snapshot of the collection. The file appears under its name only
// when it is complete. A .npy file holds the vectors (float32) and the .jsonl
// file of the same name beside it ids, documents and fields, row by row, as
// import --metadata reads them.
void Export(Session& session, const ExportOptions& options);

}  // namespace quash::cli
