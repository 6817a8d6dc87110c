// libFuzzer: .npy files of vectors, and of integers for ids.
#include "tests/fuzz/matrix_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile file(".npy");
  file.Set(data, size);
  ReadMatrix(file, size);
  try {
    if (quash::cli::ReadNpyIntegers(file.path()).size() > size) std::abort();
  } catch (const quash::cli::Error& error) {
    if (error.what()[0] == '\0') std::abort();
  }
  return 0;
}
