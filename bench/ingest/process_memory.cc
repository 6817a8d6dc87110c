#include "bench/ingest/process_memory.h"

#include <malloc.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <system_error>

namespace quash::bench {

ProcessMemory ReadProcessMemory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  std::string name;
  while (status >> name) {
    uint64_t* field = name == "VmRSS:"     ? &memory.rss
                      : name == "RssAnon:" ? &memory.anonymous
                      : name == "RssFile:" ? &memory.file
                      : name == "VmHWM:"   ? &memory.peak
                                           : nullptr;
    uint64_t kib;
    if (field != nullptr && status >> kib) *field = kib * 1024;
    status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return memory;
}

bool ResetPeak() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5" << std::flush;  // proc(5): resets VmHWM
  return clear.good();
}

void TrimHeap() { malloc_trim(0); }

uint64_t DiskBytes(const std::string& path) {
  uint64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path, error)) {
    struct stat file;
    if (lstat(entry.path().c_str(), &file) == 0 && S_ISREG(file.st_mode)) {
      bytes += static_cast<uint64_t>(file.st_blocks) * 512;  // stat(2): always 512
    }
  }
  return bytes;
}

}  // namespace quash::bench
