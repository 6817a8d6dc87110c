#include "kernels/rotation.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/dispatch.h"
#include "kernels/random.h"

namespace quash {
namespace {

// Odd: Apply and its inverse read x or y only at first.
uint32_t RoundsOf(RotationKind kind) {
  return kind == RotationKind::kHadamard ? 3 : kind == RotationKind::kRht ? 1 : 0;
}

constexpr uint32_t kMaxDenseDim = 4096;

// Keeps the streams of the kinds apart for equal seeds.
uint64_t StreamSeed(RotationKind kind, uint64_t seed) {
  constexpr uint64_t kOfKind[] = {0, 0xD1B54A32D192ED03u, 0x8CB92BA72F3D8DD7u};
  return seed ^ kOfKind[static_cast<uint32_t>(kind)];
}

double DotOfLanes(const double* a, const double* b, size_t n) {
  double lanes[8] = {};
  size_t j = 0;
  for (; j + 8 <= n; j += 8) {
    for (size_t i = 0; i < 8; ++i) lanes[i] += a[j + i] * b[j + i];
  }
  for (size_t i = 0; j < n; ++i, ++j) lanes[i] += a[j] * b[j];
  for (size_t half = 4; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// Haar orthogonal as a product of dim reflections of growing size (Stewart,
// 1980): the Q of the Householder QR of a Gaussian matrix, for half the random
// numbers and without the matrix.
std::vector<float> HaarMatrix(uint32_t dim, uint64_t seed) {
  // Reflection k acts on the last k coordinates as s (I - 2 w w^T / |w|^2).
  std::vector<double> normals(size_t{dim} * (dim + 1) / 2);
  std::vector<double> signs(dim + 1);
  const auto normal = [&](uint32_t k) { return normals.data() + size_t{k} * (k - 1) / 2; };
  Random random(StreamSeed(RotationKind::kDense, seed));
  for (uint32_t k = 1; k <= dim; ++k) {
    double* w = normal(k);
    for (uint32_t i = 0; i < k; ++i) w[i] = random.Gaussian();
    signs[k] = w[0] < 0 ? 1 : -1;
    w[0] -= signs[k] * std::sqrt(DotOfLanes(w, w, k));
    const double scale = std::sqrt(2 / DotOfLanes(w, w, k));
    for (uint32_t i = 0; i < k; ++i) w[i] *= scale;
  }

  // Rows are independent; a few at a time share the loads of the normals.
  constexpr uint32_t kRowsAtOnce = 8;
  std::vector<float> matrix(size_t{dim} * dim);
  std::vector<double> rows(size_t{kRowsAtOnce} * dim);
  for (uint32_t first = 0; first < dim; first += kRowsAtOnce) {
    const uint32_t count = std::min(kRowsAtOnce, dim - first);
    std::fill(rows.begin(), rows.end(), 0.0);
    for (uint32_t r = 0; r < count; ++r) rows[size_t{r} * dim + first + r] = 1;
    for (uint32_t k = dim - first - (count - 1); k <= dim; ++k) {
      const double* w = normal(k);
      for (uint32_t r = 0; r < count; ++r) {
        if (k < dim - (first + r)) continue;  // the row is still zero there
        double* row = rows.data() + size_t{r} * dim + (dim - k);
        const double dot = DotOfLanes(row, w, k);
        for (uint32_t i = 0; i < k; ++i) row[i] = signs[k] * (row[i] - dot * w[i]);
      }
    }
    for (uint32_t r = 0; r < count; ++r) {
      for (uint32_t i = 0; i < dim; ++i) {
        matrix[size_t{first + r} * dim + i] = static_cast<float>(rows[size_t{r} * dim + i]);
      }
    }
  }
  return matrix;
}

}  // namespace

// The Hadamard rotation is N M_2 M_1 M_0 with M_r = H' H F_r P_r: permute,
// multiply by F_r, transform the first and then the last P coordinates without
// normalising. F_r holds the signs, 1 / sqrt(P) for the first transform, and
// 1 / sqrt(P) for the second of the round before; N is the last of these. N and
// F_r are diagonal and H symmetric, so the inverse is the same factors
// transposed, in reverse. If P = dim there is one transform per round and no N.
Rotation::Rotation(RotationKind kind, uint32_t dim, uint64_t seed)
    : kind_(kind), dim_(dim), rounds_(RoundsOf(kind)) {
  if (dim == 0) throw std::invalid_argument("dim is 0, expected at least 1");
  if (kind == RotationKind::kDense) {
    if (dim > kMaxDenseDim) {
      throw std::invalid_argument("dim is " + std::to_string(dim) +
                                  ", expected at most 4096 for a dense rotation");
    }
    matrix_ = HaarMatrix(dim, seed);
    return;
  }
  if (rounds_ == 0) {
    throw std::invalid_argument("unknown rotation kind " +
                                std::to_string(static_cast<uint32_t>(kind)));
  }
  const uint32_t block = std::bit_floor(dim);
  if (kind == RotationKind::kRht && block != dim) {
    throw std::invalid_argument("dim is " + std::to_string(dim) +
                                ", expected a power of two for a rotation of one round");
  }
  const float norm = 1 / std::sqrt(static_cast<float>(block));
  signs_.resize(size_t{rounds_} * dim);
  permutation_.resize(size_t{rounds_} * dim);
  Random random(StreamSeed(kind, seed));
  for (uint32_t round = 0; round < rounds_; ++round) {
    uint32_t* from = permutation_.data() + size_t{round} * dim;
    float* factor = signs_.data() + size_t{round} * dim;
    for (uint32_t i = 0; i < dim; ++i) {
      const uint32_t j = kind == RotationKind::kRht ? i : random.Below(i + 1);
      from[i] = from[j];
      from[j] = i;
    }
    for (uint32_t i = 0; i < dim; ++i) {
      factor[i] = (random.Next() >> 63) != 0 ? -1.0f : 1.0f;
      if (i < block) factor[i] *= norm;
      // From the second transform of the round before.
      if (round > 0 && block < dim && from[i] >= dim - block) factor[i] *= norm;
    }
  }
}

void Rotation::Apply(const float* x, size_t n, float* y, float* scratch) const {
  const ScanKernels& kernels = Kernels();
  const size_t dim = dim_;
  if (kind_ == RotationKind::kDense) {
    for (size_t row = 0; row < n; ++row, x += dim, y += dim) {
      for (size_t i = 0; i < dim; ++i) {
        scratch[i] = kernels.dot_f32(matrix_.data() + i * dim, x, dim);
      }
      std::memcpy(y, scratch, dim * sizeof(float));
    }
    return;
  }
  const size_t block = std::bit_floor(dim_);
  const size_t tail = dim - block;
  const float norm = 1 / std::sqrt(static_cast<float>(block));
  for (size_t row = 0; row < n; ++row, x += dim, y += dim) {
    const float* from = x;
    for (uint32_t round = 0; round < rounds_; ++round) {
      float* to = round % 2 == 0 ? scratch : y;
      const float* factor = signs_.data() + round * dim;
      const uint32_t* index = permutation_.data() + round * dim;
      for (size_t i = 0; i < dim; ++i) to[i] = factor[i] * from[index[i]];
      kernels.hadamard(to, block);
      if (tail > 0) kernels.hadamard(to + tail, block);
      from = to;
    }
    std::memcpy(y, scratch, dim * sizeof(float));
    for (size_t i = tail; i < dim && tail > 0; ++i) y[i] *= norm;
  }
}

void Rotation::ApplyInverse(const float* y, size_t n, float* x, float* scratch) const {
  const ScanKernels& kernels = Kernels();
  const size_t dim = dim_;
  if (kind_ == RotationKind::kDense) {
    for (size_t row = 0; row < n; ++row, x += dim, y += dim) {
      std::fill_n(scratch, dim, 0.0f);
      for (size_t i = 0; i < dim; ++i) {
        const float* matrix_row = matrix_.data() + i * dim;
        for (size_t j = 0; j < dim; ++j) scratch[j] += y[i] * matrix_row[j];
      }
      std::memcpy(x, scratch, dim * sizeof(float));
    }
    return;
  }
  const size_t block = std::bit_floor(dim_);
  const size_t tail = dim - block;
  const float norm = 1 / std::sqrt(static_cast<float>(block));
  for (size_t row = 0; row < n; ++row, x += dim, y += dim) {
    std::memcpy(scratch, y, dim * sizeof(float));
    for (size_t i = tail; i < dim && tail > 0; ++i) scratch[i] *= norm;
    for (uint32_t round = rounds_; round-- > 0;) {
      float* from = round % 2 == 0 ? scratch : x;
      float* to = round % 2 == 0 ? x : scratch;
      const float* factor = signs_.data() + round * dim;
      const uint32_t* index = permutation_.data() + round * dim;
      if (tail > 0) kernels.hadamard(from + tail, block);
      kernels.hadamard(from, block);
      for (size_t i = 0; i < dim; ++i) to[index[i]] = factor[i] * from[i];
    }
  }
}

}  // namespace quash
