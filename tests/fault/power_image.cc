#include "tests/fault/power_image.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace fault_test {
namespace {

namespace fs = std::filesystem;
using file_journal::Event;
using Kind = Event::Kind;

constexpr size_t kSector = 512;

void Change(const Event& event, std::string* bytes) {
  const auto offset = static_cast<size_t>(event.offset);
  if (event.kind == Kind::kTruncate) {
    bytes->resize(offset);
  } else {
    bytes->resize(std::max(bytes->size(), offset + event.bytes.size()));
    bytes->replace(offset, event.bytes.size(), event.bytes);
  }
}

void FillWithNoise(std::string* bytes, size_t begin, size_t end, std::mt19937_64& random) {
  for (size_t i = begin; i < end; ++i) (*bytes)[i] = static_cast<char>(random());
}

}  // namespace

PowerImage::PowerImage(const std::vector<file_journal::InitialFile>& initial) {
  for (const auto& file : initial) {
    durable_names_[file.path] = {file.is_directory, file.file};
    if (!file.is_directory) files_[file.file] = {file.bytes};
  }
}

void PowerImage::Change(const Event& event, Names* names) {
  switch (event.kind) {
    case Kind::kCreate:
      (*names)[event.path] = {false, event.file};
      break;
    case Kind::kMkdir:
      (*names)[event.path] = {true, 0};
      break;
    case Kind::kRename:
    case Kind::kLink:
      if (const auto from = names->find(event.path); from != names->end()) {
        (*names)[event.target] = from->second;
        if (event.kind == Kind::kRename) names->erase(from);
      }
      break;
    case Kind::kRemove:
      names->erase(event.path);
      break;
    default:
      break;
  }
}

std::string PowerImage::DirectoryOf(const Event& event) {
  return fs::path(event.target.empty() ? event.path : event.target).parent_path();
}

void PowerImage::Apply(const Event& event) {
  switch (event.kind) {
    case Kind::kMark:
      break;
    case Kind::kWrite:
    case Kind::kTruncate:
      files_[event.file].pending.push_back(&event);
      break;
    case Kind::kSync: {
      File& file = files_[event.file];
      for (const Event* change : file.pending) fault_test::Change(*change, &file.durable);
      file.pending.clear();
      break;
    }
    case Kind::kSyncDirectory:
      for (const Event* change : pending_names_[event.path]) Change(*change, &durable_names_);
      pending_names_[event.path].clear();
      break;
    default:
      pending_names_[DirectoryOf(event)].push_back(&event);
  }
}

std::string PowerImage::Surviving(const File& file, std::mt19937_64& random, bool* has_noise) {
  *has_noise = false;
  std::string bytes = file.durable;
  if (file.pending.empty()) return bytes;
  const size_t kept = random() % (file.pending.size() + 1);
  for (size_t i = 0; i < kept; ++i) fault_test::Change(*file.pending[i], &bytes);
  const size_t safe = file.durable.size();  // of a file that is only appended to
  std::string whole = bytes;
  for (size_t i = kept; i < file.pending.size(); ++i) fault_test::Change(*file.pending[i], &whole);
  if (whole.size() <= bytes.size()) return bytes;
  const size_t end = bytes.size() + random() % (whole.size() - bytes.size() + 1);
  const uint64_t kind = random() % 5;
  *has_noise = kind >= 2;
  switch (kind) {
    case 0:  // whole calls
      break;
    case 1:  // any byte
      bytes = whole.substr(0, end);
      break;
    case 2: {  // blocks that were given to the file and not written
      const size_t begin = bytes.size();
      bytes.resize(end);
      FillWithNoise(&bytes, begin, end, random);
      break;
    }
    case 3:
      bytes.resize(end, '\0');
      break;
    case 4:  // sectors that reached the disk in any order
      bytes = std::move(whole);
      for (size_t sector = (safe + kSector - 1) / kSector * kSector; sector < bytes.size();
           sector += kSector) {
        const size_t sector_end = std::min(sector + kSector, bytes.size());
        const uint64_t dice = random() % 4;
        if (dice == 0) std::fill(bytes.begin() + sector, bytes.begin() + sector_end, '\0');
        if (dice == 1) FillWithNoise(&bytes, sector, sector_end, random);
      }
      break;
  }
  return bytes;
}

bool PowerImage::Write(const std::string& path, std::mt19937_64& random) const {
  bool manifest_has_noise = false;
  Names names = durable_names_;
  for (const auto& [directory, changes] : pending_names_) {
    const size_t kept = random() % (changes.size() + 1);
    for (size_t i = 0; i < kept; ++i) Change(*changes[i], &names);
  }
  fs::remove_all(path);
  fs::create_directories(path);
  for (const auto& [name, node] : names) {  // directories come before what is in them
    const fs::path target = fs::path(path) / name;
    if (!fs::is_directory(target.parent_path())) continue;  // lost with its directory
    if (node.is_directory) {
      fs::create_directory(target);
    } else {
      const auto file = files_.find(node.file);
      bool has_noise = false;
      const std::string bytes =
          file == files_.end() ? "" : Surviving(file->second, random, &has_noise);
      std::ofstream(target, std::ios::binary) << bytes;
      manifest_has_noise |= has_noise && target.filename().string().starts_with("MANIFEST-");
    }
  }
  return manifest_has_noise;
}

}  // namespace fault_test
