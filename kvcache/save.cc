// Sequences as bytes (LAYOUT.md, "Saved sequences").
#include <xxhash.h>

#include <cstring>

#include "kvcache/cache.h"

namespace quash::kv {
namespace {

constexpr uint32_t kMagic = 0x564b5351;  // "QSKV"
constexpr uint32_t kVersion = 1;

struct Header {
  uint32_t magic;
  uint32_t version;
  uint64_t options_hash;
  uint64_t bytes;     // of all, header and checksum included
  uint64_t checksum;  // XXH3-64 of all with this field zero
};
static_assert(sizeof(Header) == 32);

struct LayerHeader {
  uint64_t sink_tokens, pages, open_tokens;
};

template <typename T>
void Put(const T& value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void Put(const std::vector<uint8_t>& bytes, std::string* out) {
  out->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// Reads off the front; false if it is too short.
bool Take(std::string_view* from, void* to, size_t bytes) {
  if (from->size() < bytes) return false;
  if (bytes == 0) return true;  // `to` may be null
  std::memcpy(to, from->data(), bytes);
  from->remove_prefix(bytes);
  return true;
}

Status Damaged(const char* what) {
  return Status(QUASH_KV_CORRUPT, std::string("the saved sequence is damaged: ") + what);
}

}  // namespace

// Of everything that the meaning of the bytes depends on.
uint64_t Cache::OptionsHash() const {
  std::string bytes;
  Put(options_.num_layers, &bytes);
  Put(options_.num_kv_heads, &bytes);
  Put(options_.head_dim, &bytes);
  Put(options_.k_bits, &bytes);
  Put(options_.v_bits, &bytes);
  Put(static_cast<uint32_t>(options_.k_quantizer), &bytes);
  Put(static_cast<uint32_t>(options_.rotation), &bytes);
  Put(options_.seed, &bytes);
  Put(static_cast<uint32_t>(options_.dtype), &bytes);
  Put(options_.sink_pages, &bytes);
  Put(static_cast<uint32_t>(options_.k_mean != 0), &bytes);
  Put(static_cast<uint32_t>(options_.v_mean != 0), &bytes);
  for (const bool uncompressed : uncompressed_) Put(static_cast<uint8_t>(uncompressed), &bytes);
  for (const uint32_t outlier : k_outliers_) Put(outlier, &bytes);
  for (const uint32_t outlier : v_outliers_) Put(outlier, &bytes);
  return XXH3_64bits(bytes.data(), bytes.size());
}

Status Cache::Save(quash_kv_seq seq, std::string* out) const {
  std::shared_ptr<Sequence> sequence;
  QUASH_KV_RETURN_IF_ERROR(Find(seq, &sequence));
  out->clear();
  Header header = {kMagic, kVersion, OptionsHash(), 0, 0};
  Put(header, out);
  for (const LayerTokens& layer : sequence->layers) {
    Put(LayerHeader{layer.sinks.tokens, layer.pages.size(), layer.open.tokens}, out);
    Put(layer.sinks.k, out);
    Put(layer.sinks.v, out);
    for (const TableEntry& entry : layer.pages) {
      Put(uint64_t{entry.tokens}, out);
      out->append(reinterpret_cast<const char*>(entry.page->data()), format_.page_bytes);
    }
    Put(layer.open.k, out);
    Put(layer.open.v, out);
  }
  header.bytes = out->size();
  std::memcpy(out->data(), &header, sizeof(header));
  header.checksum = XXH3_64bits(out->data(), out->size());
  std::memcpy(out->data(), &header, sizeof(header));
  return Status();
}

Status Cache::Restore(std::string_view bytes, quash_kv_seq* out) {
  Header header;
  std::string_view rest = bytes;
  if (!Take(&rest, &header, sizeof(header)) || header.magic != kMagic) {
    return Damaged("it does not begin as one");
  }
  if (header.version != kVersion) {
    return Status(QUASH_KV_CORRUPT, fmt::format("the saved sequence has version {}, expected {}",
                                                header.version, kVersion));
  }
  if (header.bytes != bytes.size()) return Damaged("its length is not what it says");
  {
    std::string whole(bytes);
    Header zeroed = header;
    zeroed.checksum = 0;
    std::memcpy(whole.data(), &zeroed, sizeof(zeroed));
    if (XXH3_64bits(whole.data(), whole.size()) != header.checksum) {
      return Damaged("checksum mismatch");
    }
  }
  if (header.options_hash != OptionsHash()) {
    return Status(QUASH_KV_CORRUPT, "the saved sequence is of a cache with other options");
  }

  // Checked by sizes too: a checksum can be made.
  const auto sequence = std::make_shared<Sequence>(budget_, 0);
  std::vector<LayerTokens> layers(options_.num_layers);
  uint64_t page_count = 0, raw_bytes = 0;
  const auto take_raw = [&](uint64_t tokens, RawTokens* raw) {
    if (tokens > rest.size() / (2 * token_bytes())) return false;
    raw->k.resize(tokens * token_bytes());
    raw->v.resize(tokens * token_bytes());
    raw->tokens = tokens;
    raw_bytes += raw->bytes();
    return Take(&rest, raw->k.data(), raw->k.size()) && Take(&rest, raw->v.data(), raw->v.size());
  };
  for (uint32_t i = 0; i < options_.num_layers; ++i) {
    LayerTokens& layer = layers[i];
    LayerHeader layer_header;
    if (!Take(&rest, &layer_header, sizeof(layer_header)) ||
        layer_header.sink_tokens > SinkCapacity(i) ||
        !take_raw(layer_header.sink_tokens, &layer.sinks) ||
        layer_header.pages > rest.size() / format_.page_bytes) {
      return Damaged("a layer is too short");
    }
    for (uint64_t p = 0; p < layer_header.pages; ++p) {
      uint64_t tokens = 0;
      auto page = std::make_shared<Page>(format_.page_bytes);
      if (!Take(&rest, &tokens, sizeof(tokens)) || tokens == 0 || tokens > kPageTokens ||
          !Take(&rest, page->data(), format_.page_bytes)) {
        return Damaged("a page is not whole");
      }
      layer.pages.push_back({std::move(page), static_cast<uint32_t>(tokens)});
      layer.paged_tokens += tokens;
      ++page_count;
    }
    if (!take_raw(layer_header.open_tokens, &layer.open)) return Damaged("a layer is too short");
  }
  if (!rest.empty()) return Damaged("bytes are left over");
  const uint64_t needed = raw_bytes + page_count * format_.page_bytes;
  if (!budget_->Reserve(needed)) return Full(needed);
  for (LayerTokens& layer : layers) {
    for (TableEntry& entry : layer.pages) {
      std::const_pointer_cast<Page>(entry.page)->HandBytesTo(budget_);
    }
  }
  sequence->layers = std::move(layers);
  *out = Insert(sequence);
  return Status();
}

}  // namespace quash::kv
