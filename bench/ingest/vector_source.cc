#include "bench/ingest/vector_source.h"

#include <algorithm>
#include <cmath>

#include "cli/error.h"
#include "kernels/random.h"

namespace quash::bench {

VectorSource::VectorSource(const std::string& path) : reader_(cli::OpenMatrix(path)) {
  if (reader_->rows() == 0) throw cli::Error(path + ": no rows");
}

void VectorSource::Read(uint64_t first, size_t n, float* out) {
  const uint64_t rows = reader_->rows();
  for (size_t done = 0; done < n;) {
    const uint64_t at = (first + done) % rows;
    const size_t count = static_cast<size_t>(std::min<uint64_t>(n - done, rows - at));
    reader_->Read(at, count, out + done * dim());
    if (first + done >= rows) {
      for (size_t i = 0; i < count; ++i) {
        AddNoise(first + done + i, out + (done + i) * dim());
      }
    }
    done += count;
  }
}

void VectorSource::AddNoise(uint64_t row, float* vector) const {
  Random random(row);
  double before = 0;
  for (uint32_t i = 0; i < dim(); ++i) before += static_cast<double>(vector[i]) * vector[i];
  // Uniform draws: in many dimensions projections are as good as Gaussian, and
  // they cost a fifth.
  const double half_width = kNoise * std::sqrt(3 * before / dim());
  double after = 0;
  for (uint32_t i = 0; i < dim(); ++i) {
    vector[i] += static_cast<float>(half_width * (2 * random.Uniform() - 1));
    after += static_cast<double>(vector[i]) * vector[i];
  }
  if (after == 0) return;
  const float scale = static_cast<float>(std::sqrt(before / after));
  for (uint32_t i = 0; i < dim(); ++i) vector[i] *= scale;
}

}  // namespace quash::bench
