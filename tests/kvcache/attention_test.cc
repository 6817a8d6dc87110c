// Attention over packed pages equals attention in double over the same tokens
// decompressed. The difference comes from 15-bit queries and probabilities.
#include "tests/kvcache/support.h"

namespace kvcache_test {
namespace {

constexpr double kBound = 4e-4;

void Compare(const Shape& shape, uint64_t tokens, const Query& query,
             const std::function<void(quash_kv_options*)>& set = nullptr) {
  CAPTURE(shape.head_dim);
  CAPTURE(shape.kv_heads);
  CAPTURE(tokens);
  CAPTURE(query.rows);
  const CachePtr cache = MakeCache(shape, set);
  const quash_kv_seq seq = MakeSeq(cache.get());
  const size_t n = tokens * shape.kv_heads * shape.head_dim;
  Append(cache.get(), seq, shape, Random(n, 1, shape.head_dim, 2), Random(n, 2));
  const auto q = Random(query.rows * query.heads * shape.head_dim, 3);
  const Answer got = Attend(cache.get(), seq, shape, query, q);
  const Answer want = Reference(ReadAll(cache.get(), seq, shape), shape, query, q);
  CHECK(Distance(got.out, want.out) < kBound);
  for (size_t i = 0; i < want.lse.size(); ++i) {
    CHECK(got.lse[i] == doctest::Approx(want.lse[i]).epsilon(1e-3));
  }
}

TEST_SUITE_BEGIN("attention");

TEST_CASE("every number of bits, quantizer and mean") {
  for (const float bits : {2.0f, 2.5f, 3.0f, 3.5f, 4.0f}) {
    for (const int mean : {0, 1}) {
      for (const auto quantizer : {QUASH_KV_TQ_MSE, QUASH_KV_TQ_PROD}) {
        if (quantizer == QUASH_KV_TQ_PROD && bits != std::floor(bits)) continue;
        CAPTURE(bits);
        CAPTURE(mean);
        Compare({.head_dim = 128}, 400, {}, [&](quash_kv_options* options) {
          options->k_bits = options->v_bits = bits;
          options->k_mean = options->v_mean = mean;
          options->k_quantizer = quantizer;
        });
      }
    }
  }
}

TEST_CASE("head dims, heads and groups") {
  for (const uint32_t head_dim : {16u, 48u, 64u, 80u, 96u, 128u, 256u}) {
    Compare({.head_dim = head_dim}, 300, {});
  }
  Compare({.kv_heads = 1}, 300, {.heads = 1});
  Compare({.kv_heads = 1}, 300, {.heads = 12});  // MQA, more than a tile
  Compare({.kv_heads = 3}, 300, {.heads = 15});
}

TEST_CASE("lengths around page edges") {
  for (const uint64_t tokens : {1, 63, 64, 65, 127, 128, 143, 144, 145, 207, 208, 1100, 2200}) {
    for (const uint32_t sink_pages : {0u, 1u}) {
      Compare({}, tokens, {}, [&](quash_kv_options* options) {
        options->sink_pages = sink_pages;
        options->reserve = sink_pages == 0 ? 0 : 16;
      });
    }
  }
}

TEST_CASE("several queries, windows, softcap, not causal") {
  for (const uint64_t rows : {2, 7, 64, 130, 300}) {
    Compare({}, 300, {.rows = rows});
    Compare({}, 300, {.rows = rows, .window = 50});
    Compare({}, 300, {.rows = rows, .softcap = 3});
    Compare({}, 300, {.rows = rows, .causal = false});
    Compare({}, 300, {.rows = rows, .causal = false, .window = 70});
  }
  Compare({}, 2000, {.window = 1});
  Compare({}, 2000, {.window = 777});
}

TEST_CASE("dense rotation and outliers") {
  Compare({}, 300, {}, [](quash_kv_options* options) { options->rotation = QUASH_KV_DENSE; });
  std::vector<uint32_t> outliers(32);
  for (uint32_t i = 0; i < 32; ++i) outliers[i] = 63 - 2 * i;
  Compare({}, 300, {}, [&](quash_kv_options* options) {
    options->k_bits = options->v_bits = 2.5f;
    options->k_outliers = options->v_outliers = outliers.data();
  });
}

TEST_CASE("one round of Hadamard in fixed point") {
  for (const float bits : {2.0f, 3.0f, 4.0f}) {
    for (const int has_mean : {0, 1}) {
      Compare({}, 300, {}, [&](quash_kv_options* options) {
        options->rotation = QUASH_KV_RHT;
        options->k_bits = options->v_bits = bits;
        options->k_mean = options->v_mean = has_mean;
      });
    }
  }
}

TEST_CASE("uncompressed tokens are exact") {
  const Shape shape;
  const uint32_t layer = 0;
  const CachePtr cache = MakeCache(shape, [&](quash_kv_options* options) {
    options->uncompressed_layers = &layer;
    options->num_uncompressed_layers = 1;
  });
  const quash_kv_seq seq = MakeSeq(cache.get());
  const size_t n = 500 * shape.kv_heads * shape.head_dim;
  const auto k = Random(n, 1), v = Random(n, 2), q = Random(4 * shape.head_dim, 3);
  Append(cache.get(), seq, shape, k, v);
  const Read read = ReadAll(cache.get(), seq, shape);
  CHECK(read.k == k);
  CHECK(read.v == v);
  const Query query;
  CHECK(Distance(Attend(cache.get(), seq, shape, query, q).out,
                 Reference(read, shape, query, q).out) < 1e-6);
}

TEST_CASE("results do not depend on threads or on how tokens came") {
  const Shape shape = {.kv_heads = 4, .head_dim = 128};
  const size_t token = shape.kv_heads * shape.head_dim;
  const auto k = Random(3000 * token, 1), v = Random(3000 * token, 2);
  for (const uint64_t rows : {1, 40}) {
    const Query query = {.heads = 16, .rows = rows};
    const auto q = Random(rows * query.heads * shape.head_dim, 3);
    std::vector<Answer> answers;
    std::vector<Read> reads;
    for (const uint32_t threads : {1u, 2u, 5u}) {
      const CachePtr cache =
          MakeCache(shape, [&](quash_kv_options* options) { options->threads = threads; });
      const quash_kv_seq seq = MakeSeq(cache.get());
      const size_t step = threads == 1 ? 3000 : threads == 2 ? 1 : 97;
      for (size_t t = 0; t < 3000; t += step) {
        const size_t end = std::min<size_t>(3000, t + step);
        Append(cache.get(), seq, shape, {k.begin() + t * token, k.begin() + end * token},
               {v.begin() + t * token, v.begin() + end * token});
      }
      answers.push_back(Attend(cache.get(), seq, shape, query, q));
      reads.push_back(ReadAll(cache.get(), seq, shape));
    }
    for (const Read& read : reads) {
      CHECK(read.k == reads[0].k);
      CHECK(read.v == reads[0].v);
    }
    for (const Answer& answer : answers) {
      CHECK(answer.out == answers[0].out);
      CHECK(answer.lse == answers[0].lse);
    }
  }
}

TEST_CASE("varlen batch of several sequences and layers, half precision") {
  const Shape shape = {.layers = 2, .kv_heads = 2, .head_dim = 64};
  const CachePtr cache = MakeCache(shape);
  std::vector<quash_kv_seq> seqs;
  std::vector<uint64_t> cu = {0};
  for (const uint64_t tokens : {5, 700, 90}) {
    seqs.push_back(MakeSeq(cache.get()));
    const size_t n = tokens * shape.kv_heads * shape.head_dim;
    for (const uint32_t layer : {0u, 1u}) {
      Append(cache.get(), seqs.back(), shape, Random(n, tokens + layer), Random(n, 2), layer);
    }
    cu.push_back(cu.back() + (tokens == 700 ? 0 : tokens == 5 ? 2 : 3));
  }
  const size_t row = 4 * shape.head_dim;
  const auto q = Random(cu.back() * row, 9);
  std::vector<float> out(q.size(), NAN);
  quash_kv_attend_args args;
  quash_kv_attend_args_init(&args);
  args.layer = 1;
  args.num_q_heads = 4;
  args.seqs = seqs.data();
  args.num_seqs = seqs.size();
  args.cu_queries = cu.data();
  args.q = q.data();
  args.out = out.data();
  args.q_token_stride = args.out_token_stride = static_cast<int64_t>(row);
  args.q_head_stride = args.out_head_stride = shape.head_dim;
  REQUIRE_OK(quash_kv_attend(cache.get(), &args));
  for (size_t i = 0; i < seqs.size(); ++i) {
    if (cu[i] == cu[i + 1]) continue;
    const std::vector<float> part(q.begin() + cu[i] * row, q.begin() + cu[i + 1] * row);
    const Answer alone = Attend(cache.get(), seqs[i], shape, {.rows = cu[i + 1] - cu[i]}, part, 1);
    CHECK(std::equal(alone.out.begin(), alone.out.end(), out.begin() + cu[i] * row));
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvcache_test
