#include "libquashdb/recall_curve.h"

#include <algorithm>
#include <cmath>

namespace quash {

double RecallOf(std::span<const RecallPoint> curve, double nprobe) {
  if (curve.empty() || nprobe < curve.front().nprobe) return -1;
  const auto above = std::find_if(curve.begin(), curve.end(),
                                  [&](const RecallPoint& point) { return point.nprobe > nprobe; });
  if (above == curve.end()) return curve.back().recall;
  const RecallPoint& low = *std::prev(above);
  const double share = std::log(nprobe / low.nprobe) /
                       std::log(static_cast<double>(above->nprobe) / low.nprobe);
  return low.recall + share * (double{above->recall} - low.recall);
}

uint32_t NprobeFor(std::span<const RecallPoint> curve, double recall) {
  const auto high = std::find_if(curve.begin(), curve.end(),
                                 [&](const RecallPoint& point) { return point.recall >= recall; });
  if (high == curve.end()) return 0;
  if (high == curve.begin()) return high->nprobe;
  const RecallPoint& low = *std::prev(high);
  const double share = (recall - low.recall) / (double{high->recall} - low.recall);
  const double nprobe = low.nprobe * std::pow(static_cast<double>(high->nprobe) / low.nprobe, share);
  return std::clamp(static_cast<uint32_t>(std::ceil(nprobe - 1e-6)), low.nprobe + 1, high->nprobe);
}

double RecallInForce(const Snapshot& snapshot, const SearchPlan& plan) {
  if (plan.recall > 0 || plan.nprobe > 0 || snapshot.gpu != nullptr) return plan.recall;
  return snapshot.partitions != nullptr ? snapshot.widths.recall_target : 0;
}

}  // namespace quash
