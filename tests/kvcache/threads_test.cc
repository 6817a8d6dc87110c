// Calls on one cache in parallel give what they give one after the other. For
// ThreadSanitizer too (CMakePresets.json).
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "quash_quantizer.h"
#include "tests/kvcache/support.h"

namespace kvcache_test {
namespace {

constexpr Shape kShape = {.layers = 2, .kv_heads = 2, .head_dim = 64};
constexpr size_t kToken = 128;
constexpr uint64_t kQueries = 8;

void AppendRandom(quash_kv* cache, quash_kv_seq seq, size_t n, uint64_t seed) {
  for (const uint32_t layer : {0u, 1u}) {
    Append(cache, seq, kShape, Random(n * kToken, seed + layer), Random(n * kToken, seed + 2),
           layer);
  }
}

// Answers of both layers to one of kQueries questions.
std::vector<float> Ask(quash_kv* cache, quash_kv_seq seq, uint64_t question) {
  const Query query = {.rows = 1 + question % 3};
  const auto q = Random(query.rows * query.heads * kShape.head_dim, 500 + question);
  std::vector<float> all;
  for (const uint32_t layer : {0u, 1u}) {
    const Answer answer = Attend(cache, seq, kShape, query, q, layer);
    all.insert(all.end(), answer.out.begin(), answer.out.end());
    all.insert(all.end(), answer.lse.begin(), answer.lse.end());
  }
  return all;
}

std::vector<float> AskAll(quash_kv* cache, quash_kv_seq seq) {
  std::vector<float> all;
  for (uint64_t question = 0; question < kQueries; ++question) {
    const std::vector<float> answer = Ask(cache, seq, question);
    all.insert(all.end(), answer.begin(), answer.end());
  }
  return all;
}

// A life of sequences, from a fork of `own` to nothing; what was seen of them.
std::vector<float> Live(quash_kv* cache, quash_kv_seq own, uint64_t seed) {
  quash_kv_seq fork = 0, branch = 0, restored = 0;
  REQUIRE_OK(quash_kv_seq_fork(cache, own, UINT64_MAX, &fork));
  AppendRandom(cache, fork, 150, seed);
  REQUIRE_OK(quash_kv_seq_fork(cache, fork, 333, &branch));
  REQUIRE_OK(quash_kv_seq_truncate(cache, fork, 270));
  AppendRandom(cache, fork, 30, seed + 10);
  REQUIRE_OK(quash_kv_seq_seal(cache, branch));
  const quash_kv_seq fresh = MakeSeq(cache);
  AppendRandom(cache, fresh, 200, seed + 20);
  uint8_t* bytes = nullptr;
  size_t size = 0;
  REQUIRE_OK(quash_kv_seq_save(cache, fresh, &bytes, &size));
  const quash_kv_status status = quash_kv_seq_restore(cache, bytes, size, &restored);
  quash_kv_bytes_free(bytes);
  REQUIRE_OK(status);
  REQUIRE_OK(quash_kv_seq_free(cache, fresh));

  std::vector<float> seen;
  for (const quash_kv_seq seq : {fork, branch, restored}) {
    const std::vector<float> answers = Ask(cache, seq, seed % kQueries);
    const Read read = ReadAll(cache, seq, kShape, 1);
    seen.insert(seen.end(), answers.begin(), answers.end());
    seen.insert(seen.end(), read.k.begin(), read.k.end());
    seen.insert(seen.end(), read.v.begin(), read.v.end());
    REQUIRE_OK(quash_kv_seq_free(cache, seq));
  }
  return seen;
}

// Runs every job in a thread of its own; the number of those that threw or
// gave false.
int Failures(const std::vector<std::function<bool()>>& jobs) {
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (const auto& job : jobs) {
    threads.emplace_back([&failures, &job] {
      try {
        if (!job()) ++failures;
      } catch (...) {  // a REQUIRE, reported by doctest
        ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failures;
}

TEST_SUITE_BEGIN("threads");

TEST_CASE("attention beside changes of other sequences") {
  for (const uint32_t threads : {1u, 2u}) {
    CAPTURE(threads);
    const CachePtr cache =
        MakeCache(kShape, [&](quash_kv_options* options) { options->threads = threads; });
    const quash_kv_seq base = MakeSeq(cache.get());
    AppendRandom(cache.get(), base, 400, 1);
    // Readers share `base` and its forks; each writer changes forks of its own.
    quash_kv_seq fork = 0, shorter = 0;
    REQUIRE_OK(quash_kv_seq_fork(cache.get(), base, UINT64_MAX, &fork));
    REQUIRE_OK(quash_kv_seq_fork(cache.get(), base, 250, &shorter));
    const std::vector<quash_kv_seq> shared = {base, fork, shorter};
    std::vector<std::vector<std::vector<float>>> answers(shared.size());
    for (size_t i = 0; i < shared.size(); ++i) {
      for (uint64_t question = 0; question < kQueries; ++question) {
        answers[i].push_back(Ask(cache.get(), shared[i], question));
      }
    }
    CHECK(answers[0] == answers[1]);
    CHECK(answers[0] != answers[2]);
    constexpr int kWriters = 2, kLives = 4;
    quash_kv_seq own[kWriters];
    std::vector<std::vector<float>> lives[kWriters];
    for (int writer = 0; writer < kWriters; ++writer) {
      REQUIRE_OK(quash_kv_seq_fork(cache.get(), base, 300, &own[writer]));
      for (int life = 0; life < kLives; ++life) {
        lives[writer].push_back(Live(cache.get(), own[writer], 1000 * writer + 100 * life));
      }
    }

    std::atomic<int> writing{kWriters};
    std::vector<std::function<bool()>> jobs;
    for (int writer = 0; writer < kWriters; ++writer) {
      jobs.push_back([&, writer] {
        bool same = true;
        for (int life = 0; life < kLives; ++life) {
          same &= Live(cache.get(), own[writer], 1000 * writer + 100 * life) == lives[writer][life];
        }
        --writing;
        return same;
      });
    }
    for (uint64_t reader = 0; reader < 3; ++reader) {
      jobs.push_back([&, reader] {
        bool same = true;
        for (uint64_t step = 0; step < 24 || (writing > 0 && step < 2000); ++step) {
          const size_t i = (step + reader) % shared.size();
          const uint64_t question = step % kQueries;
          same &= Ask(cache.get(), shared[i], question) == answers[i][question];
        }
        return same;
      });
    }
    jobs.push_back([&] {
      bool adds_up = true;
      for (int step = 0; step < 24 || (writing > 0 && step < 200000); ++step) {
        quash_kv_stats stats = {};
        stats.struct_size = sizeof(stats);
        REQUIRE_OK(quash_kv_get_stats(cache.get(), 0, &stats));
        adds_up &= stats.sequences >= 3 + kWriters &&
                   stats.total_bytes == stats.packed_bytes + stats.open_bytes + stats.table_bytes;
      }
      return adds_up;
    });
    CHECK(Failures(jobs) == 0);
    quash_kv_stats stats = {};
    stats.struct_size = sizeof(stats);
    REQUIRE_OK(quash_kv_get_stats(cache.get(), 0, &stats));
    CHECK(stats.sequences == 3 + kWriters);
  }
}

TEST_CASE("forks that go one by one leave the others whole") {
  const CachePtr cache = MakeCache(kShape);
  const quash_kv_seq base = MakeSeq(cache.get());
  AppendRandom(cache.get(), base, 300, 7);
  const std::vector<float> want = AskAll(cache.get(), base);
  std::vector<quash_kv_seq> forks(6);
  for (quash_kv_seq& fork : forks) {
    REQUIRE_OK(quash_kv_seq_fork(cache.get(), base, UINT64_MAX, &fork));
  }
  REQUIRE_OK(quash_kv_seq_free(cache.get(), base));
  std::vector<std::function<bool()>> jobs;
  for (const quash_kv_seq fork : forks) {
    jobs.push_back([&, fork] {
      const bool same = AskAll(cache.get(), fork) == want;
      REQUIRE_OK(quash_kv_seq_free(cache.get(), fork));
      return same;
    });
  }
  CHECK(Failures(jobs) == 0);
  quash_kv_stats stats = {};
  stats.struct_size = sizeof(stats);
  REQUIRE_OK(quash_kv_get_stats(cache.get(), 0, &stats));
  CHECK(stats.total_bytes == 0);
}

// Python forks workers after the parent has started OpenMP's threads, which the child lacks.
TEST_CASE("a forked child works, alone") {
  const CachePtr cache =
      MakeCache(kShape, [](quash_kv_options* options) { options->threads = 2; });
  const quash_kv_seq seq = MakeSeq(cache.get());
  AppendRandom(cache.get(), seq, 400, 5);
  const std::vector<float> want = AskAll(cache.get(), seq);
  quash_quantizer_options options;
  quash_quantizer_options_init(&options);
  options.dim = 64;
  quash_quantizer* quantizer = nullptr;
  REQUIRE_OK(quash_quantizer_create(&options, &quantizer));
  constexpr size_t kRows = 300;
  const auto vectors = Random(kRows * options.dim, 8);
  const auto codes_of = [&] {
    std::vector<uint8_t> codes(kRows * quash_quantizer_code_size(quantizer));
    std::vector<float> scales(kRows * quash_quantizer_scales_per_row(quantizer));
    REQUIRE_OK(
        quash_quantizer_encode(quantizer, vectors.data(), kRows, codes.data(), scales.data()));
    return codes;
  };
  const std::vector<uint8_t> want_codes = codes_of();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(60);  // rather than waiting for ever
    _exit(AskAll(cache.get(), seq) == want && codes_of() == want_codes ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  quash_quantizer_free(quantizer);
}

TEST_CASE("errors are those of the thread") {
  const CachePtr cache = MakeCache(kShape);
  std::vector<std::function<bool()>> jobs;
  for (quash_kv_seq seq = 1000; seq < 1004; ++seq) {
    jobs.push_back([&, seq] {
      bool own = true;
      for (int i = 0; i < 500; ++i) {
        own &= quash_kv_seq_free(cache.get(), seq) == QUASH_KV_NOT_FOUND &&
               std::string(quash_kv_errmsg()).find(std::to_string(seq)) != std::string::npos;
      }
      return own;
    });
  }
  CHECK(Failures(jobs) == 0);
}

TEST_SUITE_END();

}  // namespace
}  // namespace kvcache_test
