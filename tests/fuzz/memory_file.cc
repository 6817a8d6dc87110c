#include "tests/fuzz/memory_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace fs = std::filesystem;

MemoryFile::MemoryFile(const std::string& extension) {
  file_ = memfd_create("fuzz", MFD_CLOEXEC);
  std::string name = (fs::temp_directory_path() / "quash-fuzz-XXXXXX").string();
  if (file_ < 0 || mkdtemp(name.data()) == nullptr) {
    std::perror("a file in memory");
    std::exit(2);
  }
  directory_ = name;
  path_ = directory_ + "/input" + extension;
  fs::create_symlink("/proc/self/fd/" + std::to_string(file_), path_);
}

MemoryFile::~MemoryFile() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
  close(file_);
}

void MemoryFile::Set(const uint8_t* data, size_t size) {
  if (ftruncate(file_, 0) != 0 || pwrite(file_, data, size, 0) != static_cast<ssize_t>(size)) {
    std::perror("a file in memory");
    std::exit(2);
  }
}
