#include "tests/fuzz/kv_calls.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <vector>

#include "quash_kv.h"
#include "tests/fuzz/kv_inputs.h"

#define EXPECT(condition)                                                                   \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      std::fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", __FILE__, __LINE__, \
                   #condition, quash_kv_errmsg());                                          \
      std::abort();                                                                         \
    }                                                                                       \
  } while (0)

namespace {

using kv_fuzz::Array;
using kv_fuzz::Bytes;
using kv_fuzz::ElementBytes;
using kv_fuzz::IsStatus;
using kv_fuzz::Known;
using kv_fuzz::Strided;

constexpr size_t kCalls = 48;
constexpr uint64_t kTokensOfLayer = 260;  // four pages; more are not appended, for speed
constexpr size_t kSequences = 8;

class Driver {
 public:
  explicit Driver(Bytes* bytes) : bytes_(*bytes) {}
  ~Driver() { quash_kv_free(cache_); }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  void Run() {
    constexpr void (Driver::*kActions[])() = {
        &Driver::CreateSequence, &Driver::Append, &Driver::Append,         &Driver::Append,
        &Driver::Append,         &Driver::Fork,   &Driver::Truncate,       &Driver::Seal,
        &Driver::Free,           &Driver::Read,   &Driver::SaveAndRestore, &Driver::SaveAndRestore,
        &Driver::NullPointers,   &Driver::Attend, &Driver::Attend,         &Driver::Attend};
    if (!Create()) return;
    for (size_t call = 0; call < kCalls && !bytes_.empty(); ++call) {
      (this->*kActions[bytes_.Byte() % std::size(kActions)])();
      CheckAccounts();
    }
    Finish();
  }

 private:
  // Its status is one that the header lists for bad input; a failure has a
  // message and leaves the whole cache as it was.
  template <typename Call>
  quash_kv_status Checked(Call&& call) {
    const quash_kv_stats before = StatsOf(0);
    const quash_kv_status status = call();
    EXPECT(IsStatus(status));
    if (status != QUASH_KV_OK) {
      EXPECT(quash_kv_errmsg()[0] != '\0');
      const quash_kv_stats after = StatsOf(0);
      EXPECT(std::memcmp(&before, &after, sizeof(before)) == 0);
    }
    if (status == QUASH_KV_FULL) EXPECT(options_.memory_budget_bytes != 0);
    return status;
  }

  bool Create() {
    quash_kv_options_init(&options_);
    options_.num_layers = bytes_.Pick<uint32_t>({1, 2, 3});
    options_.num_kv_heads = bytes_.Pick<uint32_t>({1, 2, 3});
    // Mostly the smallest: what is made of pages does not depend on it, the time does.
    options_.head_dim =
        bytes_.Pick<uint32_t>({16, 16, 16, 16, 16, 32, 16, 48, 16, 64, 16, 80, 144});
    options_.k_bits = bytes_.Pick({2.0f, 3.0f, 4.0f, 2.5f, 3.5f});
    options_.v_bits = bytes_.Pick({2.0f, 3.0f, 4.0f, 2.5f, 3.5f});
    options_.k_quantizer = bytes_.OneIn(3) ? QUASH_KV_TQ_PROD : QUASH_KV_TQ_MSE;
    options_.rotation = bytes_.OneIn(4) ? QUASH_KV_DENSE : QUASH_KV_HADAMARD;
    options_.dtype = bytes_.Pick({QUASH_KV_F32, QUASH_KV_F16, QUASH_KV_BF16});
    options_.sink_pages = bytes_.Pick<uint32_t>({0, 1, 2});
    options_.reserve = bytes_.Pick<uint32_t>({0, 1, 16, 70});
    options_.k_mean = bytes_.Byte() % 2;
    options_.v_mean = bytes_.Byte() % 2;
    options_.memory_budget_bytes = bytes_.Pick<uint64_t>({0, 0, 20000, 200000});
    options_.threads = bytes_.OneIn(64) ? 2 : 1;  // tests/kvcache has the tests of threads
    const uint32_t layer = 0;
    if (bytes_.OneIn(4))
      options_.uncompressed_layers = &layer, options_.num_uncompressed_layers = 1;
    std::vector<uint32_t> outliers(options_.head_dim / 2);
    for (uint32_t i = 0; i < outliers.size(); ++i) outliers[i] = options_.head_dim - 1 - 2 * i;
    if (bytes_.OneIn(4)) options_.k_outliers = outliers.data();
    if (bytes_.OneIn(4)) {
      options_.v_outliers = outliers.data();
      if (bytes_.OneIn(4)) outliers[0] = bytes_.Byte();
    }
    if (bytes_.OneIn(8)) {  // which takes few formats
      options_.rotation = QUASH_KV_RHT;
      options_.head_dim = 64;
      options_.k_quantizer = QUASH_KV_TQ_MSE;
      options_.k_bits = std::floor(options_.k_bits);
      options_.v_bits = std::floor(options_.v_bits);
      options_.k_outliers = options_.v_outliers = nullptr;
    }
    if (bytes_.OneIn(6)) SpoilOptions();
    const quash_kv_status status = quash_kv_create(&options_, &cache_);
    EXPECT(IsStatus(status));
    EXPECT((status == QUASH_KV_OK) == (cache_ != nullptr));
    const bool may_be_unsupported = options_.rotation == QUASH_KV_RHT;
    if (status != QUASH_KV_OK) {
      EXPECT(status == QUASH_KV_INVALID ||
             (status == QUASH_KV_UNSUPPORTED && may_be_unsupported));
      EXPECT(quash_kv_errmsg()[0] != '\0');
    }
    heads_ = options_.num_kv_heads;
    dim_ = options_.head_dim;
    token_bytes_ = 2 * size_t{heads_} * dim_ * ElementBytes(options_.dtype);
    return status == QUASH_KV_OK;
  }

  void SpoilOptions() {
    const auto odd = static_cast<uint32_t>(bytes_.Odd());
    switch (bytes_.Byte() % 9) {
      case 0:
        // Memory that an honest caller of these sizes would need is fine; it
        // only takes long to fill. Sizes out of range are the point.
        options_.num_layers = odd > 8 && odd <= 1024 ? 0 : odd;
        break;
      case 1:
        options_.num_kv_heads = odd > 8 && odd <= 1024 ? 0 : odd;
        break;
      case 2:
        // The outliers would be more than there are.
        options_.head_dim = odd <= 512 ? 17 : odd;
        break;
      case 3:
        options_.k_bits = bytes_.OddFloat();
        break;
      case 4:
        options_.k_quantizer = static_cast<quash_kv_quantizer>(2);
        break;
      case 5:
        options_.dtype = static_cast<quash_kv_dtype>(3);
        break;
      case 6:
        options_.sink_pages = odd;
        break;
      case 7:
        options_.reserve = odd;
        break;
      default:
        options_.struct_size = bytes_.Pick<size_t>({0, 7, 5000, SIZE_MAX});
    }
  }

  quash_kv_stats StatsOf(quash_kv_seq seq) {
    quash_kv_stats stats = {};
    stats.struct_size = sizeof(stats);
    EXPECT(quash_kv_get_stats(cache_, seq, &stats) == QUASH_KV_OK);
    return stats;
  }

  // A sequence, or now and then the number of none.
  quash_kv_seq AnySequence() {
    if (known_.empty() || bytes_.OneIn(24)) return bytes_.OneIn(2) ? bytes_.Word() | 1ull << 40 : 0;
    auto at = known_.begin();
    std::advance(at, bytes_.Byte() % known_.size());
    return at->first;
  }
  uint32_t AnyLayer() {
    return bytes_.OneIn(24) ? static_cast<uint32_t>(bytes_.Odd())
                            : bytes_.Byte() % options_.num_layers;
  }
  bool Knows(quash_kv_seq seq, uint32_t layer = 0) const {
    return known_.count(seq) != 0 && layer < options_.num_layers;
  }
  // What it costs to look at everything.
  bool HasRoom() const { return known_.size() < kSequences; }

  void CreateSequence() {
    if (!HasRoom()) return;
    quash_kv_seq seq = 0;
    EXPECT(quash_kv_seq_create(cache_, &seq) == QUASH_KV_OK);
    EXPECT(seq != 0 && seq > newest_);
    newest_ = seq;
    known_[seq].lengths.assign(options_.num_layers, 0);
  }

  // Every length is what it was or became, and the sequence's numbers add up.
  void CheckLengths(quash_kv_seq seq) {
    for (uint32_t layer = 0; layer < options_.num_layers; ++layer) {
      uint64_t length = 0;
      EXPECT(quash_kv_seq_length(cache_, seq, layer, &length) == QUASH_KV_OK);
      EXPECT(length == known_[seq].lengths[layer]);
    }
  }

  // Keys, then values, of the first `n` tokens.
  std::vector<float> ReadFront(quash_kv_seq seq, uint32_t layer, uint64_t n) {
    const size_t half = n * heads_ * dim_;
    std::vector<float> all(2 * half + 1);
    EXPECT(quash_kv_read(cache_, seq, layer, 0, n, all.data(), all.data() + half) == QUASH_KV_OK);
    return all;
  }
  static bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

  void Append() {
    if (known_.empty()) CreateSequence();
    const quash_kv_seq seq = AnySequence();
    const uint32_t layer = AnyLayer();
    uint64_t n = bytes_.Pick<uint64_t>({0, 1, 2, 5, 16, 63, 64, 65, 3, 128, 1, 130, 31});
    if (Knows(seq, layer) && known_[seq].lengths[layer] + n > kTokensOfLayer) n = 1;
    quash_kv_dtype dtype = bytes_.Pick({QUASH_KV_F32, QUASH_KV_F16, QUASH_KV_BF16});
    Strided k(&bytes_, n, heads_, dim_, dtype, true);
    Array v(k.array.elements(), dtype);
    v.Fill(bytes_.Byte(), bytes_.Byte());
    const void *k_data = k.data(), *v_data = v.at(k.first);
    int64_t row_stride = k.row_stride;
    const int stream = 0;
    bool valid = Knows(seq, layer);
    if (n >= 2 && bytes_.OneIn(10)) {
      valid = false;
      switch (bytes_.Byte() % 6) {
        case 0:
          dtype = static_cast<quash_kv_dtype>(bytes_.Pick({-1, 3, 1 << 20}));
          break;
        case 1:
          n = bytes_.Pick<uint64_t>({(1ull << 32) + 1, 1ull << 63, UINT64_MAX});
          break;
        case 2:
          row_stride = bytes_.Pick<int64_t>({INT64_MAX, INT64_MIN, INT64_MAX / 2 + 1});
          break;
        case 3:
          (bytes_.OneIn(2) ? k_data : v_data) = nullptr;
          break;
        default: {
          const float odd = bytes_.Pick({std::nanf(""), std::numeric_limits<float>::infinity(),
                                         -std::numeric_limits<float>::infinity()});
          const size_t at =
              k.Index(bytes_.Byte() % n, bytes_.Byte() % heads_) + bytes_.Byte() % dim_;
          (bytes_.OneIn(2) ? k.array : v).Set(at, odd);
        }
      }
    }
    const bool on_stream = bytes_.OneIn(40);
    const quash_kv_status status = Checked([&] {
      return quash_kv_append(cache_, seq, layer, k_data, v_data, n, dtype, row_stride,
                             k.head_stride, on_stream ? const_cast<int*>(&stream) : nullptr);
    });
    valid = valid && !on_stream;
    EXPECT(valid ? status == QUASH_KV_OK || status == QUASH_KV_FULL : status != QUASH_KV_OK);
    if (status == QUASH_KV_OK) known_[seq].lengths[layer] += n;
    if (known_.count(seq) != 0) CheckLengths(seq);
  }

  uint64_t AnyLength() {
    return bytes_.Pick<uint64_t>(
        {UINT64_MAX, 0, 1, 63, 64, 100, bytes_.Byte() * 3ull, bytes_.Byte() * 3ull, bytes_.Odd()});
  }

  void Fork() {
    if (!HasRoom()) return;
    const quash_kv_seq from = AnySequence();
    const uint64_t length = AnyLength();
    quash_kv_seq fork = 0;
    const quash_kv_status status =
        Checked([&] { return quash_kv_seq_fork(cache_, from, length, &fork); });
    if (!Knows(from)) EXPECT(status == QUASH_KV_NOT_FOUND);
    if (status != QUASH_KV_OK) {
      EXPECT(status == QUASH_KV_FULL || !Knows(from));
      return;
    }
    EXPECT(fork > newest_);
    newest_ = fork;
    Known copy = known_[from];
    for (uint64_t& tokens : copy.lengths) tokens = std::min(tokens, length);
    known_[fork] = copy;
    CheckLengths(fork);
    CheckLengths(from);
    const uint32_t layer = bytes_.Byte() % options_.num_layers;
    const uint64_t n = copy.lengths[layer];
    EXPECT(SameBits(ReadFront(fork, layer, n), ReadFront(from, layer, n)));
  }

  void Truncate() {
    const quash_kv_seq seq = AnySequence();
    const uint64_t length = AnyLength();
    if (!Knows(seq)) {
      EXPECT(Checked([&] { return quash_kv_seq_truncate(cache_, seq, length); }) ==
             QUASH_KV_NOT_FOUND);
      return;
    }
    const uint32_t layer = bytes_.Byte() % options_.num_layers;
    const uint64_t n = std::min(known_[seq].lengths[layer], length);
    const std::vector<float> before = ReadFront(seq, layer, n);
    EXPECT(quash_kv_seq_truncate(cache_, seq, length) == QUASH_KV_OK);
    for (uint64_t& tokens : known_[seq].lengths) tokens = std::min(tokens, length);
    CheckLengths(seq);
    EXPECT(SameBits(ReadFront(seq, layer, n), before));
  }

  void Seal() {
    const quash_kv_seq seq = AnySequence();
    const quash_kv_status status = Checked([&] { return quash_kv_seq_seal(cache_, seq); });
    EXPECT(Knows(seq) ? status == QUASH_KV_OK || status == QUASH_KV_FULL
                      : status == QUASH_KV_NOT_FOUND);
    if (Knows(seq)) CheckLengths(seq);
  }

  void Free() {
    const quash_kv_seq seq = AnySequence();
    const quash_kv_status status = Checked([&] { return quash_kv_seq_free(cache_, seq); });
    EXPECT(status == (Knows(seq) ? QUASH_KV_OK : QUASH_KV_NOT_FOUND));
    known_.erase(seq);
    uint64_t length = 0;
    EXPECT(quash_kv_seq_length(cache_, seq, 0, &length) == QUASH_KV_NOT_FOUND);
  }

  void Read() {
    const quash_kv_seq seq = AnySequence();
    const uint32_t layer = AnyLayer();
    uint64_t begin = bytes_.Byte(), n = bytes_.Byte();
    if (bytes_.OneIn(8)) (bytes_.OneIn(2) ? begin : n) = bytes_.Odd();
    const uint64_t length = Knows(seq, layer) ? known_[seq].lengths[layer] : 0;
    const bool valid = Knows(seq, layer) && begin <= length && n <= length - begin;
    const size_t values = valid ? n * heads_ * dim_ : 0;
    const std::unique_ptr<float[]> k(new float[values]), v(new float[values]);
    const bool with_k = !bytes_.OneIn(8), with_v = !bytes_.OneIn(8);
    const quash_kv_status status = Checked([&] {
      return quash_kv_read(cache_, seq, layer, begin, n, with_k ? k.get() : nullptr,
                           with_v ? v.get() : nullptr);
    });
    EXPECT((status == QUASH_KV_OK) == valid);
    if (!valid || known_[seq].foreign) return;
    for (size_t i = 0; i < values; ++i) {
      EXPECT(!with_k || std::isfinite(k[i]));
      EXPECT(!with_v || std::isfinite(v[i]));
    }
  }

  void SaveAndRestore() {
    const quash_kv_seq seq = AnySequence();
    uint8_t* saved = nullptr;
    size_t size = 0;
    const quash_kv_status status =
        Checked([&] { return quash_kv_seq_save(cache_, seq, &saved, &size); });
    EXPECT(status == (Knows(seq) ? QUASH_KV_OK : QUASH_KV_NOT_FOUND));
    if (status != QUASH_KV_OK) return;
    std::vector<uint8_t> bytes(saved, saved + size);
    quash_kv_bytes_free(saved);
    bool may_fit = false;
    const auto kind = bytes_.Byte() % 4;
    if (kind == 0) {  // as saved
      may_fit = true;
    } else if (kind == 1) {
      bytes[bytes_.Word() % size] += static_cast<uint8_t>(1 + bytes_.Byte() % 255);
    } else if (kind == 2) {
      bytes.resize(bytes_.OneIn(3) ? size + 1 + bytes_.Byte() : bytes_.Word() % size);
      bytes.shrink_to_fit();
    } else {
      may_fit = true;
      kv_fuzz::Forge(&bytes, &bytes_);
    }
    const std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), exact.get());
    quash_kv_seq restored = 0;
    const quash_kv_status outcome =
        Checked([&] { return quash_kv_seq_restore(cache_, exact.get(), bytes.size(), &restored); });
    if (!may_fit) EXPECT(outcome == QUASH_KV_CORRUPT);
    if (kind == 0) EXPECT(outcome == QUASH_KV_OK || outcome == QUASH_KV_FULL);
    if (outcome != QUASH_KV_OK) {
      EXPECT(outcome == QUASH_KV_CORRUPT || outcome == QUASH_KV_FULL);
      return;
    }
    EXPECT(restored > newest_);
    newest_ = restored;
    Known copy = known_[seq];
    if (kind == 0) {
      known_[restored] = copy;
      CheckLengths(restored);
      const uint32_t layer = bytes_.Byte() % options_.num_layers;
      EXPECT(SameBits(ReadFront(restored, layer, copy.lengths[layer]),
                      ReadFront(seq, layer, copy.lengths[layer])));
      EXPECT(quash_kv_seq_save(cache_, restored, &saved, &size) == QUASH_KV_OK);
      EXPECT(size == bytes.size() && std::memcmp(saved, bytes.data(), size) == 0);
      quash_kv_bytes_free(saved);
    } else {
      copy.foreign = true;
      for (uint32_t layer = 0; layer < options_.num_layers; ++layer) {
        EXPECT(quash_kv_seq_length(cache_, restored, layer, &copy.lengths[layer]) == QUASH_KV_OK);
      }
      known_[restored] = copy;
    }
    if (known_.size() > kSequences) {
      EXPECT(quash_kv_seq_free(cache_, restored) == QUASH_KV_OK);
      known_.erase(restored);
    }
  }

  void NullPointers() {
    const quash_kv_seq seq = AnySequence();
    quash_kv_seq other = 0;
    uint64_t length = 0;
    size_t size = 0;
    uint8_t* bytes = nullptr;
    quash_kv_stats stats = {};
    EXPECT(quash_kv_create(nullptr, nullptr) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_create(nullptr, &other) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_create(cache_, nullptr) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_fork(cache_, seq, 1, nullptr) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_free(nullptr, seq) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_length(cache_, seq, 0, nullptr) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_length(nullptr, seq, 0, &length) == QUASH_KV_INVALID);
    EXPECT(quash_kv_attend(cache_, nullptr) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_save(cache_, seq, nullptr, &size) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_save(cache_, seq, &bytes, nullptr) == QUASH_KV_INVALID);
    EXPECT(quash_kv_seq_restore(cache_, nullptr, 8, &other) == QUASH_KV_INVALID);
    EXPECT(quash_kv_get_stats(cache_, 0, nullptr) == QUASH_KV_INVALID);
    EXPECT(quash_kv_get_stats(cache_, 0, &stats) == QUASH_KV_INVALID);  // no struct_size
    quash_kv_bytes_free(nullptr);
    quash_kv_free(nullptr);
  }

  void Attend();

  void CheckAccounts() {
    const quash_kv_stats all = StatsOf(0);
    quash_kv_stats sums = {};
    for (const auto& [seq, known] : known_) {
      const quash_kv_stats one = StatsOf(seq);
      uint64_t tokens = 0;
      for (const uint64_t length : known.lengths) tokens += length;
      EXPECT(one.sequences == 1 && one.tokens == tokens);
      EXPECT(one.packed_bytes == one.pages * one.page_bytes);
      EXPECT(one.total_bytes == one.packed_bytes + one.open_bytes + one.table_bytes);
      EXPECT(one.open_bytes % token_bytes_ == 0 && one.open_bytes / token_bytes_ <= tokens);
      EXPECT(all.pages >= one.pages);
      sums.tokens += one.tokens;
      sums.pages += one.pages;
      sums.open_bytes += one.open_bytes;
      sums.table_bytes += one.table_bytes;
      sums.f16_bytes += one.f16_bytes;
    }
    EXPECT(all.sequences == known_.size());
    EXPECT(all.tokens == sums.tokens && all.f16_bytes == sums.f16_bytes);
    EXPECT(all.open_bytes == sums.open_bytes && all.table_bytes == sums.table_bytes);
    EXPECT(all.pages <= sums.pages);  // shared ones once
    EXPECT(all.packed_bytes == all.pages * all.page_bytes);
    EXPECT(all.total_bytes == all.packed_bytes + all.open_bytes + all.table_bytes);
    EXPECT(std::isfinite(all.compression_ratio));
    if (options_.memory_budget_bytes != 0) {
      EXPECT(all.packed_bytes + all.open_bytes <= options_.memory_budget_bytes);
    }
  }

  // All memory comes back, also to the budget.
  void Finish() {
    for (const auto& [seq, known] : known_) EXPECT(quash_kv_seq_free(cache_, seq) == QUASH_KV_OK);
    known_.clear();
    CheckAccounts();
    EXPECT(StatsOf(0).total_bytes == 0);
    const uint64_t budget = options_.memory_budget_bytes;
    if (budget == 0) return;
    const uint64_t n = std::min<uint64_t>(63, budget / token_bytes_);
    const std::vector<float> zeros(n * heads_ * dim_ + 1);
    quash_kv_seq seq = 0;
    EXPECT(quash_kv_seq_create(cache_, &seq) == QUASH_KV_OK);
    EXPECT(quash_kv_append(cache_, seq, 0, zeros.data(), zeros.data(), n, QUASH_KV_F32,
                           int64_t{heads_} * dim_, dim_, nullptr) == QUASH_KV_OK);
  }

  Bytes& bytes_;
  quash_kv_options options_;
  uint32_t heads_ = 0, dim_ = 0;
  size_t token_bytes_ = 0;  // keys and values as given
  quash_kv* cache_ = nullptr;
  quash_kv_seq newest_ = 0;
  std::map<quash_kv_seq, Known> known_;
};

void Driver::Attend() {
  const size_t num_seqs = bytes_.Pick<size_t>({1, 1, 2, 3, 4, 0});
  std::vector<quash_kv_seq> seqs(num_seqs);
  std::vector<uint64_t> cu = {0};
  quash_kv_attend_args args;
  quash_kv_attend_args_init(&args);
  args.layer = AnyLayer();
  args.causal = bytes_.Byte() % 2;
  const bool one_each = bytes_.OneIn(4);
  // Without sequences there is no layer to look up.
  bool valid = args.layer < options_.num_layers || num_seqs == 0, finite = true, odd = false;
  for (quash_kv_seq& seq : seqs) {
    seq = AnySequence();
    const uint64_t n = one_each ? 1 : bytes_.Pick<uint64_t>({1, 0, 2, 5, 17, 40});
    cu.push_back(cu.back() + n);
    if (!Knows(seq, args.layer)) {
      valid = false;
      continue;
    }
    const uint64_t length = known_[seq].lengths[args.layer];
    if (n > 0 && (length == 0 || (args.causal && n > length))) valid = false;
    if (known_[seq].foreign) finite = false;
  }
  const uint64_t rows = cu.back();
  const uint32_t q_heads = heads_ * bytes_.Pick<uint32_t>({1, 2, 4, 5});
  const quash_kv_dtype dtype = bytes_.Pick({QUASH_KV_F32, QUASH_KV_F16, QUASH_KV_BF16});
  Strided q(&bytes_, rows, q_heads, dim_, dtype, true);
  Strided out(&bytes_, rows, q_heads, dim_, dtype, false);
  std::vector<float> lse(rows * q_heads, std::nanf(""));
  for (size_t i = 0; i < out.array.elements(); ++i) out.array.Set(i, std::nanf(""));
  if (rows > 0 && bytes_.OneIn(16)) {
    odd = true;
    q.array.Set(q.Index(bytes_.Byte() % rows, bytes_.Byte() % q_heads), bytes_.OddFloat());
  }
  args.num_q_heads = q_heads;
  args.seqs = seqs.data();
  args.num_seqs = num_seqs;
  args.cu_queries = one_each ? nullptr : cu.data();
  args.q = q.data();
  args.out = out.data();
  const bool with_lse = !bytes_.OneIn(4);
  args.lse = with_lse ? lse.data() : nullptr;
  args.dtype = dtype;
  args.q_token_stride = q.row_stride, args.q_head_stride = q.head_stride;
  args.out_token_stride = out.row_stride, args.out_head_stride = out.head_stride;
  args.scale = bytes_.Pick({0.0f, 1.0f, 0.01f, 4.0f});
  args.softcap = bytes_.Pick({0.0f, 0.0f, 0.5f, 30.0f});
  args.window = bytes_.Pick<uint64_t>({0, 0, 1, 5, 64, 70, bytes_.Odd()});
  if (rows >= 2 && num_seqs >= 1 && bytes_.OneIn(6)) {
    bool spoiled = true;
    switch (bytes_.Byte() % 10) {
      case 0:
        args.num_q_heads = bytes_.Pick<uint32_t>({0, UINT32_MAX, 1 << 20});
        break;
      case 1:
        args.dtype = static_cast<quash_kv_dtype>(bytes_.Pick({-1, 3, 77}));
        break;
      case 2:
        args.scale = bytes_.Pick({-1.0f, std::nanf(""), std::numeric_limits<float>::infinity()});
        break;
      case 3:
        args.softcap = bytes_.Pick({-1.0f, std::nanf(""), std::numeric_limits<float>::infinity()});
        break;
      case 4:
        args.num_seqs = bytes_.Pick<size_t>({(1u << 24) + 1, SIZE_MAX});
        break;
      case 5:
        cu[0] = 1, args.cu_queries = cu.data();
        break;
      case 6:
        cu.back() = bytes_.Pick<uint64_t>({(1ull << 32) + 1, 1ull << 63, UINT64_MAX});
        args.cu_queries = cu.data();
        break;
      case 7:
        (bytes_.OneIn(2) ? args.q_token_stride : args.out_token_stride) =
            bytes_.Pick<int64_t>({INT64_MAX, INT64_MIN});
        break;
      case 8:
        if (bytes_.OneIn(2)) {
          args.seqs = nullptr;
        } else {
          args.out = nullptr;
        }
        break;
      default:
        args.scale = bytes_.Pick({1e30f, 3e38f, 1e-40f});
        spoiled = false, odd = true;
    }
    if (spoiled) valid = false;
  }
  const quash_kv_status status = Checked([&] { return quash_kv_attend(cache_, &args); });
  // Odd queries are refused where scores would not be finite.
  EXPECT((status == QUASH_KV_OK) == valid || (odd && status == QUASH_KV_INVALID));
  if (status != QUASH_KV_OK || !finite) return;
  for (uint64_t row = 0; row < rows; ++row) {
    for (uint32_t head = 0; head < q_heads; ++head) {
      EXPECT(!with_lse || std::isfinite(lse[row * q_heads + head]));
      for (uint32_t j = 0; j < dim_; ++j) {
        EXPECT(std::isfinite(out.array.Get(out.Index(row, head) + j)));
      }
    }
  }
}

}  // namespace

void RunKvCalls(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  Driver(&bytes).Run();
}
