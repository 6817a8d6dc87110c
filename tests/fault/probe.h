// A database and what has become of it, seen by another process.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "tests/capi/support.h"

namespace fault_test {

std::string ReadFile(const std::filesystem::path& path);
void WriteFile(const std::filesystem::path& path, const std::string& bytes);

// A database with sealed segments, partition indexes, deletes and a tail, closed,
// and its dump.
struct Original {
  explicit Original(const capi_test::TempDir& dir);
  std::string path, dump;
};

// One line of a probe, split at the bar.
struct Finding {
  std::string outcome, verify;
};

// Looks at databases from another process, which must end well. It is used for
// many of them, since starting one takes longer than a look.
class Prober {
 public:
  //   dump  file with what the databases should hold
  explicit Prober(const std::string& dump) : dump_(dump) {}
  ~Prober() { Finish(); }

  Finding Probe(const std::string& path);

 private:
  void Finish();

  const std::string dump_;
  std::unique_ptr<capi_test::Child> child_;
  int probes_ = 0;  // of this child
};

// The outcome must be honest: what was stored, or an error of the right kind that
// says why not.
//   may_differ  or other contents, where they had no checksum
void CheckFinding(const Finding& finding, bool may_differ = false);

// Tables are linked, since nobody writes into a table that is there: a copy that did
// would show in every later one. ReplaceFile() gives a copy one of its own.
void CopyDatabase(const std::string& from, const std::string& to);
void ReplaceFile(const std::filesystem::path& path, const std::string& bytes);

}  // namespace fault_test
