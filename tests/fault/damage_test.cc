// Damaged files: what was stored comes back, or an error says that it does not.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>

#include "tests/capi/support.h"
#include "tests/fault/options.h"
#include "tests/fault/probe.h"
#include "tests/fault/workload.h"

namespace fault_test {
namespace {

namespace fs = std::filesystem;
using capi_test::Db;
using capi_test::TempDir;

std::vector<fs::path> FilesOf(const std::string& path) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file() && entry.file_size() > 0) {
      files.push_back(fs::relative(entry.path(), path));
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

TEST_SUITE_BEGIN("damage");

TEST_CASE("truncated, missing and foreign files are found out or do no harm") {
  const TempDir dir;
  const Original original(dir);
  const std::string path = dir / "damaged.qdb";
  Prober prober(original.dump);
  REQUIRE(prober.Probe(original.path).outcome == "same");
  const std::vector<std::pair<std::string, std::function<std::string(std::string)>>> damages = {
      {"emptied", [](std::string) { return std::string(); }},
      {"cut in half", [](std::string bytes) { return bytes.substr(0, bytes.size() / 2); }},
      {"short by a byte", [](std::string bytes) { return bytes.substr(0, bytes.size() - 1); }},
      {"of other bytes", [](std::string bytes) { return std::string(bytes.size(), '\x5a'); }},
      {"with bytes added", [](std::string bytes) { return bytes + std::string(100, '\x5a'); }},
  };
  int found = 0, harmless = 0;
  for (const fs::path& file : FilesOf(original.path)) {
    const std::string bytes = ReadFile(original.path / file);
    for (const auto& damage : damages) {
      CAPTURE(file.string());
      CAPTURE(damage.first);
      CopyDatabase(original.path, path);
      ReplaceFile(path / file, damage.second(bytes));
      const Finding finding = prober.Probe(path);
      CheckFinding(finding);
      ++(finding.outcome == "same" ? harmless : found);
    }
    CAPTURE(file.string());
    CopyDatabase(original.path, path);
    fs::remove(path / file);
    const Finding missing = prober.Probe(path);
    CheckFinding(missing);
    if (file.extension() == ".sst" || file.filename() == "CURRENT") {
      CHECK(missing.outcome != "same");
    }
    // Being refused, it has not been "repaired": with its file back it is whole.
    if (missing.outcome.starts_with("refused")) {
      ReplaceFile(path / file, bytes);
      CHECK(prober.Probe(path).outcome == "same");
    }
  }
  CHECK(found > 0);
  MESSAGE(found, " damages found, ", harmless, " harmless");
}

// Mostly one bit; else a cut anywhere, a byte, a few bytes or a sector of noise.
std::string Damaged(std::string bytes, std::mt19937_64& random) {
  const size_t at = random() % bytes.size();
  const auto fill = [&](size_t length) {
    for (size_t i = at; i < std::min(at + length, bytes.size()); ++i) {
      bytes[i] = static_cast<char>(random());
    }
  };
  switch (random() % 8) {
    case 0:
      bytes.resize(at);
      break;
    case 1:
      bytes[at] = static_cast<char>(random());
      break;
    case 2:
      fill(1 + random() % 16);
      break;
    case 3:
      fill(512);
      break;
    default:
      bytes[at] ^= static_cast<char>(1 << random() % 8);
  }
  return bytes;
}

// Damage i takes everything from seed + i: --seed S --flips 1 repeats one.
TEST_CASE("flipped bits, cuts and noise in every file are found out or do no harm") {
  const TempDir dir;
  const Original original(dir);
  const std::string path = dir / "damaged.qdb";
  const std::vector<fs::path> files = FilesOf(original.path);
  Prober prober(original.dump);
  int tried = 0, found = 0, harmless = 0;
  for (int flip = 0; flip < options().flips && HasTime(); ++flip) {
    const uint64_t seed = options().seed + static_cast<uint64_t>(flip);
    std::mt19937_64 random(seed);
    const fs::path& file = files[random() % files.size()];
    const std::string bytes = ReadFile(original.path / file);
    const std::string damaged = Damaged(bytes, random);
    if (damaged == bytes) continue;
    CAPTURE(seed);
    CAPTURE(file.string());
    CopyDatabase(original.path, path);
    ReplaceFile(path / file, damaged);
    const Finding finding = prober.Probe(path);
    CheckFinding(finding);
    ++tried;
    ++(finding.outcome == "same" ? harmless : found);
  }
  CHECK((found > 0 || tried < 20));
  MESSAGE(tried, " files damaged: ", found, " found, ", harmless, " harmless");
}

TEST_CASE("a damaged backup is not restored") {
  const TempDir dir;
  const Original original(dir);
  const std::string backup = dir / "backup.qdb";
  REQUIRE_OK(quash_backup(capi_test::Open(original.path).get(), backup.c_str()));
  for (const fs::path& file : FilesOf(backup)) {
    if (file.extension() != ".sst") continue;
    CAPTURE(file.string());
    const std::string bytes = ReadFile(backup / file);
    std::string damaged = bytes;
    damaged[damaged.size() / 3] ^= 4;
    WriteFile(backup / file, damaged);
    const quash_status status = quash_restore(backup.c_str(), (dir / "restored.qdb").c_str());
    CHECK_MESSAGE(status == QUASH_CORRUPT, std::string(quash_status_name(status)), " ",
                  std::string(quash_errmsg()));
    CHECK_FALSE(fs::exists(dir / "restored.qdb"));
    WriteFile(backup / file, bytes);
  }
  CHECK_OK(quash_restore(backup.c_str(), (dir / "restored.qdb").c_str()));
}

TEST_SUITE_END();

}  // namespace
}  // namespace fault_test
