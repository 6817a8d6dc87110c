// What the accounting says is what the allocator handed out: packed pages, the
// tokens kept as given, and little else.
#include "tests/kvcache/support.h"

#if defined(__has_feature)
#define KVCACHE_TEST_FEATURE(name) __has_feature(name)
#else
#define KVCACHE_TEST_FEATURE(name) 0
#endif

// Sanitizers bring their own allocator, which mallinfo2() knows nothing of.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !KVCACHE_TEST_FEATURE(address_sanitizer) && !KVCACHE_TEST_FEATURE(thread_sanitizer)
#include <malloc.h>

namespace kvcache_test {
namespace {

constexpr Shape kShape = {.layers = 2, .kv_heads = 8, .head_dim = 128};
constexpr size_t kToken = 1024;

uint64_t BytesInUse() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

quash_kv_stats StatsOf(quash_kv* cache) {
  quash_kv_stats stats = {};
  stats.struct_size = sizeof(stats);
  REQUIRE_OK(quash_kv_get_stats(cache, 0, &stats));
  return stats;
}

// Appends `n` tokens to both layers, `step` at a time; allocates nothing itself.
void Fill(quash_kv* cache, quash_kv_seq seq, const std::vector<float>& tokens, size_t n,
          size_t step) {
  for (size_t t = 0; t < n; t += step) {
    for (const uint32_t layer : {0u, 1u}) {
      REQUIRE_OK(quash_kv_append(cache, seq, layer, tokens.data() + t * kToken,
                                 tokens.data() + t * kToken, std::min(step, n - t), QUASH_KV_F32,
                                 kToken, kShape.head_dim, nullptr));
    }
  }
}

TEST_SUITE_BEGIN("memory");

TEST_CASE("a cache holds its packed pages and its open tokens") {
  constexpr size_t kTokens = 64 + 30 * 64 + 40;
  const std::vector<float> tokens = Random(kTokens * kToken, 1);
  {  // Threads and what the library makes once.
    const CachePtr warm = MakeCache(kShape);
    Fill(warm.get(), MakeSeq(warm.get()), tokens, 200, 200);
  }
  for (const float bits : {2.0f, 3.5f, 4.0f}) {
    for (const size_t step : {size_t{1}, size_t{97}, kTokens}) {
      CAPTURE(bits);
      CAPTURE(step);
      const CachePtr cache = MakeCache(
          kShape, [&](quash_kv_options* options) { options->k_bits = options->v_bits = bits; });
      const uint64_t before = BytesInUse();
      const quash_kv_seq seq = MakeSeq(cache.get());
      Fill(cache.get(), seq, tokens, kTokens, step);
      const quash_kv_stats stats = StatsOf(cache.get());
      REQUIRE(stats.pages == 2 * 30);
      REQUIRE(stats.open_bytes == 2 * (64 + 40) * kToken * 2 * sizeof(float));
      const uint64_t held = BytesInUse() - before;
      CAPTURE(held);
      CAPTURE(stats.packed_bytes);
      CAPTURE(stats.open_bytes);
      CHECK(held >= stats.packed_bytes + stats.open_bytes);
      // Beside it: the allocator's and a page's few bytes, and the room to grow
      // of the open tokens, never that of a sealed page.
      CHECK(held <= 1.01 * static_cast<double>(stats.packed_bytes) +
                        4.0 * static_cast<double>(stats.open_bytes));
      CHECK(stats.packed_bytes < (bits + 1) / 32 * 2 * 30 * 64 * kToken * 2 * sizeof(float));

      // A fork takes its open tokens alone.
      quash_kv_seq fork = 0;
      REQUIRE_OK(quash_kv_seq_fork(cache.get(), seq, UINT64_MAX, &fork));
      const uint64_t forked = BytesInUse() - before - held;
      CHECK(StatsOf(cache.get()).open_bytes == 2 * stats.open_bytes);
      CHECK(forked >= stats.open_bytes);
      CHECK(forked <= stats.open_bytes + 16384);

      REQUIRE_OK(quash_kv_seq_free(cache.get(), fork));
      REQUIRE_OK(quash_kv_seq_free(cache.get(), seq));
      CHECK(StatsOf(cache.get()).total_bytes == 0);
      CHECK(BytesInUse() <= before + 65536);  // threads keep some
    }
  }
}

TEST_CASE("a sealed sequence holds nothing but pages") {
  constexpr size_t kTokens = 20 * 64 + 13;
  const std::vector<float> tokens = Random(kTokens * kToken, 1);
  const CachePtr cache = MakeCache(kShape, [](quash_kv_options* o) { o->sink_pages = 0; });
  const uint64_t before = BytesInUse();
  const quash_kv_seq seq = MakeSeq(cache.get());
  Fill(cache.get(), seq, tokens, kTokens, 100);
  REQUIRE_OK(quash_kv_seq_seal(cache.get(), seq));
  const quash_kv_stats stats = StatsOf(cache.get());
  CHECK(stats.pages == 2 * 21);
  CHECK(stats.open_bytes == 0);
  const uint64_t held = BytesInUse() - before;
  CHECK(held >= stats.packed_bytes);
  CHECK(held <= 1.01 * static_cast<double>(stats.packed_bytes));
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvcache_test
#endif
