// libFuzzer: .fvecs, .bvecs and .ivecs files.
#include "tests/fuzz/matrix_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile fvecs(".fvecs"), bvecs(".bvecs"), ivecs(".ivecs");
  for (MemoryFile* file : {&fvecs, &bvecs, &ivecs}) {
    file->Set(data, size);
    ReadMatrix(*file, size);
  }
  return 0;
}
