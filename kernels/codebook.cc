#include "kernels/codebook.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace quash {
namespace {

constexpr double kHalfPi = 1.5707963267948966;
// Beyond this many standard deviations the density is below 1e-70.
constexpr double kTailSigmas = 18;
constexpr int kMaxLevel = 107;
using Levels = std::array<int, 8>;  // of the positive half

// Moments of a coordinate of a uniform point on S^(dim-1), not normalised.
// With t = sin(a) the density f(t) dt becomes cos(a)^(dim-2) da: smooth also
// for dim 2, where f is singular at +-1, and the first moment has the closed
// form -cos(a)^(dim-1) / (dim-1). Needs dim >= 2.
class SphereDensity {
 public:
  explicit SphereDensity(uint32_t dim)
      : dim_(dim), sigma_(1 / std::sqrt(static_cast<double>(dim))) {
    half_mass_ = HalfMass(0, 1);
  }

  double sigma() const { return sigma_; }

  // Largest t with a density that counts.
  double tail() const { return std::min(1.0, kTailSigmas * sigma_); }

  // Probability of [low, high], 0 <= low <= high <= 1.
  double Mass(double low, double high) const { return HalfMass(low, high) / (2 * half_mass_); }

  // Integral of t f(t) over [low, high].
  double FirstMoment(double low, double high) const {
    return (CosPower(low, dim_ - 1) - CosPower(high, dim_ - 1)) / (dim_ - 1) / (2 * half_mass_);
  }

  // f(t) for 0 <= t < 1.
  double Density(double t) const {
    return CosPower(t, static_cast<double>(dim_) - 3) / (2 * half_mass_);
  }

 private:
  // (1 - t^2)^(power / 2), which is cos(asin t)^power.
  static double CosPower(double t, double power) {
    if (power == 0) return 1;
    if (t >= 1) return 0;
    return std::exp(0.5 * power * std::log1p(-t * t));
  }

  // Gauss-Legendre with 8 points on pieces of at most half a sigma.
  double HalfMass(double low, double high) const {
    static constexpr double kNodes[4] = {0.1834346424956498, 0.5255324099163290, 0.7966664774136267,
                                         0.9602898564975363};
    static constexpr double kWeights[4] = {0.3626837833783620, 0.3137066458778873,
                                           0.2223810344533745, 0.1012285362903763};
    const double begin = std::asin(low);
    double end = high >= 1 ? kHalfPi : std::asin(high);
    if (tail() < 1) end = std::min(end, std::asin(tail()));
    if (end <= begin) return 0;
    const int pieces = 1 + static_cast<int>((end - begin) / (0.5 * std::min(sigma_, 0.5)));
    const double half = (end - begin) / (2 * pieces);
    double sum = 0;
    for (int p = 0; p < pieces; ++p) {
      const double middle = begin + (2 * p + 1) * half;
      for (int i = 0; i < 4; ++i) {
        sum += kWeights[i] *
               (Integrand(middle - kNodes[i] * half) + Integrand(middle + kNodes[i] * half));
      }
    }
    return sum * half;
  }

  double Integrand(double angle) const { return CosPower(std::sin(angle), dim_ - 2.0); }

  uint32_t dim_;
  double sigma_;
  double half_mass_;  // of [0, 1]
};

// Cells of the positive half: centroids c[0] < c[1] < ... and the boundaries
// 0, (c[0] + c[1]) / 2, ..., 1.
struct Cells {
  std::vector<double> bounds;  // [size + 1]
  std::vector<double> mass;    // [size]
  std::vector<double> moment;  // [size]
};

Cells MakeCells(const SphereDensity& density, const std::vector<double>& centroids) {
  const size_t size = centroids.size();
  Cells cells;
  cells.bounds.assign(size + 1, 0.0);
  for (size_t i = 1; i < size; ++i) cells.bounds[i] = 0.5 * (centroids[i - 1] + centroids[i]);
  cells.bounds[size] = 1;
  for (size_t i = 0; i < size; ++i) {
    cells.mass.push_back(density.Mass(cells.bounds[i], cells.bounds[i + 1]));
    cells.moment.push_back(density.FirstMoment(cells.bounds[i], cells.bounds[i + 1]));
  }
  return cells;
}

// Centroids spread by the asymptotically optimal point density f^(1/3).
std::vector<double> CompandedStart(const SphereDensity& density, size_t size) {
  constexpr size_t kGrid = 8192;
  const double width = density.tail() / kGrid;
  std::vector<double> cumulative(kGrid + 1, 0.0);
  for (size_t i = 0; i < kGrid; ++i) {
    const double middle = (static_cast<double>(i) + 0.5) * width;
    cumulative[i + 1] = cumulative[i] + std::cbrt(density.Density(middle));
  }
  std::vector<double> centroids;
  size_t cell = 0;
  for (size_t i = 0; i < size; ++i) {
    const double target =
        (static_cast<double>(i) + 0.5) / static_cast<double>(size) * cumulative[kGrid];
    while (cumulative[cell + 1] < target) ++cell;
    const double part = (target - cumulative[cell]) / (cumulative[cell + 1] - cumulative[cell]);
    centroids.push_back((static_cast<double>(cell) + part) * width);
  }
  return centroids;
}

// One Newton step on c_i = mean of cell i, whose Jacobian is tridiagonal;
// empty if it would break the order.
std::vector<double> NewtonStep(const SphereDensity& density, const std::vector<double>& c,
                               const Cells& cells) {
  const size_t size = c.size();
  std::vector<double> lower(size, 0.0), diagonal(size, 1.0), upper(size, 0.0), step(size, 0.0);
  for (size_t i = 0; i < size; ++i) {
    const double mean = cells.moment[i] / cells.mass[i];
    step[i] = c[i] - mean;
    if (i > 0) {  // the lower boundary is (c[i-1] + c[i]) / 2
      const double bound = cells.bounds[i];
      const double slope = 0.5 * density.Density(bound) * (mean - bound) / cells.mass[i];
      lower[i] = -slope;
      diagonal[i] -= slope;
    }
    if (i + 1 < size) {
      const double bound = cells.bounds[i + 1];
      const double slope = 0.5 * density.Density(bound) * (bound - mean) / cells.mass[i];
      upper[i] = -slope;
      diagonal[i] -= slope;
    }
  }
  for (size_t i = 1; i < size; ++i) {
    const double factor = lower[i] / diagonal[i - 1];
    diagonal[i] -= factor * upper[i - 1];
    step[i] -= factor * step[i - 1];
  }
  std::vector<double> next(size);
  double following = 0;
  for (size_t i = size; i-- > 0;) {
    const double right = i + 1 < size ? upper[i] * following : 0.0;
    following = (step[i] - right) / diagonal[i];
    next[i] = c[i] - following;
  }
  for (size_t i = 0; i < size; ++i) {
    const double floor = i == 0 ? 0.0 : next[i - 1];
    if (!(next[i] > floor) || !(next[i] < 1)) return {};
  }
  return next;
}

// The positive centroids. Lloyd's iteration converges slowly with many levels,
// so Newton's finishes it; a Newton step that leaves the domain is replaced.
std::vector<double> SolveHalf(const SphereDensity& density, size_t size) {
  constexpr int kLloydSteps = 30;
  constexpr int kMaxSteps = 500;
  std::vector<double> centroids = CompandedStart(density, size);
  for (int iteration = 0; iteration < kMaxSteps; ++iteration) {
    const Cells cells = MakeCells(density, centroids);
    std::vector<double> next;
    if (iteration >= kLloydSteps) next = NewtonStep(density, centroids, cells);
    if (next.empty()) {
      for (size_t i = 0; i < size; ++i) next.push_back(cells.moment[i] / cells.mass[i]);
    }
    double change = 0;
    for (size_t i = 0; i < size; ++i) {
      change = std::max(change, std::fabs(next[i] - centroids[i]));
    }
    centroids = std::move(next);
    if (change < 1e-12 * density.sigma()) break;
  }
  return centroids;
}

// dim 1 has the two points +-1, which the outermost centroids hit exactly.
std::vector<double> EvenlySpacedHalf(size_t size) {
  std::vector<double> centroids;
  for (size_t i = 0; i < size; ++i) {
    centroids.push_back(static_cast<double>(2 * i + 1) / static_cast<double>(2 * size - 1));
  }
  return centroids;
}

// Mass and first moment of the cells of the positive half of a codebook.
Cells PositiveCells(const Codebook& codebook) {
  const size_t size = codebook.centroids.size() / 2;
  const std::vector<double> half(codebook.centroids.begin() + size, codebook.centroids.end());
  if (codebook.dim > 1) return MakeCells(SphereDensity(codebook.dim), half);
  Cells cells;
  cells.bounds.assign(codebook.boundaries.begin() + (size - 1), codebook.boundaries.end());
  cells.bounds.push_back(1);
  cells.mass.assign(size, 0.0);
  cells.moment.assign(size, 0.0);
  cells.mass[size - 1] = cells.moment[size - 1] = 0.5;
  return cells;
}

Codebook Solve(uint32_t dim, uint32_t bits) {
  const size_t half_size = size_t{1} << (bits - 1);
  const std::vector<double> half =
      dim == 1 ? EvenlySpacedHalf(half_size) : SolveHalf(SphereDensity(dim), half_size);
  Codebook codebook;
  codebook.dim = dim;
  codebook.bits = bits;
  for (size_t i = half_size; i-- > 0;) codebook.centroids.push_back(-half[i]);
  codebook.centroids.insert(codebook.centroids.end(), half.begin(), half.end());
  for (size_t i = 1; i < codebook.centroids.size(); ++i) {
    codebook.boundaries.push_back(0.5 * (codebook.centroids[i - 1] + codebook.centroids[i]));
  }
  return codebook;
}

// Mean |t| of the cells begin..end, in units of `step`; the middle level when
// the density has no mass there.
double MeanLevel(const Cells& cells, const Levels& levels, size_t begin, size_t end, double step) {
  double mass = 0;
  double moment = 0;
  for (size_t i = begin; i < end; ++i) {
    mass += cells.mass[i];
    moment += cells.moment[i];
  }
  return mass > 0 ? moment / mass / step : 0.5 * (levels[begin] + levels[end - 1]);
}

}  // namespace

double Codebook::MseCost() const {
  const Cells cells = PositiveCells(*this);
  const size_t size = centroids.size() / 2;
  double gain = 0;  // of one coordinate, both halves
  for (size_t i = 0; i < size; ++i) {
    const double c = centroids[size + i];
    gain += 2 * (2 * c * cells.moment[i] - c * c * cells.mass[i]);
  }
  return std::max(0.0, 1 - gain * dim);
}

const Codebook& GetCodebook(uint32_t dim, uint32_t bits) {
  if (dim == 0) throw std::invalid_argument("dim is 0, expected at least 1");
  if ((bits < 1 || bits > 4) && bits != 8) {
    throw std::invalid_argument("bits is " + std::to_string(bits) + ", expected 1, 2, 3, 4 or 8");
  }
  static std::mutex mutex;
  // Never destroyed: threads may still read it while the process exits.
  static auto& cache = *new std::map<std::pair<uint32_t, uint32_t>, std::unique_ptr<Codebook>>;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Codebook>& entry = cache[{dim, bits}];
  if (!entry) entry = std::make_unique<Codebook>(Solve(dim, bits));
  return *entry;
}

LevelCodebook MakeLevelCodebook(const Codebook& codebook) {
  if (codebook.bits < 1 || codebook.bits > 4) {
    throw std::invalid_argument("bits is " + std::to_string(codebook.bits) + ", expected 1 to 4");
  }
  const size_t size = size_t{1} << (codebook.bits - 1);
  const Cells cells = PositiveCells(codebook);
  const double* half = codebook.centroids.data() + size;

  // For a trial step the nearest odd levels are fixed, and for fixed levels the
  // best step has a closed form; what is left is a search over one number.
  Levels best_levels = {};
  double best_gain = -1;  // 1 - MSE, the share of the norm the levels explain
  double best_step = 0;
  const int top_level = size == 1 ? 1 : kMaxLevel;
  for (int top = static_cast<int>(2 * size) - 1; top <= top_level; top += 2) {
    for (int offset = -8; offset < 8; ++offset) {
      const double trial = half[size - 1] / (top + offset / 8.0);
      Levels levels = {};
      double dot = 0;
      double norm_sq = 0;
      for (size_t i = 0; i < size; ++i) {
        const int odd = 2 * static_cast<int>(std::floor(half[i] / trial / 2)) + 1;
        levels[i] = std::min(std::max(odd, i == 0 ? 1 : levels[i - 1] + 2), top_level);
        dot += levels[i] * cells.moment[i];
        norm_sq += levels[i] * levels[i] * cells.mass[i];
      }
      const auto end = levels.begin() + static_cast<ptrdiff_t>(size);
      const bool ascending =
          std::adjacent_find(levels.begin(), end, std::greater_equal<int>()) == end;
      const double gain = dot * dot / norm_sq;
      // The margin keeps rounding errors from choosing between equal candidates.
      if (ascending && gain > best_gain + 1e-12) {
        best_gain = gain;
        best_levels = levels;
        best_step = dot / norm_sq;
      }
    }
  }

  LevelCodebook out;
  out.bits = codebook.bits;
  out.step = static_cast<float>(best_step);
  for (size_t i = 0; i < size; ++i) {
    out.levels[size + i] = static_cast<int8_t>(best_levels[i]);
    out.levels[size - 1 - i] = static_cast<int8_t>(-best_levels[i]);
  }
  for (size_t i = 0; i < codebook.boundaries.size(); ++i) {
    out.boundaries[i] = static_cast<float>(codebook.boundaries[i]);
  }
  if (size == 1) {
    out.m = 1;
  } else if (size == 2) {
    out.m = static_cast<float>(best_levels[1] + best_levels[0]) / 2;
    out.delta = static_cast<float>(best_levels[1] - best_levels[0]) / 2;
  } else {
    const double inner = MeanLevel(cells, best_levels, 0, size / 2, best_step);
    const double outer = MeanLevel(cells, best_levels, size / 2, size, best_step);
    out.m = static_cast<float>((outer + inner) / 2);
    out.delta = static_cast<float>((outer - inner) / 2);
  }
  return out;
}

}  // namespace quash
