// Serialized form. Little-endian; every array starts at a multiple of 8 bytes,
// the padding after it is zero. Nothing follows the last array.
//
//   offset  type                  content
//   0       u8                    version: 1
//   1       u8                    quash_field_type
//   2       u8[6]                 zero
//   8       u64                   rows
//   16      u64                   dictionary size: distinct values; 0 for bool, int, float
//   24      u64                   codes: rows for string, elements of all rows for the
//                                 lists; 0 for bool, int, float
//   32      u64                   dictionary bytes: of all distinct strings together;
//                                 0 but for string and string[]
//   40      u32[ceil(rows / 32)]  valid: bit r % 32 of word r / 32 set where row r is
//                                 not null; bits past the last row are zero
//
//   then for each type, in this order:
//   bool      u32[ceil(rows / 32)]       values, in bits as above
//   int       i64[rows]                  values
//   float     f64[rows]                  values, finite
//   string    u32[dictionary size + 1]   string offsets, from 0 to dictionary bytes
//             u8[dictionary bytes]       strings, ascending by bytes, distinct
//             u32[rows]                  codes: index of each row's string
//   int[]     i64[dictionary size]       values, ascending, distinct
//             u32[rows + 1]              row offsets into codes, from 0 to codes
//             u32[codes]                 codes
//   string[]  string offsets and strings as string, row offsets and codes as int[]
//
// Null rows hold the value 0, code 0 or no codes.
#include "libquashdb/column.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <unordered_map>

namespace quash {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are copied as they lie");

constexpr uint8_t kVersion = 1;
constexpr uint64_t kMaxIndex = std::numeric_limits<uint32_t>::max();  // rows, codes, offsets

struct Header {
  uint8_t version;
  uint8_t type;
  uint8_t zero[6];
  uint64_t rows;
  uint64_t dictionary_size;
  uint64_t codes;
  uint64_t dictionary_bytes;
};
static_assert(sizeof(Header) == 40 && std::is_trivially_copyable_v<Header>);

size_t NumWords(size_t rows) { return (rows + 31) / 32; }

bool IsList(quash_field_type type) {
  return type == QUASH_FIELD_INT_LIST || type == QUASH_FIELD_STRING_LIST;
}
bool HoldsStrings(quash_field_type type) {
  return type == QUASH_FIELD_STRING || type == QUASH_FIELD_STRING_LIST;
}

// Distinct values in order of first use, then sorted.
template <typename T>
class Dictionary {
 public:
  uint32_t Add(const T& value) {
    const auto [entry, is_new] = codes_.try_emplace(value, static_cast<uint32_t>(values_.size()));
    if (is_new) values_.push_back(value);
    return entry->second;
  }

  // Sorts the values and rewrites `codes` to match.
  void Sort(std::vector<uint32_t>* codes) {
    std::vector<uint32_t> order(values_.size());
    for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return values_[a] < values_[b]; });
    std::vector<uint32_t> sorted_code(order.size());
    std::vector<T> sorted(order.size());
    for (uint32_t i = 0; i < order.size(); ++i) {
      sorted_code[order[i]] = i;
      sorted[i] = values_[order[i]];
    }
    values_ = std::move(sorted);
    for (uint32_t& code : *codes) code = sorted_code[code];
  }

  const std::vector<T>& values() const { return values_; }

 private:
  std::unordered_map<T, uint32_t> codes_;
  std::vector<T> values_;
};

class ByteWriter {
 public:
  explicit ByteWriter(const Header& header) {
    bytes_.append(reinterpret_cast<const char*>(&header), sizeof(header));
  }
  template <typename T>
  void Append(const T* data, size_t n) {
    if (n > 0) bytes_.append(reinterpret_cast<const char*>(data), n * sizeof(T));
    bytes_.resize((bytes_.size() + 7) / 8 * 8);
  }
  template <typename T>
  void Append(const std::vector<T>& values) {
    Append(values.data(), values.size());
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}

  // False if fewer bytes are left, or the padding is not zero.
  template <typename Container>
  bool Read(uint64_t n, Container* out) {
    using T = typename Container::value_type;
    if (n > rest_.size() / sizeof(T)) return false;
    const size_t size = n * sizeof(T);
    const size_t padding = (8 - size % 8) % 8;
    if (padding > rest_.size() - size) return false;
    const std::string_view pad = rest_.substr(size, padding);
    if (std::any_of(pad.begin(), pad.end(), [](char c) { return c != 0; })) return false;
    out->resize(n);
    if (size > 0) std::memcpy(out->data(), rest_.data(), size);
    rest_.remove_prefix(size + padding);
    return true;
  }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

Status Damaged(std::string_view what) {
  return Error(QUASH_CORRUPT, "metadata column is damaged: {}", what);
}

bool HasBitsPast(const std::vector<uint32_t>& words, size_t rows) {
  return rows % 32 != 0 && words.back() >> (rows % 32) != 0;
}

// Offsets from 0 to `total` that never fall.
bool AreOffsets(const std::vector<uint32_t>& offsets, uint64_t total) {
  return offsets.front() == 0 && offsets.back() == total &&
         std::is_sorted(offsets.begin(), offsets.end());
}

}  // namespace

size_t Column::dictionary_size() const {
  if (type_ == QUASH_FIELD_INT_LIST) return ints_.size();
  return HoldsStrings(type_) ? dictionary_offsets_.size() - 1 : 0;
}

std::string_view Column::dictionary_string(size_t code) const {
  const uint32_t begin = dictionary_offsets_[code];
  return std::string_view(dictionary_bytes_).substr(begin, dictionary_offsets_[code + 1] - begin);
}

size_t Column::memory_bytes() const {
  return sizeof(Column) + ints_.capacity() * sizeof(int64_t) + floats_.capacity() * sizeof(double) +
         dictionary_bytes_.capacity() +
         (valid_.capacity() + codes_.capacity() + offsets_.capacity() +
          dictionary_offsets_.capacity()) *
             sizeof(uint32_t);
}

std::shared_ptr<const Column> Column::Nulls(quash_field_type type, size_t rows) {
  auto column = std::make_shared<Column>();
  column->type_ = type;
  column->rows_ = rows;
  column->valid_.assign(NumWords(rows), 0);
  if (type == QUASH_FIELD_BOOL || type == QUASH_FIELD_INT) column->ints_.assign(rows, 0);
  if (type == QUASH_FIELD_FLOAT) column->floats_.assign(rows, 0);
  if (type == QUASH_FIELD_STRING) column->codes_.assign(rows, 0);
  if (IsList(type)) column->offsets_.assign(rows + 1, 0);
  if (HoldsStrings(type)) column->dictionary_offsets_.assign(1, 0);
  return column;
}

std::shared_ptr<const Column> Column::Build(quash_field_type type, std::span<const Value> values) {
  auto column = std::const_pointer_cast<Column>(Nulls(type, values.size()));
  const auto set_valid = [&](size_t row) { column->valid_[row / 32] |= 1u << row % 32; };
  Dictionary<std::string_view> strings;
  Dictionary<int64_t> ints;
  std::vector<uint32_t>& codes = column->codes_;
  codes.clear();
  std::vector<size_t> string_rows;  // rows of a string column that have a code
  uint64_t elements = 0;
  for (size_t row = 0; row < values.size(); ++row) {
    const Value& value = values[row];
    if (const auto* flag = std::get_if<bool>(&value); flag && type == QUASH_FIELD_BOOL) {
      column->ints_[row] = *flag;
      set_valid(row);
    } else if (const auto* number = std::get_if<int64_t>(&value);
               number && type == QUASH_FIELD_INT) {
      column->ints_[row] = *number;
      set_valid(row);
    } else if (const auto* real = std::get_if<double>(&value); real && type == QUASH_FIELD_FLOAT) {
      column->floats_[row] = *real;
      set_valid(row);
    } else if (const auto* text = std::get_if<std::string>(&value);
               text && type == QUASH_FIELD_STRING) {
      codes.push_back(strings.Add(*text));
      string_rows.push_back(row);
      set_valid(row);
    } else if (const auto* numbers = std::get_if<std::vector<int64_t>>(&value);
               numbers && type == QUASH_FIELD_INT_LIST) {
      elements += numbers->size();
      if (elements > kMaxIndex) return nullptr;
      for (const int64_t element : *numbers) codes.push_back(ints.Add(element));
      set_valid(row);
    } else if (const auto* texts = std::get_if<std::vector<std::string>>(&value);
               texts && type == QUASH_FIELD_STRING_LIST) {
      elements += texts->size();
      if (elements > kMaxIndex) return nullptr;
      for (const std::string& element : *texts) codes.push_back(strings.Add(element));
      set_valid(row);
    }
    if (IsList(type)) column->offsets_[row + 1] = static_cast<uint32_t>(codes.size());
  }
  if (type == QUASH_FIELD_INT_LIST) {
    ints.Sort(&codes);
    column->ints_ = ints.values();
  } else if (HoldsStrings(type)) {
    strings.Sort(&codes);
    uint64_t bytes = 0;
    for (const std::string_view text : strings.values()) bytes += text.size();
    if (bytes > kMaxIndex) return nullptr;
    column->dictionary_bytes_.reserve(bytes);
    column->dictionary_offsets_.reserve(strings.values().size() + 1);
    for (const std::string_view text : strings.values()) {
      column->dictionary_bytes_ += text;
      column->dictionary_offsets_.push_back(
          static_cast<uint32_t>(column->dictionary_bytes_.size()));
    }
  }
  if (type == QUASH_FIELD_STRING) {
    std::vector<uint32_t> by_row(values.size(), 0);
    for (size_t i = 0; i < string_rows.size(); ++i) by_row[string_rows[i]] = codes[i];
    codes = std::move(by_row);
  }
  return column;
}

std::string Column::Serialize() const {
  Header header{};
  header.version = kVersion;
  header.type = static_cast<uint8_t>(type_);
  header.rows = rows_;
  header.dictionary_size = dictionary_size();
  header.codes = codes_.size();
  header.dictionary_bytes = dictionary_bytes_.size();
  ByteWriter out(header);
  out.Append(valid_);
  switch (type_) {
    case QUASH_FIELD_BOOL: {
      std::vector<uint32_t> bits(NumWords(rows_), 0);
      for (size_t r = 0; r < rows_; ++r) bits[r / 32] |= uint32_t{ints_[r] != 0} << r % 32;
      out.Append(bits);
      break;
    }
    case QUASH_FIELD_INT:
      out.Append(ints_);
      break;
    case QUASH_FIELD_FLOAT:
      out.Append(floats_);
      break;
    case QUASH_FIELD_INT_LIST:
      out.Append(ints_);
      break;
    case QUASH_FIELD_STRING:
    case QUASH_FIELD_STRING_LIST:
      out.Append(dictionary_offsets_);
      out.Append(dictionary_bytes_.data(), dictionary_bytes_.size());
      break;
  }
  if (IsList(type_)) out.Append(offsets_);
  if (IsList(type_) || type_ == QUASH_FIELD_STRING) out.Append(codes_);
  return out.Take();
}

Status Column::Parse(std::string_view bytes, std::shared_ptr<const Column>* out) {
  Header header;
  if (bytes.size() < sizeof(header)) {
    return Error(QUASH_CORRUPT, "metadata column has {} bytes, expected at least {}", bytes.size(),
                 sizeof(header));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != kVersion) {
    return Error(QUASH_CORRUPT, "metadata column has version {}, expected {}", header.version,
                 kVersion);
  }
  if (header.type > QUASH_FIELD_STRING_LIST) {
    return Error(QUASH_CORRUPT, "metadata column has type {}, expected 0 to {}", header.type,
                 static_cast<int>(QUASH_FIELD_STRING_LIST));
  }
  const auto type = static_cast<quash_field_type>(header.type);
  if (std::any_of(header.zero, header.zero + 6, [](uint8_t byte) { return byte != 0; })) {
    return Damaged("header");
  }
  if (header.rows > kMaxIndex || header.codes > kMaxIndex || header.dictionary_size > kMaxIndex ||
      header.dictionary_bytes > kMaxIndex) {
    return Damaged("a count is too large");
  }
  const bool has_dictionary = HoldsStrings(type) || IsList(type);
  if ((!has_dictionary && (header.dictionary_size != 0 || header.codes != 0)) ||
      (!HoldsStrings(type) && header.dictionary_bytes != 0) ||
      (type == QUASH_FIELD_STRING && header.codes != header.rows)) {
    return Damaged("counts disagree with the type");
  }

  auto column = std::make_shared<Column>();
  column->type_ = type;
  column->rows_ = header.rows;
  ByteReader in(bytes.substr(sizeof(header)));
  std::vector<uint32_t> bits;
  bool whole = in.Read(NumWords(header.rows), &column->valid_);
  if (type == QUASH_FIELD_BOOL) whole = whole && in.Read(NumWords(header.rows), &bits);
  if (type == QUASH_FIELD_INT) whole = whole && in.Read(header.rows, &column->ints_);
  if (type == QUASH_FIELD_FLOAT) whole = whole && in.Read(header.rows, &column->floats_);
  if (type == QUASH_FIELD_INT_LIST) {
    whole = whole && in.Read(header.dictionary_size, &column->ints_);
  }
  if (HoldsStrings(type)) {
    whole = whole && in.Read(header.dictionary_size + 1, &column->dictionary_offsets_) &&
            in.Read(header.dictionary_bytes, &column->dictionary_bytes_);
  }
  if (IsList(type)) whole = whole && in.Read(header.rows + 1, &column->offsets_);
  if (has_dictionary) whole = whole && in.Read(header.codes, &column->codes_);
  if (!whole || !in.at_end()) return Damaged("its size disagrees with its counts");
  QUASH_RETURN_IF_ERROR(column->CheckContent(bits));
  if (type == QUASH_FIELD_BOOL) {
    column->ints_.resize(header.rows);
    for (size_t r = 0; r < header.rows; ++r) column->ints_[r] = bits[r / 32] >> r % 32 & 1;
  }
  *out = std::move(column);
  return Status();
}

Status Column::CheckContent(const std::vector<uint32_t>& bool_bits) const {
  if (HasBitsPast(valid_, rows_)) return Damaged("valid bits past the last row");
  if (type_ == QUASH_FIELD_BOOL) {
    for (size_t i = 0; i < bool_bits.size(); ++i) {
      if (bool_bits[i] & ~valid_[i]) return Damaged("a null row has a value");
    }
  }
  if (type_ == QUASH_FIELD_FLOAT) {
    for (const double value : floats_) {
      if (!std::isfinite(value)) return Damaged("a float is not finite");
    }
  }
  if (HoldsStrings(type_)) {
    if (!AreOffsets(dictionary_offsets_, dictionary_bytes_.size())) {
      return Damaged("string offsets");
    }
    for (size_t i = 1; i < dictionary_size(); ++i) {
      if (dictionary_string(i - 1) >= dictionary_string(i)) return Damaged("string order");
    }
  }
  if (type_ == QUASH_FIELD_INT_LIST) {
    for (size_t i = 1; i < ints_.size(); ++i) {
      if (ints_[i - 1] >= ints_[i]) return Damaged("value order");
    }
  }
  const size_t distinct = dictionary_size();
  if (IsList(type_)) {
    if (!AreOffsets(offsets_, codes_.size())) return Damaged("row offsets");
    for (const uint32_t code : codes_) {
      if (code >= distinct) return Damaged("a code past the dictionary");
    }
  }
  for (size_t r = 0; r < rows_; ++r) {
    const bool null = is_null(r);
    bool fits = true;
    switch (type_) {
      case QUASH_FIELD_BOOL:
        break;
      case QUASH_FIELD_INT:
        fits = !null || ints_[r] == 0;
        break;
      case QUASH_FIELD_FLOAT:
        fits = !null || (floats_[r] == 0 && !std::signbit(floats_[r]));
        break;
      case QUASH_FIELD_STRING:
        fits = null ? codes_[r] == 0 : codes_[r] < distinct;
        break;
      case QUASH_FIELD_INT_LIST:
      case QUASH_FIELD_STRING_LIST:
        fits = !null || offsets_[r] == offsets_[r + 1];
        break;
    }
    if (!fits) return Damaged(null ? "a null row has a value" : "a code past the dictionary");
  }
  return Status();
}

}  // namespace quash
