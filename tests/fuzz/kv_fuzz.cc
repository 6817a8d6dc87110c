// libFuzzer: the KV cache. Any order of calls gives statuses, and what the
// header promises of lengths, values and accounting holds after each.
#include "tests/fuzz/kv_calls.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  RunKvCalls(data, size);
  return 0;
}
