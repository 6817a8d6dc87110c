// Tokens of one sequence: per layer sinks, sealed pages and open tokens. Not
// thread-safe; the cache's callers keep changes of a sequence apart. Accounting
// of the whole cache may come beside them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kvcache/page_pool.h"

namespace quash::kv {

// Tokens as given, in the cache's dtype: [tokens, num_kv_heads, head_dim].
struct RawTokens {
  std::vector<uint8_t> k, v;
  uint64_t tokens = 0;

  uint64_t bytes() const { return k.size() + v.size(); }
};

struct TableEntry {
  std::shared_ptr<const Page> page;
  uint32_t tokens;  // 1..64; fewer than 64 after a truncation or an early seal
};

// A layer's tokens in order: sinks, pages, open.
struct LayerTokens {
  RawTokens sinks;
  std::vector<TableEntry> pages;
  RawTokens open;
  uint64_t paged_tokens = 0;

  uint64_t length() const { return sinks.tokens + paged_tokens + open.tokens; }
  uint64_t raw_bytes() const { return sinks.bytes() + open.bytes(); }
};

// Raw bytes are accounted for in the budget while the sequence lives.
struct Sequence {
  Sequence(std::shared_ptr<MemoryBudget> memory_budget, size_t num_layers)
      : budget(std::move(memory_budget)), layers(num_layers) {}
  ~Sequence() {
    for (const LayerTokens& layer : layers) budget->Release(layer.raw_bytes());
  }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  std::shared_ptr<MemoryBudget> budget;
  std::mutex mutex;  // of the layers, between a change and accounting
  std::vector<LayerTokens> layers;
};

}  // namespace quash::kv
