// Vectors in any number, made from the rows of a file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/matrix.h"

namespace quash::bench {

// The file's rows, over and over. From the second round on each gets seeded
// noise of kNoise times its length and is scaled back to that length, so that
// no two rows are equal and neighbours stay close. Row r is the same at every
// call.
class VectorSource {
 public:
  static constexpr double kNoise = 0.3;

  // Reads .npy, .fvecs or .bvecs piece by piece; cli::Error if malformed.
  explicit VectorSource(const std::string& path);

  uint32_t dim() const { return reader_->dim(); }
  uint64_t file_rows() const { return reader_->rows(); }

  // Rows first .. first + n - 1 to out [n, dim].
  void Read(uint64_t first, size_t n, float* out);

 private:
  void AddNoise(uint64_t row, float* vector) const;

  std::unique_ptr<cli::MatrixReader> reader_;
};

}  // namespace quash::bench
