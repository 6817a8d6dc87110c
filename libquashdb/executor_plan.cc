#include "libquashdb/executor_plan.h"

#include <algorithm>
#include <cmath>

namespace quash {
namespace {

// Most survivors an adaptive scan keeps, or 8 k: room for collections whose
// scores crowd around the k-th best.
constexpr size_t kAdaptiveCapacity = 4096;

// Mean squared error of unit vectors under a prefix of planes. Two planes of a
// longer code lose a little against the two-bit quantizer.
double PrefixMse(size_t planes) {
  constexpr double kMse[] = {1, 0.3634, 0.1203, 0.0349, 0.0095};
  return kMse[planes];
}

double TanSquared(double mse) { return mse / (1 - mse); }

// |y| of a unit vector's levels under a prefix.
double LevelNorm(const LevelCodebook& codebook, size_t planes, uint32_t dim) {
  if (planes == 1) return std::sqrt(double{1} * dim);
  if (planes == 2) {
    constexpr double kOuter = 0.327;  // share of coordinates with the outer level
    const double inner = codebook.m - codebook.delta, outer = codebook.m + codebook.delta;
    return std::sqrt(dim * ((1 - kOuter) * inner * inner + kOuter * outer * outer));
  }
  return std::sqrt(1 - PrefixMse(planes)) / codebook.step;
}

}  // namespace

Widths ChooseWidths(const Snapshot& snapshot, const SearchPlan& plan, size_t k) {
  const uint64_t rows = std::max<uint64_t>(snapshot.live_rows, 1);
  const size_t growth = std::max<size_t>(1, (k + plan.k - 1) / plan.k);
  Widths widths;
  uint64_t candidates = plan.widths.candidates;
  uint64_t rerank_candidates = plan.widths.rerank_candidates;
  uint32_t planes = plan.widths.planes;
  if (candidates == 0 && snapshot.widths.candidates != 0) {
    // Measured for one k: in proportion for a larger one.
    const uint64_t measured_k = std::max<uint32_t>(snapshot.widths.measured_k, 1);
    const uint64_t ratio = std::max<uint64_t>(1, (plan.k + measured_k - 1) / measured_k);
    candidates = snapshot.widths.candidates * ratio;
    if (rerank_candidates == 0) rerank_candidates = snapshot.widths.rerank_candidates * ratio;
    if (planes == 0) planes = snapshot.widths.planes;
  }
  widths.adaptive = candidates == 0 && rerank_candidates == 0;
  if (planes == 0 && snapshot.widths.candidates == 0) planes = snapshot.widths.planes;
  widths.planes = planes == kAllPlanes                         ? kAllPlanes
                  : planes == 2 && snapshot.spec->bits >= 2 ? 2
                                                            : 1;
  if (candidates == 0) candidates = std::max<uint64_t>(kAdaptiveCapacity, 8 * plan.k);
  candidates = std::max<uint64_t>(candidates * growth, k);
  widths.capacity = std::min(candidates, std::max<uint64_t>(rows, k));
  if (rerank_candidates != 0) {
    widths.rerank_candidates = std::max<uint64_t>(rerank_candidates * growth, k);
  }
  return widths;
}

float MarginScale(double recall) {
  struct Point {
    double recall;
    double scale;
  };
  constexpr Point kPoints[] = {{0, 0.4}, {0.8, 0.5}, {0.9, 0.6}, {0.95, 0.7},
                               {0.98, 0.82}, {0.99, 0.92}, {0.995, 1}};
  const Point* high = std::find_if(std::begin(kPoints), std::end(kPoints),
                                   [&](const Point& point) { return point.recall >= recall; });
  if (high == std::end(kPoints)) return 1;
  if (high == kPoints) return static_cast<float>(high->scale);
  const Point& low = *(high - 1);
  const double part = (recall - low.recall) / (high->recall - low.recall);
  return static_cast<float>(low.scale + part * (high->scale - low.scale));
}

PrefixModel MakePrefixModel(const Quantizer& quantizer, size_t planes, float query_norm,
                            float lut_step, float lut_bias, bool final_is_exact) {
  const uint32_t dim = quantizer.layout().dim;
  const uint32_t bits = quantizer.layout().bits;
  const LevelCodebook& codebook = quantizer.codebook();
  PrefixModel model;
  double lut_weight = 0;  // of one table look-up's rounding in dot
  double lut_worst = 0;
  if (planes == 1) {
    model.mul1 = lut_step;
    model.add = lut_bias;
    lut_weight = lut_worst = 1;
  } else if (planes == 2) {
    model.mul1 = codebook.m * lut_step;
    model.mul2 = codebook.delta * lut_step;
    model.add = (codebook.m + codebook.delta) * lut_bias;
    lut_weight = std::hypot(codebook.m, codebook.delta);
    lut_worst = std::fabs(codebook.m) + std::fabs(codebook.delta);
  }
  const double mse = PrefixMse(planes);
  const double level_norm = LevelNorm(codebook, planes, dim);
  // Few coordinates: the angle varies from row to row.
  const double sine = std::min(1.0, std::sqrt(mse) * (1 + 4.0 / dim));
  double share = 1;  // of the error that the final score does not share
  if (!final_is_exact) share -= std::min(1.0, TanSquared(PrefixMse(bits)) / TanSquared(mse));
  const double nibbles = std::ceil(dim / 4.0);
  const double code_sigma =
      dim == 1 ? 0 : query_norm * level_norm * sine * std::sqrt(share / (dim - 1));
  const double lut_sigma = lut_weight * lut_step * std::sqrt(nibbles / 12);
  model.sigma = static_cast<float>(std::hypot(code_sigma, lut_sigma) * (1 + 1e-6));
  // Both errors at most: |x| tan(angle) <= scale * |y|, and a quarter of a step a
  // coordinate.
  // Against another code's score, whose own error is no larger, twice the first.
  model.bound = static_cast<float>((final_is_exact ? 1 : 2) * query_norm * level_norm +
                                   lut_worst * lut_step * nibbles);
  model.typical_scale = static_cast<float>(1 / (level_norm * std::sqrt(1 - mse)));
  return model;
}

float CosineShrink(float cosine) {
  const float clamped = std::clamp(cosine, 0.0f, 1.0f);
  return std::sqrt(std::max(0.25f, 1 - clamped * clamped));
}

bool ScoreDirectly(const Snapshot& snapshot, const SearchPlan& plan, uint64_t matching_rows) {
  const uint64_t few = std::max<uint64_t>({256, 4 * plan.k, 2 * plan.widths.candidates});
  return matching_rows <= std::max<uint64_t>(few, snapshot.live_rows / 64);
}

}  // namespace quash
