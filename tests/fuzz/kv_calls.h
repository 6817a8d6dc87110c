// Calls of quash_kv.h made from bytes, checked against what is known of each
// sequence. Aborts, after a line on stderr, when a promise of the header is
// broken.
#pragma once

#include <cstddef>
#include <cstdint>

// Any bytes; they are read as a cache's options and up to 48 calls.
void RunKvCalls(const uint8_t* data, size_t size);
