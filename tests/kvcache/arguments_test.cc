// Hostile arguments give a status with a message, saved bytes are checked.
#include <array>
#include <cstring>
#include <utility>

#include "tests/kvcache/support.h"

namespace kvcache_test {
namespace {

constexpr Shape kShape;

TEST_SUITE_BEGIN("arguments");

TEST_CASE("options") {
  quash_kv_status expected = QUASH_KV_INVALID;
  const auto refuse = [&](const char* text, const std::function<void(quash_kv_options*)>& set) {
    quash_kv_options options;
    quash_kv_options_init(&options);
    options.num_layers = 1;
    options.num_kv_heads = 2;
    options.head_dim = 64;
    set(&options);
    quash_kv* cache = reinterpret_cast<quash_kv*>(1);
    CHECK_FAILS(quash_kv_create(&options, &cache), expected, text);
    CHECK(cache == nullptr);
  };
  refuse("num_layers is 0", [](auto* o) { o->num_layers = 0; });
  refuse("num_layers is 4294967295", [](auto* o) { o->num_layers = UINT32_MAX; });
  refuse("num_kv_heads is 0", [](auto* o) { o->num_kv_heads = 0; });
  for (const uint32_t dim : {0u, 8u, 65u, 1024u, UINT32_MAX}) {
    refuse("expected a multiple of 16 from 16 to 512", [&](auto* o) { o->head_dim = dim; });
  }
  for (const float bits : {0.0f, 1.0f, 2.25f, 5.0f, -4.0f, NAN, INFINITY}) {
    refuse("k_bits is", [&](auto* o) { o->k_bits = bits; });
    refuse("v_bits is", [&](auto* o) { o->v_bits = bits; });
  }
  refuse("expected a multiple of 32", [](auto* o) { o->head_dim = 48, o->k_bits = 2.5f; });
  refuse("with tq_prod", [](auto* o) { o->k_quantizer = QUASH_KV_TQ_PROD, o->k_bits = 2.5f; });
  refuse("k_quantizer is 7", [](auto* o) { o->k_quantizer = static_cast<quash_kv_quantizer>(7); });
  refuse("dtype is 9", [](auto* o) { o->dtype = static_cast<quash_kv_dtype>(9); });
  refuse("reserve is", [](auto* o) { o->reserve = 5000; });
  refuse("uncompressed_layers is NULL", [](auto* o) { o->num_uncompressed_layers = 1; });
  const uint32_t layer = 3;
  refuse("uncompressed_layers[0] is 3",
         [&](auto* o) { o->uncompressed_layers = &layer, o->num_uncompressed_layers = 1; });
  const std::vector<uint32_t> same(32, 5);
  refuse("k_outliers[1] is 5", [&](auto* o) { o->k_outliers = same.data(), o->k_bits = 3.5f; });
  refuse("k_outliers is given", [&](auto* o) { o->k_outliers = same.data(); });
  refuse("struct_size is 0", [](auto* o) { o->struct_size = 0; });
  refuse("rotation is 3", [](auto* o) { o->rotation = static_cast<quash_kv_rotation>(3); });
  expected = QUASH_KV_UNSUPPORTED;
  for (const uint32_t dim : {32u, 80u, 256u}) {
    refuse("rotation is rht", [&](auto* o) { o->rotation = QUASH_KV_RHT, o->head_dim = dim; });
  }
  refuse("rotation is rht", [](auto* o) { o->rotation = QUASH_KV_RHT, o->v_bits = 3.5f; });
  refuse("rotation is rht",
         [](auto* o) { o->rotation = QUASH_KV_RHT, o->k_quantizer = QUASH_KV_TQ_PROD; });
  quash_kv_options options;
  quash_kv_options_init(&options);
  CHECK_FAILS(quash_kv_create(&options, nullptr), QUASH_KV_INVALID, "out is NULL");
  CHECK_FAILS(quash_kv_create(nullptr, nullptr), QUASH_KV_INVALID, "options is NULL");
}

TEST_CASE("append") {
  const CachePtr cache = MakeCache(kShape);
  const quash_kv_seq seq = MakeSeq(cache.get());
  std::vector<float> k = Random(128 * 3, 1), v = Random(128 * 3, 2);
  const auto append = [&](quash_kv_seq to, uint32_t layer, const void* keys, uint64_t n,
                          int64_t stride, void* stream = nullptr, int dtype = 0) {
    return quash_kv_append(cache.get(), to, layer, keys, v.data(), n,
                           static_cast<quash_kv_dtype>(dtype), stride, 64, stream);
  };
  CHECK_FAILS(append(99, 0, k.data(), 3, 128), QUASH_KV_NOT_FOUND, "no sequence 99");
  CHECK_FAILS(append(seq, 1, k.data(), 3, 128), QUASH_KV_INVALID, "layer is 1");
  CHECK_FAILS(append(seq, 0, nullptr, 3, 128), QUASH_KV_INVALID, "k is NULL");
  CHECK_FAILS(append(seq, 0, k.data(), UINT64_MAX, 128), QUASH_KV_INVALID, "n is");
  CHECK_FAILS(append(seq, 0, k.data(), 3, INT64_MAX), QUASH_KV_INVALID, "strides");
  CHECK_FAILS(append(seq, 0, k.data(), 3, 128, &k), QUASH_KV_UNSUPPORTED, "stream");
  CHECK_FAILS(append(seq, 0, k.data(), 3, 128, nullptr, 5), QUASH_KV_INVALID, "dtype is 5");
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> spoilt = k;
    spoilt[128 + 70] = bad;
    CHECK_FAILS(append(seq, 0, spoilt.data(), 3, 128), QUASH_KV_INVALID,
                "k of token 1, head 1 has NaN or infinity");
  }
  std::vector<float> large = k;
  large[5] = 1e30f;
  CHECK_FAILS(append(seq, 0, large.data(), 3, 128), QUASH_KV_INVALID, "norm");
  uint64_t length = 1;
  REQUIRE_OK(quash_kv_seq_length(cache.get(), seq, 0, &length));
  CHECK(length == 0);
  REQUIRE_OK(append(seq, 0, nullptr, 0, 128));
}

TEST_CASE("attend") {
  const CachePtr cache = MakeCache(kShape);
  const quash_kv_seq seq = MakeSeq(cache.get());
  const quash_kv_seq empty = MakeSeq(cache.get());
  Append(cache.get(), seq, kShape, Random(128 * 10, 1), Random(128 * 10, 2));
  std::vector<float> q = Random(4 * 64 * 20, 3), out(q.size());
  const auto refuse = [&](quash_kv_status code, const char* text,
                          const std::function<void(quash_kv_attend_args*)>& set) {
    quash_kv_attend_args args;
    quash_kv_attend_args_init(&args);
    args.num_q_heads = 4;
    args.seqs = &seq;
    args.num_seqs = 1;
    args.q = q.data();
    args.out = out.data();
    args.q_token_stride = args.out_token_stride = 256;
    args.q_head_stride = args.out_head_stride = 64;
    set(&args);
    CHECK_FAILS(quash_kv_attend(cache.get(), &args), code, text);
  };
  const auto invalid = QUASH_KV_INVALID;
  refuse(invalid, "layer is 8", [](auto* a) { a->layer = 8; });
  refuse(invalid, "num_q_heads is 3", [](auto* a) { a->num_q_heads = 3; });
  refuse(invalid, "num_q_heads is 0", [](auto* a) { a->num_q_heads = 0; });
  refuse(invalid, "seqs is NULL", [](auto* a) { a->seqs = nullptr; });
  refuse(invalid, "q is NULL", [](auto* a) { a->q = nullptr; });
  refuse(invalid, "out is NULL", [](auto* a) { a->out = nullptr; });
  refuse(invalid, "scale is", [](auto* a) { a->scale = NAN; });
  refuse(invalid, "softcap is", [](auto* a) { a->softcap = -1; });
  const uint64_t five[] = {0, 5};
  refuse(invalid, "strides", [&](auto* a) { a->cu_queries = five, a->q_token_stride = INT64_MAX; });
  refuse(invalid, "num_seqs is", [](auto* a) { a->num_seqs = SIZE_MAX; });
  refuse(invalid, "has no tokens", [&](auto* a) { a->seqs = &empty; });
  const quash_kv_seq unknown = 1234;
  refuse(QUASH_KV_NOT_FOUND, "no sequence 1234", [&](auto* a) { a->seqs = &unknown; });
  refuse(QUASH_KV_UNSUPPORTED, "stream", [&](auto* a) { a->stream = &q; });
  const uint64_t descending[] = {0, UINT64_MAX}, shifted[] = {1, 2}, many[] = {0, 11};
  refuse(invalid, "query rows", [&](auto* a) { a->cu_queries = descending; });
  refuse(invalid, "cu_queries[0] is 1", [&](auto* a) { a->cu_queries = shifted; });
  refuse(invalid, "11 queries and 10 tokens", [&](auto* a) { a->cu_queries = many; });
  const uint64_t two[] = {0, 2};
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    const float good = std::exchange(q[256 + 3 * 64 + 9], bad);
    refuse(invalid, "q of row 1, head 3 has NaN or infinity",
           [&](auto* a) { a->cu_queries = two; });
    q[256 + 3 * 64 + 9] = good;
  }
  refuse(invalid, "q of row 0, head 0 times scale has norm", [](auto* a) { a->scale = 1e38f; });
}

TEST_CASE("handles") {
  quash_kv_seq seq = 0;
  CHECK_FAILS(quash_kv_seq_create(nullptr, &seq), QUASH_KV_INVALID, "cache is NULL");
  const CachePtr cache = MakeCache(kShape);
  CHECK_FAILS(quash_kv_seq_create(cache.get(), nullptr), QUASH_KV_INVALID, "out is NULL");
  CHECK_FAILS(quash_kv_seq_free(cache.get(), 0), QUASH_KV_NOT_FOUND, "no sequence 0");
  seq = MakeSeq(cache.get());
  REQUIRE_OK(quash_kv_seq_free(cache.get(), seq));
  CHECK_FAILS(quash_kv_seq_free(cache.get(), seq), QUASH_KV_NOT_FOUND, "no sequence");
  CHECK_FAILS(quash_kv_seq_truncate(cache.get(), seq, 0), QUASH_KV_NOT_FOUND, "no sequence");
  CHECK_FAILS(quash_kv_read(cache.get(), MakeSeq(cache.get()), 0, 0, 1, nullptr, nullptr),
              QUASH_KV_INVALID, "tokens 0 to 1 of 0");
  quash_kv_free(nullptr);
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("saving");

struct Saved {
  uint8_t* bytes = nullptr;
  size_t size = 0;
  ~Saved() { quash_kv_bytes_free(bytes); }
};

TEST_CASE("a restored sequence equals the saved one") {
  for (const float bits : {2.0f, 3.5f}) {
    const auto set = [&](quash_kv_options* options) { options->k_bits = options->v_bits = bits; };
    const CachePtr cache = MakeCache(kShape, set);
    const quash_kv_seq seq = MakeSeq(cache.get());
    Append(cache.get(), seq, kShape, Random(128 * 333, 1), Random(128 * 333, 2));
    REQUIRE_OK(quash_kv_seq_truncate(cache.get(), seq, 250));  // a page with fewer tokens
    Saved saved;
    REQUIRE_OK(quash_kv_seq_save(cache.get(), seq, &saved.bytes, &saved.size));
    const CachePtr other = MakeCache(kShape, set);
    quash_kv_seq restored = 0;
    REQUIRE_OK(quash_kv_seq_restore(other.get(), saved.bytes, saved.size, &restored));
    const Read a = ReadAll(cache.get(), seq, kShape), b = ReadAll(other.get(), restored, kShape);
    CHECK(a.k == b.k);
    CHECK(a.v == b.v);
    const auto q = Random(256, 3);
    CHECK(Attend(cache.get(), seq, kShape, {}, q).out ==
          Attend(other.get(), restored, kShape, {}, q).out);
    const CachePtr different =
        MakeCache(kShape, [&](quash_kv_options* options) { set(options), options->seed = 7; });
    CHECK_FAILS(quash_kv_seq_restore(different.get(), saved.bytes, saved.size, &restored),
                QUASH_KV_CORRUPT, "other options");
  }
}

TEST_CASE("damaged bytes are refused") {
  const CachePtr cache = MakeCache(kShape);
  const quash_kv_seq seq = MakeSeq(cache.get());
  Append(cache.get(), seq, kShape, Random(128 * 200, 1), Random(128 * 200, 2));
  Saved saved;
  REQUIRE_OK(quash_kv_seq_save(cache.get(), seq, &saved.bytes, &saved.size));
  quash_kv_seq out = 0;
  std::mt19937_64 random(4);
  for (int i = 0; i < 300; ++i) {
    std::vector<uint8_t> bytes(saved.bytes, saved.bytes + saved.size);
    bytes[i < 32 ? i : random() % bytes.size()] ^= 1 << random() % 8;
    CHECK_FAILS(quash_kv_seq_restore(cache.get(), bytes.data(), bytes.size(), &out),
                QUASH_KV_CORRUPT, "");
  }
  for (int i = 0; i < 100; ++i) {
    const size_t size = i < 40 ? i : random() % saved.size;
    CHECK_FAILS(quash_kv_seq_restore(cache.get(), saved.bytes, size, &out), QUASH_KV_CORRUPT, "");
  }
  CHECK_FAILS(quash_kv_seq_restore(cache.get(), nullptr, 0, &out), QUASH_KV_INVALID, "bytes");
  quash_kv_stats stats = {};
  stats.struct_size = sizeof(stats);
  REQUIRE_OK(quash_kv_get_stats(cache.get(), 0, &stats));
  CHECK(stats.sequences == 1);
}

TEST_SUITE_END();

TEST_SUITE_BEGIN("quality");

TEST_CASE("errors of keys and values are those of theory") {
  // Least squared error of Lloyd-Max for a Gaussian; the unbiased scale of keys
  // costs a little more.
  for (int i = 0; i < 6; ++i) {
    const float bits = static_cast<float>(2 + i % 3);
    const double mse = std::array{0.1175, 0.03454, 0.0095}[i % 3];
    const Shape shape = {.head_dim = 128};
    const CachePtr cache = MakeCache(shape, [&](quash_kv_options* options) {
      options->rotation = i < 3 ? QUASH_KV_HADAMARD : QUASH_KV_RHT;
      options->k_bits = options->v_bits = bits;
      options->k_mean = options->v_mean = 0;
      options->sink_pages = 0;
      options->reserve = 0;
    });
    const quash_kv_seq seq = MakeSeq(cache.get());
    const auto k = Random(1280 * 256, 1), v = Random(1280 * 256, 2);
    Append(cache.get(), seq, shape, k, v);
    const Read read = ReadAll(cache.get(), seq, shape);
    CHECK(std::pow(Distance(read.v, v), 2) == doctest::Approx(mse).epsilon(0.03));
    CHECK(std::pow(Distance(read.k, k), 2) < mse * 1.2);
  }
}

TEST_CASE("a large common bias of keys does not cost precision") {
  const Shape shape = {.head_dim = 128};
  double errors[4];
  for (const int i : {0, 1, 2, 3}) {
    const CachePtr cache = MakeCache(shape, [&](quash_kv_options* options) {
      options->k_bits = 3;
      options->k_mean = i % 2;
      options->rotation = i < 2 ? QUASH_KV_HADAMARD : QUASH_KV_RHT;
    });
    const quash_kv_seq seq = MakeSeq(cache.get());
    const auto k = Random(640 * 256, 1, 128, 50), v = Random(640 * 256, 2);
    Append(cache.get(), seq, shape, k, v);
    // Against the spread of the keys, not their length.
    const Read read = ReadAll(cache.get(), seq, shape);
    double error = 0;
    for (size_t i = 0; i < k.size(); ++i) error += std::pow(double{read.k[i]} - k[i], 2);
    errors[i] = error / static_cast<double>(k.size());
  }
  for (const int i : {0, 2}) {
    CHECK(errors[i + 1] < 0.06);
    CHECK(errors[i] > 20 * errors[i + 1]);
  }
}

TEST_CASE("attention costs no more than the rounding of keys and values") {
  for (const uint32_t head_dim : {64u, 128u}) {
    for (const float bits : {2.0f, 3.0f, 4.0f}) {
      for (const auto quantizer : {QUASH_KV_TQ_MSE, QUASH_KV_TQ_PROD}) {
        CAPTURE(head_dim);
        CAPTURE(bits);
        CAPTURE(quantizer);
        const Shape shape = {.head_dim = head_dim};
        const CachePtr cache = MakeCache(shape, [&](quash_kv_options* options) {
          options->k_bits = options->v_bits = bits;
          options->k_quantizer = quantizer;
          options->sink_pages = 0;
          options->reserve = 0;
        });
        const quash_kv_seq seq = MakeSeq(cache.get());
        const size_t n = 512 * shape.kv_heads * head_dim;
        const Read original = {Random(n, 1, head_dim, 1), Random(n, 2)};
        Append(cache.get(), seq, shape, original.k, original.v);
        const Query query = {.rows = 16};
        const auto q = Random(query.rows * query.heads * head_dim, 3);
        const Answer exact = Reference(original, shape, query, q);
        const double fused = Distance(Attend(cache.get(), seq, shape, query, q).out, exact.out);
        const double dense =
            Distance(Reference(ReadAll(cache.get(), seq, shape), shape, query, q).out, exact.out);
        CHECK(dense > 0.01);  // there is a rounding to speak of
        CHECK(dense < 1);
        CHECK(fused <= 2 * dense);
      }
    }
  }
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvcache_test
