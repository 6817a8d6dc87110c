// Memory of this process and space of a directory, as the kernel counts them.
#pragma once

#include <cstdint>
#include <string>

namespace quash::bench {

// Bytes, from /proc/self/status.
struct ProcessMemory {
  uint64_t rss = 0;        // VmRSS: all resident pages
  uint64_t anonymous = 0;  // RssAnon: heap and stacks, which only swap can evict
  uint64_t file = 0;       // RssFile: mapped files, which the kernel may drop
  uint64_t peak = 0;       // VmHWM: highest rss since the start or ResetPeak()
};

// All zero where /proc is missing.
ProcessMemory ReadProcessMemory();

// Makes `peak` start again from the present rss; false if the kernel refuses.
bool ResetPeak();

// Returns freed heap pages to the kernel, so that rss holds live ones only.
void TrimHeap();

// Allocated bytes of the regular files below `path`.
uint64_t DiskBytes(const std::string& path);

}  // namespace quash::bench
