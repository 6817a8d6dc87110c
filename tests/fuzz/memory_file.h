// Bytes as a file, for readers that open a path: in memory, under a name that
// ends as they want it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

class MemoryFile {
 public:
  explicit MemoryFile(const std::string& extension);  // ".npy"
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::string& path() const { return path_; }
  void Set(const uint8_t* data, size_t size);

 private:
  int file_ = -1;
  std::string directory_, path_;
};
