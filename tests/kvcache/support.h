// A cache and its model: what was appended, read back, and attended in double.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quash_kv.h"

namespace kvcache_test {

#define REQUIRE_OK(call)                                                           \
  do {                                                                             \
    const quash_kv_status status_ = (call);                                        \
    REQUIRE_MESSAGE(status_ == QUASH_KV_OK, #call, " gave ",                       \
                    std::string(quash_kv_status_name(status_)), ": ",              \
                    std::string(status_ == QUASH_KV_OK ? "" : quash_kv_errmsg())); \
  } while (0)

// The call gives `code` with a message that has `text` in it.
#define CHECK_FAILS(call, code, text)                                                             \
  do {                                                                                            \
    const quash_kv_status status_ = (call);                                                       \
    const std::string message_ = status_ == QUASH_KV_OK ? "" : quash_kv_errmsg();                 \
    CHECK_MESSAGE(status_ == (code), #call, " gave ", std::string(quash_kv_status_name(status_)), \
                  ": ", message_);                                                                \
    CHECK_MESSAGE(message_.find(text) != std::string::npos, #call, " said: ", message_);          \
  } while (0)

struct FreeCache {
  void operator()(quash_kv* cache) const { quash_kv_free(cache); }
};
using CachePtr = std::unique_ptr<quash_kv, FreeCache>;

struct Shape {
  uint32_t layers = 1, kv_heads = 2, head_dim = 64;
};

inline CachePtr MakeCache(const Shape& shape,
                          const std::function<void(quash_kv_options*)>& set = nullptr) {
  quash_kv_options options;
  quash_kv_options_init(&options);
  options.num_layers = shape.layers;
  options.num_kv_heads = shape.kv_heads;
  options.head_dim = shape.head_dim;
  if (set) set(&options);
  quash_kv* cache = nullptr;
  REQUIRE_OK(quash_kv_create(&options, &cache));
  return CachePtr(cache);
}

inline quash_kv_seq MakeSeq(quash_kv* cache) {
  quash_kv_seq seq = 0;
  REQUIRE_OK(quash_kv_seq_create(cache, &seq));
  return seq;
}

// Seeded normal numbers with a per-coordinate offset, as keys have.
inline std::vector<float> Random(size_t n, uint64_t seed, size_t dim = 0, float offset = 0) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> offsets(dim == 0 ? 1 : dim, 0.0f);
  for (float& x : offsets) x = offset * normal(random);
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = normal(random) + offsets[i % offsets.size()];
  return values;
}

inline void Append(quash_kv* cache, quash_kv_seq seq, const Shape& shape,
                   const std::vector<float>& k, const std::vector<float>& v, uint32_t layer = 0) {
  const int64_t token = int64_t{shape.kv_heads} * shape.head_dim;
  REQUIRE_OK(quash_kv_append(cache, seq, layer, k.data(), v.data(), k.size() / token, QUASH_KV_F32,
                             token, shape.head_dim, nullptr));
}

struct Read {
  std::vector<float> k, v;
};

inline Read ReadAll(quash_kv* cache, quash_kv_seq seq, const Shape& shape, uint32_t layer = 0) {
  uint64_t n = 0;
  REQUIRE_OK(quash_kv_seq_length(cache, seq, layer, &n));
  Read read;
  read.k.resize(n * shape.kv_heads * shape.head_dim);
  read.v.resize(read.k.size());
  REQUIRE_OK(quash_kv_read(cache, seq, layer, 0, n, read.k.data(), read.v.data()));
  return read;
}

struct Query {
  uint32_t heads = 4;
  uint64_t rows = 1;
  bool causal = true;
  uint64_t window = 0;
  float softcap = 0;
};

struct Answer {
  std::vector<float> out, lse;
};

inline Answer Attend(quash_kv* cache, quash_kv_seq seq, const Shape& shape, const Query& query,
                     const std::vector<float>& q, uint32_t layer = 0) {
  Answer answer;
  answer.out.assign(q.size(), NAN);
  answer.lse.assign(query.rows * query.heads, NAN);
  const uint64_t cu[] = {0, query.rows};
  quash_kv_attend_args args;
  quash_kv_attend_args_init(&args);
  args.layer = layer;
  args.num_q_heads = query.heads;
  args.seqs = &seq;
  args.num_seqs = 1;
  args.cu_queries = cu;
  args.q = q.data();
  args.out = answer.out.data();
  args.lse = answer.lse.data();
  args.q_token_stride = args.out_token_stride = int64_t{query.heads} * shape.head_dim;
  args.q_head_stride = args.out_head_stride = shape.head_dim;
  args.softcap = query.softcap;
  args.window = query.window;
  args.causal = query.causal;
  REQUIRE_OK(quash_kv_attend(cache, &args));
  return answer;
}

// The same in double over tokens as read.
inline Answer Reference(const Read& tokens, const Shape& shape, const Query& query,
                        const std::vector<float>& q) {
  const size_t d = shape.head_dim;
  const uint64_t length = tokens.k.size() / (shape.kv_heads * d);
  Answer answer;
  answer.out.resize(q.size());
  answer.lse.resize(query.rows * query.heads);
  const uint32_t group = query.heads / shape.kv_heads;
  for (uint64_t row = 0; row < query.rows; ++row) {
    for (uint32_t head = 0; head < query.heads; ++head) {
      const uint64_t end = query.causal ? length - query.rows + row + 1 : length;
      const uint64_t begin = query.window != 0 && query.window < end ? end - query.window : 0;
      const float* x = q.data() + (row * query.heads + head) * d;
      std::vector<double> scores;
      double top = -INFINITY;
      for (uint64_t t = begin; t < end; ++t) {
        const float* k = tokens.k.data() + (t * shape.kv_heads + head / group) * d;
        double score = 0;
        for (size_t j = 0; j < d; ++j) score += double{x[j]} * k[j];
        score /= std::sqrt(static_cast<double>(d));
        if (query.softcap != 0) score = query.softcap * std::tanh(score / query.softcap);
        scores.push_back(score);
        top = std::max(top, score);
      }
      double mass = 0;
      std::vector<double> sums(d, 0.0);
      for (uint64_t t = begin; t < end; ++t) {
        const double p = std::exp(scores[t - begin] - top);
        mass += p;
        const float* v = tokens.v.data() + (t * shape.kv_heads + head / group) * d;
        for (size_t j = 0; j < d; ++j) sums[j] += p * v[j];
      }
      for (size_t j = 0; j < d; ++j) {
        answer.out[(row * query.heads + head) * d + j] = static_cast<float>(sums[j] / mass);
      }
      answer.lse[row * query.heads + head] = static_cast<float>(top + std::log(mass));
    }
  }
  return answer;
}

// |a - b| / |b|
inline double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace kvcache_test
