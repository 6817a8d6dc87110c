#include "cli/matrix.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "cli/error.h"
#include "cli/text.h"
#include "quashdb.h"

namespace quash::cli {
namespace {

static_assert(std::endian::native == std::endian::little, "files are read as little-endian");

struct NpyHeader {
  std::string type;  // "f4", "i8"; little-endian or single bytes
  std::vector<uint64_t> shape;
  uint64_t data_offset = 0;
};

// The value after 'key': in the header's Python dict, up to what ends it.
std::string_view DictValue(const InputFile& file, std::string_view dict, std::string_view key) {
  const size_t at = dict.find(fmt::format("'{}':", key));
  if (at == std::string_view::npos) {
    throw Error(fmt::format("{}: the npy header has no '{}'", file.path(), key));
  }
  std::string_view value = Trim(dict.substr(at + key.size() + 3));
  const char closing = value.starts_with('(') ? ')' : ',';
  const size_t end = value.find(closing);
  return Trim(value.substr(0, end == std::string_view::npos ? value.size() : end));
}

NpyHeader ReadNpyHeader(const InputFile& file) {
  constexpr size_t kPrelude = 12;
  unsigned char prelude[kPrelude] = {};
  if (file.size() < kPrelude) throw Error(fmt::format("{}: too short for a npy file", file.path()));
  file.ReadAt(0, prelude, kPrelude);
  if (std::memcmp(prelude, "\x93NUMPY", 6) != 0) {
    throw Error(fmt::format("{}: not a npy file (wrong first bytes)", file.path()));
  }
  const bool wide = prelude[6] >= 2;  // versions 2 and 3: 4-byte length
  uint64_t length = prelude[8] | prelude[9] << 8;
  if (wide)
    length |= static_cast<uint64_t>(prelude[10]) << 16 | static_cast<uint64_t>(prelude[11]) << 24;
  const uint64_t begin = wide ? 12 : 10;
  constexpr uint64_t kLongestHeader = 1 << 20;
  if (prelude[6] < 1 || prelude[6] > 3 || length > kLongestHeader || begin + length > file.size()) {
    throw Error(fmt::format("{}: malformed npy header (version {}, {} bytes)", file.path(),
                            prelude[6], length));
  }
  std::string dict(length, '\0');
  file.ReadAt(begin, dict.data(), length);

  NpyHeader header;
  header.data_offset = begin + length;
  const std::string descr(DictValue(file, dict, "descr"));
  if (descr.size() < 4 || descr.front() != '\'' || descr.back() != '\'') {
    throw Error(fmt::format("{}: structured npy arrays cannot be read", file.path()));
  }
  if (descr[1] == '>') throw Error(fmt::format("{}: big-endian npy cannot be read", file.path()));
  header.type = descr.substr(2, descr.size() - 3);
  if (DictValue(file, dict, "fortran_order") != "False") {
    throw Error(
        fmt::format("{}: the array is in Fortran order; save it with "
                    "numpy.ascontiguousarray",
                    file.path()));
  }
  std::string_view shape = DictValue(file, dict, "shape");
  if (!shape.starts_with('(')) throw Error(fmt::format("{}: malformed npy shape", file.path()));
  shape.remove_prefix(1);
  while (!(shape = Trim(shape)).empty()) {
    uint64_t extent = 0;
    const auto [end, error] = std::from_chars(shape.data(), shape.data() + shape.size(), extent);
    if (error != std::errc()) throw Error(fmt::format("{}: malformed npy shape", file.path()));
    header.shape.push_back(extent);
    shape = Trim(shape.substr(static_cast<size_t>(end - shape.data())));
    if (shape.starts_with(',')) shape.remove_prefix(1);
  }
  return header;
}

// Error unless the file holds exactly the array its header tells of.
void CheckNpySize(const InputFile& file, const NpyHeader& header, size_t item_bytes) {
  uint64_t bytes = item_bytes;
  bool overflow = false;
  for (const uint64_t extent : header.shape) {
    overflow = overflow || __builtin_mul_overflow(bytes, extent, &bytes);
  }
  overflow = overflow || __builtin_add_overflow(bytes, header.data_offset, &bytes);
  if (overflow || bytes != file.size()) {
    throw Error(fmt::format("{}: {} bytes long, but its header tells of {}{}", file.path(),
                            file.size(), overflow ? "more than 2^64" : std::to_string(bytes),
                            !overflow && bytes < file.size() ? "" : "; truncated?"));
  }
}

void CheckDim(const InputFile& file, uint64_t dim) {
  if (dim == 0 || dim > QUASH_DIM_MAX) {
    throw Error(fmt::format("{}: vectors of {} coordinates; expected 1 to {}", file.path(), dim,
                            QUASH_DIM_MAX));
  }
}

class NpyReader : public MatrixReader {
 public:
  explicit NpyReader(const std::string& path) : MatrixReader(path) {
    const NpyHeader header = ReadNpyHeader(file_);
    if (header.type != "f2" && header.type != "f4" && header.type != "f8") {
      throw Error(fmt::format("{}: items of type {}; expected float16, float32 or float64", path,
                              header.type));
    }
    item_bytes_ = static_cast<size_t>(header.type[1] - '0');
    CheckNpySize(file_, header, item_bytes_);
    if (header.shape.empty() || header.shape.size() > 2) {
      throw Error(fmt::format("{}: an array of {} dimensions; expected 2 (rows, coordinates)", path,
                              header.shape.size()));
    }
    // A single vector is often saved as one dimension.
    rows_ = header.shape.size() == 2 ? header.shape[0] : 1;
    CheckDim(file_, header.shape.back());
    dim_ = static_cast<uint32_t>(header.shape.back());
    data_offset_ = header.data_offset;
  }

  void Read(uint64_t first, size_t n, float* out) override {
    const size_t values = n * dim_;
    const uint64_t offset = data_offset_ + first * dim_ * item_bytes_;
    if (item_bytes_ == sizeof(float)) {
      file_.ReadAt(offset, out, values * sizeof(float));
      return;
    }
    buffer_.resize(values * item_bytes_);
    file_.ReadAt(offset, buffer_.data(), buffer_.size());
    for (size_t i = 0; i < values; ++i) {
      if (item_bytes_ == sizeof(uint16_t)) {
        uint16_t half = 0;
        std::memcpy(&half, &buffer_[i * sizeof(half)], sizeof(half));
        out[i] = HalfToFloat(half);
      } else {
        double value = 0;
        std::memcpy(&value, &buffer_[i * sizeof(value)], sizeof(value));
        out[i] = static_cast<float>(value);
      }
    }
  }

 private:
  size_t item_bytes_ = 0;
  uint64_t data_offset_ = 0;
};

// TEXMEX: each vector is an int32 count and as many floats (fvecs), bytes
// (bvecs) or int32 (ivecs).
class VecsReader : public MatrixReader {
 public:
  explicit VecsReader(const std::string& path) : MatrixReader(path), kind_(Extension(path)[1]) {
    int32_t dim = 0;
    if (file_.size() < sizeof(dim)) throw Error(fmt::format("{}: the file is empty", path));
    file_.ReadAt(0, &dim, sizeof(dim));
    CheckDim(file_, dim < 0 ? 0 : static_cast<uint64_t>(dim));
    dim_ = static_cast<uint32_t>(dim);
    row_bytes_ = sizeof(dim) + dim_ * (kind_ == 'b' ? 1 : sizeof(float));
    if (file_.size() % row_bytes_ != 0) {
      throw Error(
          fmt::format("{}: {} bytes are no whole number of {}-byte rows (dim {}); "
                      "truncated?",
                      path, file_.size(), row_bytes_, dim_));
    }
    rows_ = file_.size() / row_bytes_;
  }

  void Read(uint64_t first, size_t n, float* out) override {
    buffer_.resize(n * row_bytes_);
    file_.ReadAt(first * row_bytes_, buffer_.data(), buffer_.size());
    for (size_t row = 0; row < n; ++row) {
      const unsigned char* bytes = &buffer_[row * row_bytes_];
      uint32_t dim = 0;
      std::memcpy(&dim, bytes, sizeof(dim));
      if (dim != dim_) {
        throw Error(fmt::format("{}: row {} (byte {}) has {} coordinates, the first row {}", path(),
                                first + row, (first + row) * row_bytes_, dim, dim_));
      }
      bytes += sizeof(dim);
      for (size_t i = 0; i < dim_; ++i) *out++ = Value(bytes, i);
    }
  }

 private:
  float Value(const unsigned char* bytes, size_t i) const {
    if (kind_ == 'b') return bytes[i];
    if (kind_ == 'i') {
      int32_t integer = 0;
      std::memcpy(&integer, bytes + i * sizeof(integer), sizeof(integer));
      return static_cast<float>(integer);
    }
    float value = 0;
    std::memcpy(&value, bytes + i * sizeof(value), sizeof(value));
    return value;
  }

  const char kind_;
  size_t row_bytes_ = 0;
};

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
  struct stat status = {};
  if (file_ == nullptr || fstat(fileno(file_.get()), &status) != 0) {
    throw Error(fmt::format("cannot read {}: {}", path, std::strerror(errno)));
  }
  if (S_ISDIR(status.st_mode)) throw Error(fmt::format("cannot read {}: a directory", path));
  if (!S_ISREG(status.st_mode)) {
    throw Error(
        fmt::format("cannot read {}: a pipe or device, and it is read more than once; "
                    "write it to a file first",
                    path));
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

void InputFile::ReadAt(uint64_t offset, void* out, size_t bytes) const {
  if (fseeko(file_.get(), static_cast<off_t>(offset), SEEK_SET) != 0 ||
      std::fread(out, 1, bytes, file_.get()) != bytes) {
    throw Error(fmt::format("{}: cannot read {} bytes at byte {}", path_, bytes, offset));
  }
}

std::string Extension(const std::string& path) {
  return ToLower(std::filesystem::path(path).extension().string());
}

bool IsMatrixPath(const std::string& path) {
  const std::string extension = Extension(path);
  return extension == ".npy" || extension == ".fvecs" || extension == ".bvecs" ||
         extension == ".ivecs";
}

std::unique_ptr<MatrixReader> OpenMatrix(const std::string& path) {
  if (Extension(path) == ".npy") return std::make_unique<NpyReader>(path);
  if (IsMatrixPath(path)) return std::make_unique<VecsReader>(path);
  throw Error(fmt::format("{}: expected a .npy, .fvecs, .bvecs or .ivecs file", path));
}

std::vector<int64_t> ReadNpyIntegers(const std::string& path) {
  const InputFile file(path);
  const NpyHeader header = ReadNpyHeader(file);
  const bool wide = header.type == "i8";
  if ((!wide && header.type != "i4") || header.shape.size() != 1) {
    throw Error(fmt::format("{}: expected one dimension of int64 or int32", path));
  }
  CheckNpySize(file, header, wide ? sizeof(int64_t) : sizeof(int32_t));
  std::vector<int64_t> values(header.shape[0]);
  if (values.empty()) return values;
  if (wide) {
    file.ReadAt(header.data_offset, values.data(), values.size() * sizeof(int64_t));
    return values;
  }
  std::vector<int32_t> narrow(values.size());
  file.ReadAt(header.data_offset, narrow.data(), narrow.size() * sizeof(int32_t));
  values.assign(narrow.begin(), narrow.end());
  return values;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 0x1F;
  const uint32_t mantissa = half & 0x3FF;
  if (exponent == 0) {  // zero and subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 0x1F ? 0xFF : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

}  // namespace quash::cli
