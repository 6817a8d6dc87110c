#include "kvcache/cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <stdexcept>

#include "kvcache/parallel.h"

namespace quash::kv {
namespace {

// Scales of such vectors fit float16 at every number of bits.
constexpr float kLargestNorm = 1e5f;

Status CheckBits(const char* name, float bits, uint32_t head_dim) {
  const bool is_half = bits == 2.5f || bits == 3.5f;
  if (!is_half && bits != 2 && bits != 3 && bits != 4) {
    return Invalid("{} is {}, expected 2, 2.5, 3, 3.5 or 4", name, bits);
  }
  if (is_half && head_dim % 32 != 0) {
    return Invalid("head_dim is {}, expected a multiple of 32 for {} {}", head_dim, name, bits);
  }
  return Status();
}

Status CheckOutliers(const char* name, const uint32_t* outliers, float bits, uint32_t head_dim) {
  if (outliers == nullptr) return Status();
  if (bits == std::floor(bits)) {
    return Invalid("{} is given, expected NULL without a half bit", name);
  }
  std::set<uint32_t> seen;
  for (uint32_t i = 0; i < head_dim / 2; ++i) {
    if (outliers[i] >= head_dim || !seen.insert(outliers[i]).second) {
      return Invalid("{}[{}] is {}, expected distinct coordinates below {}", name, i, outliers[i],
                     head_dim);
    }
  }
  return Status();
}

Status CheckOptions(const quash_kv_options& o) {
  if (o.num_layers < 1 || o.num_layers > 1024) {
    return Invalid("num_layers is {}, expected 1 to 1024", o.num_layers);
  }
  if (o.num_kv_heads < 1 || o.num_kv_heads > 1024) {
    return Invalid("num_kv_heads is {}, expected 1 to 1024", o.num_kv_heads);
  }
  if (o.head_dim < 16 || o.head_dim > 512 || o.head_dim % 16 != 0) {
    return Invalid("head_dim is {}, expected a multiple of 16 from 16 to 512", o.head_dim);
  }
  QUASH_KV_RETURN_IF_ERROR(CheckBits("k_bits", o.k_bits, o.head_dim));
  QUASH_KV_RETURN_IF_ERROR(CheckBits("v_bits", o.v_bits, o.head_dim));
  if (o.k_quantizer != QUASH_KV_TQ_MSE && o.k_quantizer != QUASH_KV_TQ_PROD) {
    return Invalid("k_quantizer is {}, expected tq_mse or tq_prod",
                   static_cast<int>(o.k_quantizer));
  }
  if (o.k_quantizer == QUASH_KV_TQ_PROD && o.k_bits != std::floor(o.k_bits)) {
    return Invalid("k_bits is {}, expected 2, 3 or 4 with tq_prod", o.k_bits);
  }
  if (o.rotation != QUASH_KV_HADAMARD && o.rotation != QUASH_KV_DENSE &&
      o.rotation != QUASH_KV_RHT) {
    return Invalid("rotation is {}, expected hadamard, dense or rht",
                   static_cast<int>(o.rotation));
  }
  const auto is_whole = [](float bits) { return bits == std::floor(bits); };
  if (o.rotation == QUASH_KV_RHT &&
      ((o.head_dim != 64 && o.head_dim != 128) || o.k_quantizer != QUASH_KV_TQ_MSE ||
       !is_whole(o.k_bits) || !is_whole(o.v_bits))) {
    return Status(QUASH_KV_UNSUPPORTED,
                  fmt::format("rotation is rht with head_dim {}, {} and {} bits, expected head_dim "
                              "64 or 128, tq_mse and whole bits",
                              o.head_dim, o.k_bits, o.v_bits));
  }
  if (!IsDtype(o.dtype))
    return Invalid("dtype is {}, expected f32, f16 or bf16", static_cast<int>(o.dtype));
  if (o.sink_pages > 1024) return Invalid("sink_pages is {}, expected at most 1024", o.sink_pages);
  if (o.reserve > 4096) return Invalid("reserve is {}, expected at most 4096", o.reserve);
  if (o.num_uncompressed_layers != 0 && o.uncompressed_layers == nullptr) {
    return Invalid("uncompressed_layers is NULL, expected {} layers", o.num_uncompressed_layers);
  }
  for (size_t i = 0; i < o.num_uncompressed_layers; ++i) {
    if (o.uncompressed_layers[i] >= o.num_layers) {
      return Invalid("uncompressed_layers[{}] is {}, expected below {}", i,
                     o.uncompressed_layers[i], o.num_layers);
    }
  }
  QUASH_KV_RETURN_IF_ERROR(CheckOutliers("k_outliers", o.k_outliers, o.k_bits, o.head_dim));
  return CheckOutliers("v_outliers", o.v_outliers, o.v_bits, o.head_dim);
}

// Room for `bytes` more of keys and of values, growing by halves.
void Grow(RawTokens* raw, uint64_t bytes) {
  for (std::vector<uint8_t>* side : {&raw->k, &raw->v}) {
    const size_t needed = side->size() + bytes;
    if (needed > side->capacity()) side->reserve(needed + needed / 2);
  }
}

// Within the capacity.
void AppendRows(const ArrayView& k, const ArrayView& v, const quash_kv_options& options, uint64_t n,
                float* row, RawTokens* to) {
  const size_t head_bytes = options.head_dim * ElementBytes(options.dtype);
  for (const bool is_key : {true, false}) {
    const ArrayView& from = is_key ? k : v;
    std::vector<uint8_t>& side = is_key ? to->k : to->v;
    size_t at = side.size();
    side.resize(at + n * options.num_kv_heads * head_bytes);
    for (uint64_t t = 0; t < n; ++t) {
      for (uint32_t h = 0; h < options.num_kv_heads; ++h, at += head_bytes) {
        if (from.dtype == options.dtype) {
          std::memcpy(side.data() + at, from.Row(t, h), head_bytes);
        } else {
          ToFloat(from.dtype, from.Row(t, h), options.head_dim, row);
          FromFloat(options.dtype, row, options.head_dim, side.data() + at);
        }
      }
    }
  }
  to->tokens += n;
}

// Finite, and of a norm that every page can hold.
Status CheckVectors(const char* name, const ArrayView& view, const quash_kv_options& options,
                    uint64_t n, float* row) {
  for (uint64_t t = 0; t < n; ++t) {
    for (uint32_t h = 0; h < options.num_kv_heads; ++h) {
      ToFloat(view.dtype, view.Row(t, h), options.head_dim, row);
      if (!AllFinite(row, options.head_dim)) {
        return Invalid("{} of token {}, head {} has NaN or infinity, expected finite numbers", name,
                       t, h);
      }
      double square = 0;
      for (uint32_t j = 0; j < options.head_dim; ++j) square += double{row[j]} * row[j];
      if (square > double{kLargestNorm} * kLargestNorm) {
        return Invalid("{} of token {}, head {} has norm {:.3g}, expected at most {:.3g}", name, t,
                       h, std::sqrt(square), kLargestNorm);
      }
      if (options.dtype == QUASH_KV_F16 && view.dtype != QUASH_KV_F16) {
        for (uint32_t j = 0; j < options.head_dim; ++j) {
          if (std::fabs(row[j]) > 65504) {
            return Invalid("{} of token {}, head {} has {}, a cache of dtype f16 holds up to 65504",
                           name, t, h, row[j]);
          }
        }
      }
    }
  }
  return Status();
}

void DropFront(RawTokens* raw, uint64_t tokens, size_t token_bytes) {
  raw->k.erase(raw->k.begin(), raw->k.begin() + static_cast<ptrdiff_t>(tokens * token_bytes));
  raw->v.erase(raw->v.begin(), raw->v.begin() + static_cast<ptrdiff_t>(tokens * token_bytes));
  raw->tokens -= tokens;
  if (raw->k.capacity() > 4 * raw->k.size() + 65536) {
    raw->k.shrink_to_fit();
    raw->v.shrink_to_fit();
  }
}

void KeepFront(RawTokens* raw, uint64_t tokens, size_t token_bytes) {
  raw->k.resize(tokens * token_bytes);
  raw->v.resize(tokens * token_bytes);
  raw->tokens = tokens;
}

}  // namespace

Status Cache::Create(const quash_kv_options& options, std::unique_ptr<Cache>* out) {
  QUASH_KV_RETURN_IF_ERROR(CheckOptions(options));
  out->reset(new Cache(options));
  return Status();
}

Cache::Cache(const quash_kv_options& options)
    : options_(options),
      uncompressed_(options.num_layers, false),
      format_(options),
      budget_(std::make_shared<MemoryBudget>(options.memory_budget_bytes)) {
  const size_t half = options.head_dim / 2;
  if (options.k_outliers != nullptr) {
    k_outliers_.assign(options.k_outliers, options.k_outliers + half);
  }
  if (options.v_outliers != nullptr) {
    v_outliers_.assign(options.v_outliers, options.v_outliers + half);
  }
  for (size_t i = 0; i < options.num_uncompressed_layers; ++i) {
    uncompressed_[options.uncompressed_layers[i]] = true;
  }
  options_.k_outliers = k_outliers_.empty() ? nullptr : k_outliers_.data();
  options_.v_outliers = v_outliers_.empty() ? nullptr : v_outliers_.data();
  options_.uncompressed_layers = nullptr;
  k_codec_ = std::make_unique<PartCodec>(Side::kKey, options_, format_.k, options_.k_outliers);
  v_codec_ = std::make_unique<PartCodec>(Side::kValue, options_, format_.v, options_.v_outliers);
}

uint64_t Cache::SinkCapacity(uint32_t layer) const {
  return IsUncompressed(layer) ? std::numeric_limits<uint64_t>::max()
                               : uint64_t{options_.sink_pages} * kPageTokens;
}

Status Cache::Full(uint64_t bytes) const {
  return Status(QUASH_KV_FULL,
                fmt::format("the cache holds {} bytes and needs {} more, its budget is {}",
                            budget_->used(), bytes, budget_->limit()));
}

Status Cache::Find(quash_kv_seq seq, std::shared_ptr<Sequence>* out) const {
  const std::lock_guard lock(mutex_);
  const auto found = sequences_.find(seq);
  if (found == sequences_.end()) {
    return Status(QUASH_KV_NOT_FOUND, fmt::format("no sequence {}", seq));
  }
  *out = found->second;
  return Status();
}

Status Cache::FindLayer(quash_kv_seq seq, uint32_t layer, std::shared_ptr<Sequence>* out) const {
  if (layer >= options_.num_layers) {
    return Invalid("layer is {}, expected below {}", layer, options_.num_layers);
  }
  return Find(seq, out);
}

quash_kv_seq Cache::Insert(std::shared_ptr<Sequence> sequence) {
  const std::lock_guard lock(mutex_);
  sequences_.emplace(next_, std::move(sequence));
  return next_++;
}

Status Cache::CreateSequence(quash_kv_seq* out) {
  *out = Insert(std::make_shared<Sequence>(budget_, options_.num_layers));
  return Status();
}

Status Cache::Free(quash_kv_seq seq) {
  std::shared_ptr<Sequence> freed;  // outside of the lock
  const std::lock_guard lock(mutex_);
  const auto found = sequences_.find(seq);
  if (found == sequences_.end()) {
    return Status(QUASH_KV_NOT_FOUND, fmt::format("no sequence {}", seq));
  }
  freed = std::move(found->second);
  sequences_.erase(found);
  return Status();
}

Status Cache::Length(quash_kv_seq seq, uint32_t layer, uint64_t* out) const {
  std::shared_ptr<Sequence> sequence;
  QUASH_KV_RETURN_IF_ERROR(FindLayer(seq, layer, &sequence));
  *out = sequence->layers[layer].length();
  return Status();
}

Status Cache::SealPages(const RawTokens& open, std::span<const uint32_t> counts,
                        std::vector<TableEntry>* out) const {
  std::vector<std::shared_ptr<Page>> pages;
  std::vector<uint64_t> first;
  uint64_t tokens = 0;
  for (const uint32_t count : counts) {
    pages.push_back(std::make_shared<Page>(format_.page_bytes));
    first.push_back(tokens);
    tokens += count;
  }
  const size_t heads = options_.num_kv_heads;
  const size_t dim = options_.head_dim;
  const size_t head_bytes = dim * ElementBytes(options_.dtype);
  const Status status =
      ParallelFor(pages.size() * heads, ThreadCount(options_.threads), [&](size_t i, size_t) {
        const size_t p = i / heads, head = i % heads;
        uint8_t* page = pages[p]->data();
        uint8_t* head_page = page + head * format_.head_page_bytes;
        auto* mean_scales = reinterpret_cast<uint16_t*>(page + format_.mean_scales) + 2 * head;
        std::vector<float> rows(counts[p] * dim);
        for (const Side side : {Side::kKey, Side::kValue}) {
          const std::vector<uint8_t>& raw = side == Side::kKey ? open.k : open.v;
          for (size_t t = 0; t < counts[p]; ++t) {
            ToFloat(options_.dtype, raw.data() + (first[p] + t) * token_bytes() + head * head_bytes,
                    dim, rows.data() + t * dim);
          }
          const PartCodec& codec = side == Side::kKey ? *k_codec_ : *v_codec_;
          codec.Seal(rows.data(), counts[p], head_page, mean_scales + (side == Side::kKey ? 0 : 1));
        }
        return Status();
      });
  if (!status.ok()) return status;
  out->reserve(pages.size());
  for (size_t p = 0; p < pages.size(); ++p) {
    pages[p]->HandBytesTo(budget_);
    out->push_back({std::move(pages[p]), counts[p]});
  }
  return Status();
}

Status Cache::Append(quash_kv_seq seq, uint32_t layer, const ArrayView& k, const ArrayView& v,
                     uint64_t n) {
  std::shared_ptr<Sequence> sequence;
  QUASH_KV_RETURN_IF_ERROR(FindLayer(seq, layer, &sequence));
  if (n == 0) return Status();
  std::vector<float> row(options_.head_dim);
  QUASH_KV_RETURN_IF_ERROR(CheckVectors("k", k, options_, n, row.data()));
  QUASH_KV_RETURN_IF_ERROR(CheckVectors("v", v, options_, n, row.data()));

  const std::lock_guard lock(sequence->mutex);
  LayerTokens& tokens = sequence->layers[layer];
  // Sinks fill only from the front of a sequence.
  const uint64_t sink_room =
      tokens.paged_tokens + tokens.open.tokens == 0 ? SinkCapacity(layer) - tokens.sinks.tokens : 0;
  const uint64_t to_sinks = std::min(n, sink_room);
  const uint64_t to_open = n - to_sinks;
  const uint64_t in_open = tokens.open.tokens + to_open;
  const uint64_t sealed =
      in_open >= kPageTokens + options_.reserve ? (in_open - options_.reserve) / kPageTokens : 0;
  // Room for the tokens as given and for the pages; the raw bytes of what is
  // sealed go back at the end.
  const uint64_t raw_bytes = 2 * n * token_bytes();
  const uint64_t page_bytes = sealed * format_.page_bytes;
  if (!budget_->Reserve(raw_bytes + page_bytes)) return Full(raw_bytes + page_bytes);

  const uint64_t old_sinks = tokens.sinks.tokens;
  const uint64_t old_open = tokens.open.tokens;
  std::vector<TableEntry> pages;
  Status status;
  try {
    // All memory first: what follows until the pages are made cannot fail.
    Grow(&tokens.sinks, to_sinks * token_bytes());
    Grow(&tokens.open, to_open * token_bytes());
    if (sealed > 0) tokens.pages.reserve(tokens.pages.size() + sealed);
    const auto rest = [to_sinks](ArrayView view) {
      view.data = view.Row(to_sinks, 0);
      return view;
    };
    AppendRows(k, v, options_, to_sinks, row.data(), &tokens.sinks);
    AppendRows(rest(k), rest(v), options_, to_open, row.data(), &tokens.open);
    if (sealed > 0) {
      status = SealPages(tokens.open, std::vector<uint32_t>(sealed, kPageTokens), &pages);
    }
  } catch (const std::bad_alloc&) {
    status = Status(QUASH_KV_NOMEM, "out of memory");
  }
  if (!status.ok()) {
    KeepFront(&tokens.sinks, old_sinks, token_bytes());
    KeepFront(&tokens.open, old_open, token_bytes());
    budget_->Release(raw_bytes + page_bytes);
    return status;
  }
  for (TableEntry& page : pages) tokens.pages.push_back(std::move(page));
  tokens.paged_tokens += sealed * kPageTokens;
  DropFront(&tokens.open, sealed * kPageTokens, token_bytes());
  budget_->Release(2 * sealed * kPageTokens * token_bytes());
  return Status();
}

Status Cache::Seal(quash_kv_seq seq) {
  std::shared_ptr<Sequence> sequence;
  QUASH_KV_RETURN_IF_ERROR(Find(seq, &sequence));
  const std::lock_guard lock(sequence->mutex);
  // The pages of every layer before any layer changes: all are sealed or none.
  std::vector<std::vector<TableEntry>> pages(options_.num_layers);
  for (uint32_t layer = 0; layer < options_.num_layers; ++layer) {
    LayerTokens& tokens = sequence->layers[layer];
    std::vector<uint32_t> counts;
    for (uint64_t left = tokens.open.tokens; left > 0;) {
      counts.push_back(static_cast<uint32_t>(std::min<uint64_t>(left, kPageTokens)));
      left -= counts.back();
    }
    if (counts.empty()) continue;
    tokens.pages.reserve(tokens.pages.size() + counts.size());
    const uint64_t page_bytes = counts.size() * format_.page_bytes;
    if (!budget_->Reserve(page_bytes)) return Full(page_bytes);
    Status status;
    try {
      status = SealPages(tokens.open, counts, &pages[layer]);
    } catch (const std::bad_alloc&) {
      status = Status(QUASH_KV_NOMEM, "out of memory");
    }
    if (!status.ok()) {
      budget_->Release(page_bytes);
      return status;
    }
  }
  for (uint32_t layer = 0; layer < options_.num_layers; ++layer) {
    LayerTokens& tokens = sequence->layers[layer];
    for (TableEntry& page : pages[layer]) tokens.pages.push_back(std::move(page));
    tokens.paged_tokens += tokens.open.tokens;
    budget_->Release(tokens.open.bytes());
    tokens.open = {};
  }
  return Status();
}

Status Cache::Fork(quash_kv_seq from, uint64_t length, quash_kv_seq* out) {
  std::shared_ptr<Sequence> sequence;
  QUASH_KV_RETURN_IF_ERROR(Find(from, &sequence));
  uint64_t raw_bytes = 0;
  for (const LayerTokens& layer : sequence->layers) raw_bytes += layer.raw_bytes();
  if (!budget_->Reserve(raw_bytes)) return Full(raw_bytes);
  std::shared_ptr<Sequence> copy;
  try {
    copy = std::make_shared<Sequence>(budget_, 0);
    copy->layers = sequence->layers;
  } catch (...) {
    budget_->Release(raw_bytes);
    throw;
  }
  *out = Insert(std::move(copy));
  return length == UINT64_MAX ? Status() : Truncate(*out, length);
}

Status Cache::Truncate(quash_kv_seq seq, uint64_t length) {
  std::shared_ptr<Sequence> sequence;
  QUASH_KV_RETURN_IF_ERROR(Find(seq, &sequence));
  const std::lock_guard lock(sequence->mutex);
  for (LayerTokens& layer : sequence->layers) {
    if (layer.length() <= length) continue;
    const uint64_t before = layer.raw_bytes();
    const uint64_t in_front = layer.sinks.tokens + layer.paged_tokens;
    if (length >= in_front) {
      KeepFront(&layer.open, length - in_front, token_bytes());
    } else {
      layer.open = {};
      while (layer.sinks.tokens + layer.paged_tokens > length && !layer.pages.empty()) {
        TableEntry& last = layer.pages.back();
        const uint64_t excess = layer.sinks.tokens + layer.paged_tokens - length;
        if (excess < last.tokens) {
          last.tokens -= static_cast<uint32_t>(excess);
          layer.paged_tokens -= excess;
        } else {
          layer.paged_tokens -= last.tokens;
          layer.pages.pop_back();
        }
      }
      if (layer.sinks.tokens > length) KeepFront(&layer.sinks, length, token_bytes());
    }
    budget_->Release(before - layer.raw_bytes());
  }
  return Status();
}

Status Cache::Read(quash_kv_seq seq, uint32_t layer, uint64_t begin, uint64_t n, float* k,
                   float* v) const {
  std::shared_ptr<Sequence> sequence;
  QUASH_KV_RETURN_IF_ERROR(FindLayer(seq, layer, &sequence));
  const LayerTokens& tokens = sequence->layers[layer];
  if (begin > tokens.length() || n > tokens.length() - begin) {
    return Invalid("tokens {} to {} of {}, expected a range of them", begin, begin + n,
                   tokens.length());
  }
  const size_t heads = options_.num_kv_heads;
  const size_t dim = options_.head_dim;
  const uint64_t end = begin + n;
  uint64_t position = 0;
  const auto raw = [&](const RawTokens& part) {
    for (uint64_t t = 0; t < part.tokens; ++t, ++position) {
      if (position < begin || position >= end) continue;
      const size_t to = (position - begin) * token_values();
      if (k != nullptr) {
        ToFloat(options_.dtype, part.k.data() + t * token_bytes(), token_values(), k + to);
      }
      if (v != nullptr) {
        ToFloat(options_.dtype, part.v.data() + t * token_bytes(), token_values(), v + to);
      }
    }
  };
  raw(tokens.sinks);
  struct Part {
    const uint8_t* page;
    uint64_t position;     // of the page's first token
    uint64_t first, last;  // of those wanted
  };
  std::vector<Part> parts;
  for (const TableEntry& entry : tokens.pages) {
    const uint64_t first = std::max(begin, position);
    const uint64_t last = std::min(end, position + entry.tokens);
    if (first < last) parts.push_back({entry.page->data(), position, first, last});
    position += entry.tokens;
  }
  raw(tokens.open);
  return ParallelFor(parts.size() * heads, ThreadCount(options_.threads), [&](size_t i, size_t) {
    const auto [page, page_begin, first, last] = parts[i / heads];
    const size_t head = i % heads;
    const uint8_t* head_page = page + head * format_.head_page_bytes;
    const auto* scales = reinterpret_cast<const uint16_t*>(page + format_.mean_scales) + 2 * head;
    std::vector<float> rows((last - first) * dim);
    for (const bool is_key : {true, false}) {
      float* to = is_key ? k : v;
      if (to == nullptr) continue;
      const PartCodec& codec = is_key ? *k_codec_ : *v_codec_;
      codec.Open(head_page, scales[is_key ? 0 : 1], first - page_begin, last - first, rows.data());
      for (uint64_t t = first; t < last; ++t) {
        std::copy_n(rows.data() + (t - first) * dim, dim, to + ((t - begin) * heads + head) * dim);
      }
    }
    return Status();
  });
}

Status Cache::Stats(quash_kv_seq seq, quash_kv_stats* out) const {
  std::vector<std::shared_ptr<Sequence>> chosen;
  if (seq != 0) {
    chosen.emplace_back();
    QUASH_KV_RETURN_IF_ERROR(Find(seq, &chosen.back()));
  } else {
    const std::lock_guard lock(mutex_);
    for (const auto& [number, sequence] : sequences_) chosen.push_back(sequence);
  }
  quash_kv_stats stats = {};
  stats.struct_size = out->struct_size;
  stats.sequences = chosen.size();
  stats.page_bytes = format_.page_bytes;
  std::set<const Page*> pages;
  for (const auto& sequence : chosen) {
    const std::lock_guard lock(sequence->mutex);
    for (const LayerTokens& layer : sequence->layers) {
      stats.tokens += layer.length();
      stats.open_bytes += layer.raw_bytes();
      stats.table_bytes += layer.pages.size() * sizeof(uint32_t);
      for (const TableEntry& entry : layer.pages) pages.insert(entry.page.get());
    }
  }
  stats.pages = pages.size();
  stats.packed_bytes = stats.pages * stats.page_bytes;
  stats.total_bytes = stats.packed_bytes + stats.open_bytes + stats.table_bytes;
  stats.f16_bytes = stats.tokens * token_values() * 2 * sizeof(uint16_t);
  if (stats.total_bytes != 0) {
    stats.compression_ratio =
        static_cast<double>(stats.f16_bytes) / static_cast<double>(stats.total_bytes);
  }
  const double numbers = static_cast<double>(kPageTokens * token_values());
  const double mean_scale_bytes = 2.0 * options_.num_kv_heads;
  stats.sealed_ratio = numbers * 4 / (static_cast<double>(stats.page_bytes) + sizeof(uint32_t));
  const auto bits_of = [&](const PartFormat& part) {
    return 8 *
           (static_cast<double>(part.bytes) * options_.num_kv_heads +
            (part.has_mean ? mean_scale_bytes : 0)) /
           numbers;
  };
  stats.k_effective_bits = bits_of(format_.k);
  stats.v_effective_bits = bits_of(format_.v);
  *out = stats;
  return Status();
}

}  // namespace quash::kv
