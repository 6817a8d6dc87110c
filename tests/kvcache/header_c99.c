/* The public headers are C99. */
#include "quash_kv.h"
#include "quash_quantizer.h"

size_t kvcache_test_header_sizes(void);
size_t kvcache_test_header_sizes(void) {
  return sizeof(quash_kv_options) + sizeof(quash_kv_attend_args) + sizeof(quash_kv_stats) +
         sizeof(quash_quantizer_options);
}
