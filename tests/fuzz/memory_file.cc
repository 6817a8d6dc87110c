#include "tests/fuzz/memory_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace fs = std::filesystem;

namespace {

[[noreturn]] void Fail() {
  std::perror("a file for the fuzzer");
  std::exit(2);
}

}  // namespace

MemoryFile::MemoryFile(const std::string& extension) {
  const fs::path memory = "/dev/shm";
  const bool has_memory = access(memory.c_str(), W_OK) == 0;
  std::string name =
      ((has_memory ? memory : fs::temp_directory_path()) / "quash-fuzz-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) Fail();
  directory_ = name;
  path_ = directory_ + "/input" + extension;
  file_ = open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file_ < 0) Fail();
}

MemoryFile::~MemoryFile() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
  close(file_);
}

void MemoryFile::Set(const uint8_t* data, size_t size) {
  const auto bytes = static_cast<ssize_t>(size);
  if (pwrite(file_, data, size, 0) != bytes || ftruncate(file_, bytes) != 0) Fail();
}
