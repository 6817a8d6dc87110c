// Vector files: .npy (f2, f4, f8), .fvecs, .bvecs and .ivecs.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace quash::cli {

// A regular file opened for reading, with its size; errors name the path.
class InputFile {
 public:
  explicit InputFile(const std::string& path);

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }
  std::FILE* stream() const { return file_.get(); }
  // Reads exactly `bytes` at `offset`; Error naming path and offset otherwise.
  void ReadAt(uint64_t offset, void* out, size_t bytes) const;

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
  uint64_t size_ = 0;
};

// Row-major matrix of floats on disk. The header is checked against the
// file's size when opened, so that rows() * dim() values are there to read.
class MatrixReader {
 public:
  virtual ~MatrixReader() = default;
  uint64_t rows() const { return rows_; }
  uint32_t dim() const { return dim_; }
  const std::string& path() const { return file_.path(); }

  // Rows first .. first + n - 1 to out [n, dim]; f8 values outside float
  // range become infinite.
  virtual void Read(uint64_t first, size_t n, float* out) = 0;

 protected:
  explicit MatrixReader(const std::string& path) : file_(path) {}

  InputFile file_;
  uint64_t rows_ = 0;
  uint32_t dim_ = 0;
  std::vector<unsigned char> buffer_;
};

// Whether the extension is one of a vector file.
bool IsMatrixPath(const std::string& path);
// Opens by extension. Error: unreadable, malformed, truncated, other types.
std::unique_ptr<MatrixReader> OpenMatrix(const std::string& path);

// A one-dimensional .npy of int64, or of int32.
std::vector<int64_t> ReadNpyIntegers(const std::string& path);

// The lower-case extension with its dot: ".npy".
std::string Extension(const std::string& path);

// IEEE half to single precision, exact.
float HalfToFloat(uint16_t half);

}  // namespace quash::cli
