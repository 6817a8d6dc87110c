// libFuzzer: .fvecs, .bvecs and .ivecs files; the first byte says which.
#include "tests/fuzz/matrix_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile files[] = {MemoryFile(".fvecs"), MemoryFile(".bvecs"), MemoryFile(".ivecs")};
  if (size == 0) return 0;
  MemoryFile& file = files[data[0] % 3];
  file.Set(data + 1, size - 1);
  ReadMatrix(file, size - 1);
  return 0;
}
