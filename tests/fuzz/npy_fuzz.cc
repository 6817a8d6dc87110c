// libFuzzer: .npy files. The first byte says what they are read as: vectors, or integers
// for ids.
#include "tests/fuzz/matrix_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile file(".npy");
  if (size == 0) return 0;
  file.Set(data + 1, size - 1);
  if (data[0] % 4 != 0) {
    ReadMatrix(file, size - 1);
    return 0;
  }
  try {
    if (quash::cli::ReadNpyIntegers(file.path()).size() > size) std::abort();
  } catch (const quash::cli::Error& error) {
    if (error.what()[0] == '\0') std::abort();
  }
  return 0;
}
