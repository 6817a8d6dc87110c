#include "tests/fault/probe.h"

#include <cstring>
#include <fstream>
#include <iterator>

#include "tests/fault/workload.h"

namespace fault_test {

namespace fs = std::filesystem;
using capi_test::Child;
using capi_test::Db;
using capi_test::TempDir;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void WriteFile(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

Original::Original(const TempDir& dir) : path(dir / "original.qdb"), dump(dir / "dump") {
  constexpr uint64_t kSeed = 3;  // with partitions, and not larger than need be
  static_assert(SizeOf(kSeed) == Size::kListed);
  const Db db = capi_test::Open(path);
  REQUIRE_OK(CreateCollections(db.get()));
  Collections collections;
  REQUIRE_OK(OpenCollections(db.get(), &collections));
  for (int64_t number = 0; number < 60; ++number) {
    REQUIRE_OK(Apply(db.get(), collections, kSeed, MakeBatch(kSeed, number)));
    if (number == 45) REQUIRE_OK(quash_compact(db.get()));  // finishes partition indexes
  }
  quash_collection_info info = {};
  info.struct_size = sizeof(info);
  REQUIRE_OK(quash_collection_stats(collections.numbers, &info));
  REQUIRE(info.lists > 0);
  REQUIRE(info.tail_rows > 0);
  FreeCollections(collections);
  std::string contents;
  REQUIRE_OK(capi_test::TryDump(db.get(), &contents, capi_test::Vectors::kBytes));
  WriteFile(dump, contents);
}

Finding Prober::Probe(const std::string& path) {
  constexpr int kProbesOfChild = 50;
  if (probes_ == kProbesOfChild) Finish();
  if (child_ == nullptr) child_ = std::make_unique<Child>(std::vector<std::string>{"probe", dump_});
  ++probes_;
  child_->Write(path);
  const std::string line = child_->ReadLine();
  if (line.empty()) Finish();  // it has died
  const size_t bar = line.find("|verify ");
  if (bar == std::string::npos) return {line, ""};
  return {line.substr(0, bar), line.substr(bar + 8)};
}

void Prober::Finish() {
  if (child_ == nullptr) return;
  const int exit_code = child_->Wait();
  CHECK_MESSAGE(exit_code == 0, "the process ended with ", exit_code);
  child_.reset();
  probes_ = 0;
}

void CheckFinding(const Finding& finding, bool may_differ) {
  INFO("outcome: ", finding.outcome, ", verify: ", finding.verify);
  const auto says = [&](const char* start) {
    return finding.outcome.starts_with(start) && finding.outcome.size() > strlen(start) + 10;
  };
  const bool refused =
      says("refused QUASH_CORRUPT ") || says("refused QUASH_IO ") || says("refused QUASH_VERSION ");
  const bool failed = says("failed QUASH_CORRUPT ") || says("failed QUASH_IO ");
  CHECK((refused || failed || finding.outcome == "same" ||
         (may_differ && finding.outcome == "loss")));
  if (failed) CHECK((finding.verify == "QUASH_CORRUPT" || finding.verify == "QUASH_IO"));
}

void CopyDatabase(const std::string& from, const std::string& to) {
  fs::remove_all(to);
  fs::create_directory(to);
  for (const auto& entry : fs::recursive_directory_iterator(from)) {
    const fs::path copy = to / fs::relative(entry.path(), from);
    if (entry.is_directory()) {
      fs::create_directory(copy);
    } else if (entry.path().extension() == ".sst") {
      fs::create_hard_link(entry.path(), copy);
    } else {
      fs::copy_file(entry.path(), copy);
    }
  }
}

void ReplaceFile(const fs::path& path, const std::string& bytes) {
  fs::remove(path);
  WriteFile(path, bytes);
}

}  // namespace fault_test
