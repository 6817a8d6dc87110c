// Attention over a layer: tasks of up to eight query rows of one KV head and a
// stretch of tokens, then a merge by log-sum-exp. How a call is cut depends on
// its shapes alone, so results do not depend on the number of threads.
#include "kernels/attend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "kernels/dispatch.h"
#include "kvcache/cache.h"
#include "kvcache/parallel.h"

namespace quash::kv {
namespace {

constexpr size_t kTileRows = kLevelDotsMaxVectors;
constexpr size_t kChunkPages = 16;
constexpr size_t kManyTiles = 4;  // of a KV head: enough tasks without cutting pages
// What tiles keep between their tasks, some KiB each, grows with these and not with the rows
// of a call.
constexpr size_t kTilesAtOnce = 2048;
// Scores of such queries, with keys as large as append() takes, are finite.
constexpr float kLargestQuery = 1e30f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Tokens that one query row sees.
struct Visible {
  uint64_t begin, end;
};

// One query row of one head.
struct QueryRow {
  uint64_t row;   // of the caller's array
  uint32_t head;  // query head
  Visible visible;
};

// What every task of a call reads.
struct Call {
  const quash_kv_attend_args& args;
  const quash_kv_options& options;
  const PageFormat& format;
  const PartCodec& k_codec;
  const PartCodec& v_codec;
  float scale;
};

// Queries ready for scores: scaled floats, and rotated ones as int16 with a scale
// per band.
struct PreparedTile {
  std::vector<float> plain;      // [rows, head_dim]
  std::vector<int16_t> rotated;  // band after band, each [rows, dim]
  std::vector<float> scales;     // [bands, rows]
};

// Running softmax of the rows of a tile over a chunk.
struct Partial {
  std::vector<float> top, mass;  // [rows]
  std::vector<float> rotated;    // [rows, rotated floats of values]
  std::vector<float> plain;      // [rows, head_dim]
};

struct Chunk {
  bool is_raw;
  const RawTokens* raw;  // raw tokens
  size_t begin, end;     // pages, or tokens of `raw`
  uint64_t first_position;
};

struct Tile {
  const LayerTokens* tokens;
  const std::vector<Chunk>* chunks;
  uint32_t kv_head;
  std::vector<QueryRow> rows;
  PreparedTile prepared;
  std::vector<Partial> partials;  // of its chunks, as long as it is worked on
};

class TaskRunner {
 public:
  TaskRunner(const Call& call, const Tile& tile)
      : call_(call),
        tile_(tile),
        rows_(tile.rows.size()),
        dim_(call.options.head_dim),
        v_rotated_(call.v_codec.rotated_floats()) {}

  void Run(const Chunk& chunk, Partial* out) {
    out_ = out;
    out->top.assign(rows_, -kInfinity);
    out->mass.assign(rows_, 0);
    out->rotated.assign(chunk.is_raw ? 0 : rows_ * v_rotated_, 0);
    out->plain.assign(chunk.is_raw ? rows_ * dim_ : 0, 0);
    scores_.resize(rows_ * kPageTokens);
    if (chunk.is_raw) {
      for (size_t t = chunk.begin; t < chunk.end; t += kPageTokens) {
        Raw(*chunk.raw, t, std::min(kPageTokens + t, chunk.end),
            chunk.first_position + (t - chunk.begin));
      }
      return;
    }
    uint64_t position = chunk.first_position;
    for (size_t p = chunk.begin; p < chunk.end; ++p) {
      const TableEntry& entry = tile_.tokens->pages[p];
      Paged(entry, position);
      position += entry.tokens;
    }
  }

 private:
  // Whether a row sees any of n tokens from `position` on; scores outside of what
  // each row sees become -infinity.
  bool Mask(uint64_t position, size_t n) {
    bool any = false;
    for (size_t r = 0; r < rows_; ++r) {
      const Visible& visible = tile_.rows[r].visible;
      float* scores = scores_.data() + r * kPageTokens;
      const uint64_t begin = std::clamp(visible.begin, position, position + n) - position;
      const uint64_t end = std::clamp(visible.end, position, position + n) - position;
      std::fill(scores, scores + std::min(begin, end), -kInfinity);
      std::fill(scores + std::max(begin, end), scores + kPageTokens, -kInfinity);
      if (begin >= end) std::fill_n(scores, kPageTokens, -kInfinity);
      any |= begin < end;
    }
    return any;
  }

  bool SeesNothing(uint64_t position, size_t n) const {
    return std::none_of(tile_.rows.begin(), tile_.rows.end(), [&](const QueryRow& row) {
      return row.visible.begin < position + n && row.visible.end > position;
    });
  }

  void Softcap() {
    const float cap = call_.args.softcap;
    if (cap == 0) return;
    for (float& score : scores_) score = cap * std::tanh(score / cap);
  }

  // Turns the scores of a row into probabilities relative to the running top, and
  // scales what it has so far. Their sum, 0 if all are masked.
  float Probabilities(size_t r, float* values, size_t width) {
    float* scores = scores_.data() + r * kPageTokens;
    float largest = scores[0];
    for (size_t t = 1; t < kPageTokens; ++t) largest = std::max(largest, scores[t]);
    if (largest == -kInfinity) return 0;
    float& top = out_->top[r];
    if (largest > top) {
      const float factor = std::exp(top - largest);  // 0 at first
      out_->mass[r] *= factor;
      for (size_t j = 0; j < width; ++j) values[j] *= factor;
      top = largest;
    }
    const float sum = Attend().exp_sum(scores, kPageTokens, top);
    out_->mass[r] += sum;
    return sum;
  }

  void Paged(const TableEntry& entry, uint64_t position) {
    if (SeesNothing(position, entry.tokens)) return;
    const AttendKernels& kernels = Attend();
    const ScanKernels& scan = Kernels();
    const uint8_t* page = entry.page->data();
    const uint8_t* head_page = page + tile_.kv_head * call_.format.head_page_bytes;
    float mean_scales[2];
    scan.f16_to_f32(
        reinterpret_cast<const uint16_t*>(page + call_.format.mean_scales) + 2 * tile_.kv_head, 2,
        mean_scales);

    // ---- Scores ----
    constexpr size_t kMeanRows = 8;  // the mean is a row of levels too
    levels_.resize((kPageTokens + kMeanRows) * dim_ + 64);
    sums_.resize(kTileRows * std::max<size_t>(kPageTokens + kMeanRows, dim_));
    const PartFormat& k = call_.format.k;
    size_t at = 0;       // of the band in a rotated vector
    size_t queries = 0;  // of the band in tile_.prepared
    for (size_t b = 0; b < k.bands.size(); ++b) {
      const BandFormat& band = k.bands[b];
      kernels.unpack_levels(head_page + band.codes, kPageTokens, band.dim, band.bits,
                            call_.k_codec.codebook(b).levels, levels_.data());
      size_t level_rows = kPageTokens;
      const bool has_mean = k.has_mean && at < dim_;
      if (has_mean) {
        int8_t* rows = levels_.data() + kPageTokens * band.dim;
        std::memcpy(rows, head_page + k.mean + at, band.dim);
        std::memset(rows + band.dim, 0, (kMeanRows - 1) * band.dim);
        level_rows += kMeanRows;
      }
      kernels.level_dots(levels_.data(), level_rows, band.dim,
                         tile_.prepared.rotated.data() + queries, rows_, sums_.data(), level_rows);
      float scales[kPageTokens];
      scan.f16_to_f32(reinterpret_cast<const uint16_t*>(head_page + band.scales), kPageTokens,
                      scales);
      for (size_t r = 0; r < rows_; ++r) {
        const float query_scale = tile_.prepared.scales[b * rows_ + r];
        const int32_t* sums = sums_.data() + r * level_rows;
        const float mean = has_mean ? mean_scales[0] * static_cast<float>(sums[kPageTokens]) : 0.0f;
        float* scores = scores_.data() + r * kPageTokens;
        for (size_t t = 0; t < kPageTokens; ++t) {
          const float score = query_scale * (scales[t] * static_cast<float>(sums[t]) + mean);
          scores[t] = b == 0 ? score : scores[t] + score;
        }
      }
      at += band.dim;
      queries += rows_ * band.dim;
    }
    Softcap();
    if (!Mask(position, entry.tokens)) return;

    // ---- Values ----
    float masses[kTileRows];
    for (size_t r = 0; r < rows_; ++r) {
      masses[r] = Probabilities(r, out_->rotated.data() + r * v_rotated_, v_rotated_);
    }
    const PartFormat& v = call_.format.v;
    weights_.resize(kTileRows * kPageTokens);
    at = 0;
    for (size_t b = 0; b < v.bands.size(); ++b) {
      const BandFormat& band = v.bands[b];
      float scales[kPageTokens];
      scan.f16_to_f32(reinterpret_cast<const uint16_t*>(head_page + band.scales), kPageTokens,
                      scales);
      float weight_scales[kTileRows];
      for (size_t r = 0; r < rows_; ++r) {
        float weighted[kPageTokens];
        const float* probabilities = scores_.data() + r * kPageTokens;
        for (size_t t = 0; t < kPageTokens; ++t) {
          weighted[t] = masses[r] == 0 ? 0.0f : probabilities[t] * scales[t];
        }
        const float largest = kernels.max_abs(weighted, kPageTokens);
        weight_scales[r] = largest / 32767;
        kernels.quantize_i16(weighted, kPageTokens, largest > 0 ? 32767 / largest : 0.0f,
                             weights_.data() + r * kPageTokens);
      }
      kernels.unpack_levels(head_page + band.codes, band.dim, kPageTokens, band.bits,
                            call_.v_codec.codebook(b).levels, levels_.data());
      kernels.level_dots(levels_.data(), band.dim, kPageTokens, weights_.data(), rows_,
                         sums_.data(), band.dim);
      for (size_t r = 0; r < rows_; ++r) {
        kernels.add_scaled_i32(sums_.data() + r * band.dim, band.dim, weight_scales[r],
                               out_->rotated.data() + r * v_rotated_ + at);
      }
      at += band.dim;
    }
    if (!v.has_mean) return;
    const auto* mean = reinterpret_cast<const int8_t*>(head_page + v.mean);
    for (size_t r = 0; r < rows_; ++r) {
      const float factor = masses[r] * mean_scales[1];
      float* to = out_->rotated.data() + r * v_rotated_;
      for (size_t j = 0; j < dim_; ++j) to[j] += factor * static_cast<float>(mean[j]);
    }
  }

  // Tokens begin..end of `raw`, at most 64.
  void Raw(const RawTokens& raw, size_t begin, size_t end, uint64_t position) {
    const size_t n = end - begin;
    if (SeesNothing(position, n)) return;
    const ScanKernels& scan = Kernels();
    const quash_kv_dtype dtype = call_.options.dtype;
    const size_t head_bytes = dim_ * ElementBytes(dtype);
    const size_t token_bytes = head_bytes * call_.options.num_kv_heads;
    const size_t offset = begin * token_bytes + tile_.kv_head * head_bytes;
    row_.resize(dim_);
    for (size_t t = 0; t < n; ++t) {
      ToFloat(dtype, raw.k.data() + offset + t * token_bytes, dim_, row_.data());
      for (size_t r = 0; r < rows_; ++r) {
        scores_[r * kPageTokens + t] =
            scan.dot_f32(row_.data(), tile_.prepared.plain.data() + r * dim_, dim_);
      }
    }
    Softcap();
    if (!Mask(position, n)) return;
    float masses[kTileRows];
    for (size_t r = 0; r < rows_; ++r) {
      masses[r] = Probabilities(r, out_->plain.data() + r * dim_, dim_);
    }
    for (size_t t = 0; t < n; ++t) {
      ToFloat(dtype, raw.v.data() + offset + t * token_bytes, dim_, row_.data());
      for (size_t r = 0; r < rows_; ++r) {
        if (masses[r] == 0) continue;
        Attend().add_scaled_f32(row_.data(), dim_, scores_[r * kPageTokens + t],
                                out_->plain.data() + r * dim_);
      }
    }
  }

  const Call& call_;
  const Tile& tile_;
  const size_t rows_, dim_, v_rotated_;
  Partial* out_ = nullptr;
  std::vector<float> scores_;  // [rows, 64]
  std::vector<int8_t> levels_;
  std::vector<int32_t> sums_;
  std::vector<int16_t> weights_;
  std::vector<float> row_;
};

// Sinks, pages and open tokens, in order.
std::vector<Chunk> MakeChunks(const LayerTokens& tokens, bool cut_pages) {
  std::vector<Chunk> chunks;
  uint64_t position = 0;
  const auto raw = [&](const RawTokens& part) {
    const size_t step = cut_pages ? kChunkPages * kPageTokens : part.tokens;
    for (size_t t = 0; t < part.tokens; t += step) {
      const size_t end = std::min<size_t>(part.tokens, t + step);
      chunks.push_back({true, &part, t, end, position + t});
    }
    position += part.tokens;
  };
  raw(tokens.sinks);
  const size_t step = cut_pages ? kChunkPages : std::max<size_t>(tokens.pages.size(), 1);
  for (size_t p = 0; p < tokens.pages.size(); p += step) {
    const size_t end = std::min(tokens.pages.size(), p + step);
    chunks.push_back({false, nullptr, p, end, position});
    for (size_t i = p; i < end; ++i) position += tokens.pages[i].tokens;
  }
  raw(tokens.open);
  return chunks;
}

Status Prepare(const Call& call, Tile* tile) {
  const size_t rows = tile->rows.size();
  const size_t dim = call.options.head_dim;
  const PartCodec& codec = call.k_codec;
  const AttendKernels& kernels = Attend();
  PreparedTile& prepared = tile->prepared;
  prepared.plain.resize(rows * dim);
  prepared.rotated.resize(rows * codec.rotated_floats());
  prepared.scales.resize(codec.format().bands.size() * rows);
  std::vector<float> rotated(codec.rotated_floats()), scratch(codec.scratch_floats());
  const ArrayView q = {call.args.q, call.args.dtype, call.args.q_token_stride,
                       call.args.q_head_stride};
  for (size_t r = 0; r < rows; ++r) {
    const QueryRow& row = tile->rows[r];
    float* plain = prepared.plain.data() + r * dim;
    ToFloat(q.dtype, q.Row(row.row, row.head), dim, plain);
    // A softmax of NaN would leave its chunk out and give an answer that looks right.
    if (!AllFinite(plain, dim)) {
      return Invalid("q of row {}, head {} has NaN or infinity, expected finite numbers", row.row,
                     row.head);
    }
    double square = 0;
    for (size_t j = 0; j < dim; ++j) {
      plain[j] *= call.scale;
      square += double{plain[j]} * plain[j];
    }
    if (!(square <= double{kLargestQuery} * kLargestQuery)) {
      return Invalid("q of row {}, head {} times scale has norm {:.3g}, expected at most {:.3g}",
                     row.row, row.head, std::sqrt(square), kLargestQuery);
    }
    codec.Rotate(plain, rotated.data(), scratch.data());
    size_t at = 0;
    for (size_t b = 0; b < codec.format().bands.size(); ++b) {
      const size_t band_dim = codec.format().bands[b].dim;
      const float largest = kernels.max_abs(rotated.data() + at, band_dim);
      prepared.scales[b * rows + r] = largest / 32767;
      kernels.quantize_i16(rotated.data() + at, band_dim, largest > 0 ? 32767 / largest : 0.0f,
                           prepared.rotated.data() + rows * at + r * band_dim);
      at += band_dim;
    }
  }
  return Status();
}

// Merges the chunks of a tile and writes its rows.
void Finish(const Call& call, const Tile& tile) {
  const size_t dim = call.options.head_dim;
  const PartCodec& codec = call.v_codec;
  std::vector<float> rotated(codec.rotated_floats()), plain(dim), out(dim);
  std::vector<float> scratch(codec.scratch_floats());
  for (size_t r = 0; r < tile.rows.size(); ++r) {
    float top = -kInfinity;
    for (const Partial& part : tile.partials) top = std::max(top, part.top[r]);
    std::fill(rotated.begin(), rotated.end(), 0.0f);
    std::fill(plain.begin(), plain.end(), 0.0f);
    float mass = 0;
    for (const Partial& part : tile.partials) {
      if (part.top[r] == -kInfinity) continue;
      const float weight = std::exp(part.top[r] - top);
      mass += weight * part.mass[r];
      if (!part.rotated.empty()) {
        Attend().add_scaled_f32(part.rotated.data() + r * rotated.size(), rotated.size(), weight,
                                rotated.data());
      }
      if (!part.plain.empty()) {
        Attend().add_scaled_f32(part.plain.data() + r * dim, dim, weight, plain.data());
      }
    }
    codec.RotateBack(rotated.data(), out.data(), scratch.data());
    for (size_t j = 0; j < dim; ++j) out[j] = (out[j] + plain[j]) / mass;
    const QueryRow& row = tile.rows[r];
    const ArrayView to = {call.args.out, call.args.dtype, call.args.out_token_stride,
                          call.args.out_head_stride};
    FromFloat(call.args.dtype, out.data(), dim, const_cast<uint8_t*>(to.Row(row.row, row.head)));
    if (call.args.lse != nullptr) {
      call.args.lse[row.row * call.args.num_q_heads + row.head] = top + std::log(mass);
    }
  }
}

Status CheckArgs(const quash_kv_attend_args& args, const quash_kv_options& options,
                 uint64_t* rows) {
  if (args.num_q_heads == 0 || args.num_q_heads > 65536 ||
      args.num_q_heads % options.num_kv_heads != 0) {
    return Invalid("num_q_heads is {}, expected a multiple of num_kv_heads, {}", args.num_q_heads,
                   options.num_kv_heads);
  }
  if (!IsDtype(args.dtype)) {
    return Invalid("dtype is {}, expected f32, f16 or bf16", static_cast<int>(args.dtype));
  }
  if (!std::isfinite(args.scale) || args.scale < 0) {
    return Invalid("scale is {}, expected a number >= 0", args.scale);
  }
  if (!std::isfinite(args.softcap) || args.softcap < 0) {
    return Invalid("softcap is {}, expected a number >= 0", args.softcap);
  }
  if (args.num_seqs > 1u << 24) {
    return Invalid("num_seqs is {}, expected at most {}", args.num_seqs, 1u << 24);
  }
  *rows = args.num_seqs;
  if (args.num_seqs == 0) return Status();
  if (args.seqs == nullptr) return Invalid("seqs is NULL, expected {} sequences", args.num_seqs);
  if (args.cu_queries != nullptr) {
    if (args.cu_queries[0] != 0) {
      return Invalid("cu_queries[0] is {}, expected 0", args.cu_queries[0]);
    }
    for (size_t i = 0; i < args.num_seqs; ++i) {
      if (args.cu_queries[i + 1] < args.cu_queries[i]) {
        return Invalid("cu_queries[{}] is {}, below the one before", i + 1, args.cu_queries[i + 1]);
      }
    }
    *rows = args.cu_queries[args.num_seqs];
    if (*rows > uint64_t{1} << 32) return Invalid("{} query rows, expected at most 2^32", *rows);
  }
  if (*rows == 0) return Status();
  if (args.q == nullptr) return Invalid("q is NULL, expected {} rows", *rows);
  if (args.out == nullptr) return Invalid("out is NULL, expected {} rows", *rows);
  if (!StridesFit(*rows, args.num_q_heads, options.head_dim, args.q_token_stride,
                  args.q_head_stride) ||
      !StridesFit(*rows, args.num_q_heads, options.head_dim, args.out_token_stride,
                  args.out_head_stride)) {
    return Invalid("strides reach past the address space");
  }
  return Status();
}

}  // namespace

Status Cache::Attend(const quash_kv_attend_args& args) const {
  uint64_t num_rows = 0;
  QUASH_KV_RETURN_IF_ERROR(CheckArgs(args, options_, &num_rows));
  std::vector<std::shared_ptr<Sequence>> sequences(args.num_seqs);
  for (size_t i = 0; i < args.num_seqs; ++i) {
    QUASH_KV_RETURN_IF_ERROR(FindLayer(args.seqs[i], args.layer, &sequences[i]));
  }
  const float scale =
      args.scale != 0 ? args.scale : 1 / std::sqrt(static_cast<float>(options_.head_dim));
  const Call call = {args, options_, format_, *k_codec_, *v_codec_, scale};
  const uint32_t group = args.num_q_heads / options_.num_kv_heads;

  std::vector<Tile> tiles;
  std::vector<std::vector<Chunk>> chunks(args.num_seqs);
  for (size_t i = 0; i < args.num_seqs; ++i) {
    const uint64_t first = args.cu_queries != nullptr ? args.cu_queries[i] : i;
    const uint64_t n = args.cu_queries != nullptr ? args.cu_queries[i + 1] - first : 1;
    if (n == 0) continue;
    const LayerTokens& tokens = sequences[i]->layers[args.layer];
    const uint64_t length = tokens.length();
    if (length == 0)
      return Invalid("sequence {} has no tokens in layer {}", args.seqs[i], args.layer);
    if (args.causal != 0 && n > length) {
      return Invalid("sequence {} has {} queries and {} tokens, expected no more queries",
                     args.seqs[i], n, length);
    }
    const uint64_t tiles_per_head = (n * group + kTileRows - 1) / kTileRows;
    chunks[i] = MakeChunks(tokens, tiles_per_head < kManyTiles);
    for (uint32_t kv_head = 0; kv_head < options_.num_kv_heads; ++kv_head) {
      for (uint64_t begin = 0; begin < n * group; begin += kTileRows) {
        Tile tile;
        tile.tokens = &tokens;
        tile.chunks = &chunks[i];
        tile.kv_head = kv_head;
        for (uint64_t x = begin; x < std::min(n * group, begin + kTileRows); ++x) {
          // Newest token that the query is: it sees itself and what came before.
          const uint64_t query = x / group;
          const uint64_t end = args.causal != 0 ? length - n + query + 1 : length;
          const uint64_t seen = args.window != 0 ? std::min(end, args.window) : end;
          tile.rows.push_back({first + query,
                               static_cast<uint32_t>(kv_head * group + x % group),
                               {end - seen, end}});
        }
        tiles.push_back(std::move(tile));
      }
    }
  }
  const size_t threads = ThreadCount(options_.threads);
  struct Task {
    Tile* tile;
    size_t chunk;
  };
  std::vector<Task> tasks;
  for (size_t first = 0; first < tiles.size(); first += kTilesAtOnce) {
    const std::span<Tile> some(tiles.data() + first, std::min(kTilesAtOnce, tiles.size() - first));
    tasks.clear();
    for (Tile& tile : some) {
      tile.partials.resize(tile.chunks->size());
      for (size_t c = 0; c < tile.chunks->size(); ++c) tasks.push_back({&tile, c});
    }
    QUASH_KV_RETURN_IF_ERROR(ParallelFor(
        some.size(), threads, [&](size_t i, size_t) { return Prepare(call, &some[i]); }));
    QUASH_KV_RETURN_IF_ERROR(ParallelFor(tasks.size(), threads, [&](size_t i, size_t) {
      const auto [tile, chunk] = tasks[i];
      TaskRunner(call, *tile).Run((*tile->chunks)[chunk], &tile->partials[chunk]);
      return Status();
    }));
    QUASH_KV_RETURN_IF_ERROR(ParallelFor(some.size(), threads, [&](size_t i, size_t) {
      Finish(call, some[i]);
      some[i].prepared = {};
      some[i].partials = {};
      return Status();
    }));
  }
  return Status();
}

}  // namespace quash::kv
