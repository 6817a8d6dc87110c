// Forks, truncations, budgets and accounting.
#include <map>

#include "tests/kvcache/support.h"

namespace kvcache_test {
namespace {

constexpr Shape kShape = {.layers = 2, .kv_heads = 2, .head_dim = 64};
constexpr size_t kToken = 128;

struct Tokens {
  std::vector<float> k, v;
};

Tokens MakeTokens(size_t n, uint64_t seed) {
  return {Random(n * kToken, seed), Random(n * kToken, seed + 1000)};
}

void AppendBoth(quash_kv* cache, quash_kv_seq seq, const Tokens& tokens, size_t begin, size_t end) {
  const auto part = [&](const std::vector<float>& all) {
    return std::vector<float>(all.begin() + begin * kToken, all.begin() + end * kToken);
  };
  for (const uint32_t layer : {0u, 1u}) {
    Append(cache, seq, kShape, part(tokens.k), part(tokens.v), layer);
  }
}

// Everything that can be seen of a sequence, bit for bit.
struct Image {
  Read tokens[2];
  Answer answers[2];
  bool operator==(const Image& other) const {
    for (int i = 0; i < 2; ++i) {
      if (tokens[i].k != other.tokens[i].k || tokens[i].v != other.tokens[i].v ||
          answers[i].out != other.answers[i].out || answers[i].lse != other.answers[i].lse) {
        return false;
      }
    }
    return true;
  }
};

Image Look(quash_kv* cache, quash_kv_seq seq) {
  Image image;
  const Query query;
  const auto q = Random(query.heads * kShape.head_dim, 77);
  for (const uint32_t layer : {0u, 1u}) {
    image.tokens[layer] = ReadAll(cache, seq, kShape, layer);
    image.answers[layer] = Attend(cache, seq, kShape, query, q, layer);
  }
  return image;
}

quash_kv_stats StatsOf(quash_kv* cache, quash_kv_seq seq = 0) {
  quash_kv_stats stats = {};
  stats.struct_size = sizeof(stats);
  REQUIRE_OK(quash_kv_get_stats(cache, seq, &stats));
  return stats;
}

TEST_SUITE_BEGIN("sequences");

TEST_CASE("a fork equals its origin and grows on its own") {
  const CachePtr cache = MakeCache(kShape);
  const Tokens tokens = MakeTokens(500, 1);
  const quash_kv_seq seq = MakeSeq(cache.get());
  AppendBoth(cache.get(), seq, tokens, 0, 300);
  const uint64_t pages = StatsOf(cache.get()).pages;
  quash_kv_seq fork = 0;
  REQUIRE_OK(quash_kv_seq_fork(cache.get(), seq, UINT64_MAX, &fork));
  CHECK(StatsOf(cache.get()).pages == pages);  // shared
  CHECK(StatsOf(cache.get(), fork).pages == pages);
  const Image before = Look(cache.get(), seq);
  CHECK(Look(cache.get(), fork) == before);

  AppendBoth(cache.get(), fork, tokens, 300, 500);
  CHECK(Look(cache.get(), seq) == before);
  const quash_kv_seq fresh = MakeSeq(cache.get());
  AppendBoth(cache.get(), fresh, tokens, 0, 500);
  CHECK(Look(cache.get(), fork) == Look(cache.get(), fresh));
  REQUIRE_OK(quash_kv_seq_free(cache.get(), seq));
  CHECK(Look(cache.get(), fork) == Look(cache.get(), fresh));
}

TEST_CASE("tokens within the reserve are taken back exactly") {
  const CachePtr cache = MakeCache(kShape);
  const Tokens tokens = MakeTokens(600, 2);
  for (const size_t length : {1, 64, 65, 200, 272, 273, 400}) {
    for (const size_t extra : {1, 7, 16}) {
      CAPTURE(length);
      CAPTURE(extra);
      const quash_kv_seq seq = MakeSeq(cache.get());
      AppendBoth(cache.get(), seq, tokens, 0, length + extra);
      REQUIRE_OK(quash_kv_seq_truncate(cache.get(), seq, length));
      const quash_kv_seq fresh = MakeSeq(cache.get());
      AppendBoth(cache.get(), fresh, tokens, 0, length);
      // The fresh one may not have sealed as much; attention agrees with what each holds.
      const Read got = ReadAll(cache.get(), seq, kShape);
      CHECK(got.k.size() == length * kToken);
      const size_t last = std::min<size_t>(length, 16 - extra) * kToken;
      CHECK(std::equal(got.k.end() - static_cast<ptrdiff_t>(last), got.k.end(),
                       tokens.k.begin() + static_cast<ptrdiff_t>(length * kToken - last)));
      AppendBoth(cache.get(), seq, tokens, length, length + extra);
      AppendBoth(cache.get(), fresh, tokens, length, length + extra);
      CHECK(Look(cache.get(), seq) == Look(cache.get(), fresh));
    }
  }
}

TEST_CASE("truncation inside a sealed page keeps its other tokens as they were") {
  const CachePtr cache = MakeCache(kShape);
  const Tokens tokens = MakeTokens(600, 3);
  const quash_kv_seq seq = MakeSeq(cache.get());
  AppendBoth(cache.get(), seq, tokens, 0, 600);
  const Read whole = ReadAll(cache.get(), seq, kShape);
  for (const size_t length : {500, 330, 192, 128, 70, 64, 10, 0}) {
    REQUIRE_OK(quash_kv_seq_truncate(cache.get(), seq, length));
    const Read part = ReadAll(cache.get(), seq, kShape);
    REQUIRE(part.k.size() == length * kToken);
    CHECK(std::equal(part.k.begin(), part.k.end(), whole.k.begin()));
    CHECK(std::equal(part.v.begin(), part.v.end(), whole.v.begin()));
  }
  AppendBoth(cache.get(), seq, tokens, 0, 600);
  const Read again = ReadAll(cache.get(), seq, kShape);
  CHECK(again.k == whole.k);

  REQUIRE_OK(quash_kv_seq_truncate(cache.get(), seq, 300));
  AppendBoth(cache.get(), seq, tokens, 300, 600);
  const Query query;
  const auto q = Random(query.heads * kShape.head_dim, 5);
  CHECK(Distance(Attend(cache.get(), seq, kShape, query, q).out,
                 Reference(ReadAll(cache.get(), seq, kShape), kShape, query, q).out) < 4e-4);
}

TEST_CASE("an early seal packs everything") {
  const CachePtr cache = MakeCache(kShape);
  const Tokens tokens = MakeTokens(150, 4);
  const quash_kv_seq seq = MakeSeq(cache.get());
  AppendBoth(cache.get(), seq, tokens, 0, 150);
  REQUIRE_OK(quash_kv_seq_seal(cache.get(), seq));
  const quash_kv_stats stats = StatsOf(cache.get(), seq);
  CHECK(stats.pages == 2 * 2);  // 64 sink tokens, then 64 and 22
  CHECK(stats.open_bytes == 2 * 64 * kToken * 2 * sizeof(float));
  CHECK(stats.tokens == 300);
  const Read read = ReadAll(cache.get(), seq, kShape);
  CHECK(Distance(read.k, tokens.k) < 0.12);
}

TEST_CASE("a full budget changes nothing, freed memory counts") {
  quash_kv_options options;
  quash_kv_options_init(&options);
  const CachePtr cache = MakeCache(kShape, [](quash_kv_options* o) {
    o->memory_budget_bytes = 1 << 20;
    o->sink_pages = 0;
  });
  const Tokens tokens = MakeTokens(64, 5);
  const quash_kv_seq seq = MakeSeq(cache.get());
  quash_kv_status status = QUASH_KV_OK;
  Image before;
  uint64_t appended = 0;
  while (status == QUASH_KV_OK) {
    if (appended > 0) before = Look(cache.get(), seq);
    for (const uint32_t layer : {0u, 1u}) {
      status = quash_kv_append(cache.get(), seq, layer, tokens.k.data(), tokens.v.data(), 64,
                               QUASH_KV_F32, kToken, kShape.head_dim, nullptr);
      if (status != QUASH_KV_OK) break;
    }
    if (status == QUASH_KV_OK) ++appended;
    REQUIRE(appended < 1000);
  }
  CHECK(status == QUASH_KV_FULL);
  CHECK(std::string(quash_kv_errmsg()).find("its budget is 1048576") != std::string::npos);
  CHECK(StatsOf(cache.get()).packed_bytes + StatsOf(cache.get()).open_bytes <= 1 << 20);
  for (const uint32_t layer : {0u, 1u}) {  // one of them may have gone in
    uint64_t length = 0;
    REQUIRE_OK(quash_kv_seq_length(cache.get(), seq, layer, &length));
    CHECK(length % 64 == 0);
  }
  REQUIRE_OK(quash_kv_seq_truncate(cache.get(), seq, appended * 64));
  CHECK(Look(cache.get(), seq) == before);
  REQUIRE_OK(quash_kv_seq_free(cache.get(), seq));
  CHECK(StatsOf(cache.get()).total_bytes == 0);
  const quash_kv_seq next = MakeSeq(cache.get());
  for (uint64_t i = 0; i < appended; ++i) AppendBoth(cache.get(), next, tokens, 0, 64);
}

TEST_CASE("a seal that the budget has no room for seals no layer") {
  // Room for the tokens as given and for the pages of one layer, not of both.
  quash_kv_stats stats = StatsOf(MakeCache(kShape).get());
  const uint64_t raw = 2 * 60 * kToken * 2 * sizeof(float);
  const CachePtr cache = MakeCache(kShape, [&](quash_kv_options* options) {
    options->sink_pages = 0;
    options->memory_budget_bytes = raw + stats.page_bytes + stats.page_bytes / 2;
  });
  const quash_kv_seq seq = MakeSeq(cache.get());
  const Tokens tokens = MakeTokens(60, 6);
  AppendBoth(cache.get(), seq, tokens, 0, 60);
  const Image before = Look(cache.get(), seq);
  CHECK(quash_kv_seq_seal(cache.get(), seq) == QUASH_KV_FULL);
  stats = StatsOf(cache.get());
  CHECK(stats.pages == 0);
  CHECK(stats.open_bytes == raw);
  CHECK(Look(cache.get(), seq) == before);
  // What was set aside for the first layer is free again.
  REQUIRE_OK(quash_kv_seq_truncate(cache.get(), seq, 50));
  REQUIRE_OK(quash_kv_seq_seal(cache.get(), seq));
  CHECK(StatsOf(cache.get()).pages == 2);
}

TEST_CASE("compression ratios at head dim 128") {
  for (const auto& row :
       {std::pair{2.0f, 7.1}, {2.5f, 5.5}, {3.0f, 4.9}, {3.5f, 4.1}, {4.0f, 3.75}}) {
    const float bits = row.first;
    const double least = row.second;
    CAPTURE(bits);
    const Shape shape = {.kv_heads = 8, .head_dim = 128};
    const CachePtr cache = MakeCache(
        shape, [&](quash_kv_options* options) { options->k_bits = options->v_bits = bits; });
    quash_kv_stats stats = StatsOf(cache.get());
    CHECK(stats.sealed_ratio >= least);
    CHECK(stats.k_effective_bits < bits + 0.4);
    const quash_kv_seq seq = MakeSeq(cache.get());
    const size_t n = 1024 * shape.kv_heads * shape.head_dim;
    Append(cache.get(), seq, shape, Random(n, 1), Random(n, 2));
    stats = StatsOf(cache.get());
    CHECK(stats.packed_bytes == stats.pages * stats.page_bytes);
    CHECK(stats.f16_bytes == 4 * n);
    CHECK(stats.compression_ratio ==
          doctest::Approx(static_cast<double>(stats.f16_bytes) / stats.total_bytes));
  }
}

TEST_CASE("random calls against a model") {
  std::mt19937_64 random(11);
  for (int round = 0; round < 6; ++round) {
    const CachePtr cache = MakeCache(kShape, [&](quash_kv_options* options) {
      options->reserve = round * 8;
      options->sink_pages = round % 3;
    });
    // The tokens appended to each sequence that is alive; packed ones are close to them.
    std::map<quash_kv_seq, Tokens> model;
    for (int step = 0; step < 60; ++step) {
      const auto pick = [&] {
        auto at = model.begin();
        std::advance(at, random() % model.size());
        return at;
      };
      const int what = static_cast<int>(random() % 10);
      if (model.empty() || what == 0) {
        model[MakeSeq(cache.get())];
      } else if (what < 6) {
        const auto at = pick();
        const size_t n = random() % 150;
        const Tokens tokens = MakeTokens(n, random());
        AppendBoth(cache.get(), at->first, tokens, 0, n);
        at->second.k.insert(at->second.k.end(), tokens.k.begin(), tokens.k.end());
        at->second.v.insert(at->second.v.end(), tokens.v.begin(), tokens.v.end());
      } else if (what == 6) {
        const auto at = pick();
        const size_t length = random() % (at->second.k.size() / kToken + 2);
        REQUIRE_OK(quash_kv_seq_truncate(cache.get(), at->first, length));
        if (length * kToken < at->second.k.size()) {
          at->second.k.resize(length * kToken);
          at->second.v.resize(length * kToken);
        }
      } else if (what == 7) {
        const auto at = pick();
        quash_kv_seq fork = 0;
        REQUIRE_OK(quash_kv_seq_fork(cache.get(), at->first, UINT64_MAX, &fork));
        model[fork] = at->second;
      } else if (what == 8) {
        const auto at = pick();
        REQUIRE_OK(quash_kv_seq_seal(cache.get(), at->first));
      } else {
        const auto at = pick();
        REQUIRE_OK(quash_kv_seq_free(cache.get(), at->first));
        model.erase(at);
      }
      if (model.empty()) continue;
      const auto at = pick();
      const Read read = ReadAll(cache.get(), at->first, kShape, random() % 2);
      REQUIRE(read.k.size() == at->second.k.size());
      if (read.k.empty()) continue;
      CHECK(Distance(read.k, at->second.k) < 0.13);
      CHECK(Distance(read.v, at->second.v) < 0.13);
      const Query query = {.rows = 1 + random() % std::min<size_t>(5, read.k.size() / kToken)};
      const auto q = Random(query.rows * query.heads * kShape.head_dim, random());
      CHECK(Distance(Attend(cache.get(), at->first, kShape, query, q).out,
                     Reference(ReadAll(cache.get(), at->first, kShape), kShape, query, q).out) <
            4e-4);
    }
    for (const auto& [seq, tokens] : model) REQUIRE_OK(quash_kv_seq_free(cache.get(), seq));
    CHECK(StatsOf(cache.get()).total_bytes == 0);
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvcache_test
