// Measuring a collection: recall against exact search, latency, throughput.
#pragma once

#include <string>

#include "cli/session.h"

namespace quash::cli {

struct MeasureOptions {
  std::string collection;
  size_t k = 10;
  double target = 0;  // recall to reach by the smallest widths, fewest lists; 0: only measure
  size_t sample = 200;
  std::string queries;  // a vector file; empty: a sample of stored rows
  bool apply = false;   // keep what was found
};

void Measure(Session& session, const MeasureOptions& options);

struct BenchOptions {
  std::string collection;
  size_t k = 10;
  std::string queries;  // a vector file; empty: stored rows
  size_t count = 1000;  // queries, at most
  double recall = 0;
  uint32_t nprobe = 0;
  uint32_t candidates = 0;
  uint32_t rerank_candidates = 0;
  uint32_t planes = 0;
  std::string filter;
};

// One thread, one query per call: latency percentiles. All queries in one
// call, all threads: queries per second. With a rerank tier also recall@k
// against exact search.
void Bench(Session& session, const BenchOptions& options);

}  // namespace quash::cli
