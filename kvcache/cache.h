// The cache behind quash_kv.h: options, codecs and sequences.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/dtype.h"
#include "kvcache/page_format.h"
#include "kvcache/page_pool.h"
#include "kvcache/part_codec.h"
#include "kvcache/sequence.h"
#include "kvcache/status.h"

namespace quash::kv {

class Cache {
 public:
  static Status Create(const quash_kv_options& options, std::unique_ptr<Cache>* out);

  const quash_kv_options& options() const { return options_; }
  const PageFormat& format() const { return format_; }
  const PartCodec& k_codec() const { return *k_codec_; }
  const PartCodec& v_codec() const { return *v_codec_; }
  size_t token_values() const { return size_t{options_.num_kv_heads} * options_.head_dim; }
  size_t token_bytes() const { return token_values() * ElementBytes(options_.dtype); }

  Status CreateSequence(quash_kv_seq* out);
  Status Fork(quash_kv_seq from, uint64_t length, quash_kv_seq* out);
  Status Free(quash_kv_seq seq);
  Status Truncate(quash_kv_seq seq, uint64_t length);
  Status Length(quash_kv_seq seq, uint32_t layer, uint64_t* out) const;
  Status Append(quash_kv_seq seq, uint32_t layer, const ArrayView& k, const ArrayView& v,
                uint64_t n);
  Status Seal(quash_kv_seq seq);
  Status Read(quash_kv_seq seq, uint32_t layer, uint64_t begin, uint64_t n, float* k,
              float* v) const;
  Status Attend(const quash_kv_attend_args& args) const;
  Status Stats(quash_kv_seq seq, quash_kv_stats* out) const;
  Status Save(quash_kv_seq seq, std::string* out) const;
  Status Restore(std::string_view bytes, quash_kv_seq* out);

 private:
  explicit Cache(const quash_kv_options& options);

  Status Find(quash_kv_seq seq, std::shared_ptr<Sequence>* out) const;
  Status FindLayer(quash_kv_seq seq, uint32_t layer, std::shared_ptr<Sequence>* out) const;
  quash_kv_seq Insert(std::shared_ptr<Sequence> sequence);
  bool IsUncompressed(uint32_t layer) const { return uncompressed_[layer]; }
  // Tokens that stay in front as given.
  uint64_t SinkCapacity(uint32_t layer) const;
  // The first tokens of `open` as sealed pages of `counts` tokens each. Their
  // bytes have been reserved; nothing has changed after a failure.
  Status SealPages(const RawTokens& open, std::span<const uint32_t> counts,
                   std::vector<TableEntry>* out) const;
  Status Full(uint64_t bytes) const;
  uint64_t OptionsHash() const;

  quash_kv_options options_;
  std::vector<uint32_t> k_outliers_, v_outliers_;
  std::vector<bool> uncompressed_;
  PageFormat format_;
  std::unique_ptr<PartCodec> k_codec_, v_codec_;
  std::shared_ptr<MemoryBudget> budget_;
  mutable std::mutex mutex_;  // of the map
  std::map<quash_kv_seq, std::shared_ptr<Sequence>> sequences_;
  quash_kv_seq next_ = 1;
};

}  // namespace quash::kv
