// A database and what has become of it, seen by another process.
#pragma once

#include <filesystem>
#include <string>

#include "tests/capi/support.h"

namespace fault_test {

std::string ReadFile(const std::filesystem::path& path);
void WriteFile(const std::filesystem::path& path, const std::string& bytes);

// A database with sealed segments, deletes and a tail, closed, and its dump.
struct Original {
  explicit Original(const capi_test::TempDir& dir);
  std::string path, dump;
};

// One line of a probe in a process of its own, split at the bar.
struct Finding {
  std::string outcome, verify;
};

Finding Probe(const std::string& path, const std::string& dump);

// The outcome must be honest: what was stored, or an error of the right kind that
// says why not.
//   may_differ  or other contents, where they had no checksum
void CheckFinding(const Finding& finding, bool may_differ = false);

void CopyDatabase(const std::string& from, const std::string& to);

}  // namespace fault_test
