#include "libquashdb/executor_query.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/dispatch.h"

namespace quash {
namespace {

size_t Padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void PreparedQuery::Prepare(const Snapshot& snapshot, const float* query, size_t planes,
                            Against against) {
  const Quantizer& quantizer = *snapshot.quantizer;
  const CodeLayout& layout = quantizer.layout();
  const size_t dim = layout.dim;
  const size_t vector_bytes = Padded(dim * sizeof(float));
  const size_t table_bytes = Padded(Kernels().plane_table_bytes(layout.plane_bytes()));
  const size_t level_bytes = Padded(layout.plane_bytes() * 8 * sizeof(int16_t));
  const size_t weight_bytes = Padded(layout.plane_bytes() * 8);
  auto* bytes = static_cast<std::byte*>(
      buffer_.Reserve(3 * vector_bytes + table_bytes + level_bytes + weight_bytes));
  auto* vector = reinterpret_cast<float*>(bytes);
  auto* rotated = reinterpret_cast<float*>(bytes + vector_bytes);
  auto* scratch = reinterpret_cast<float*>(bytes + 2 * vector_bytes);
  auto* table = reinterpret_cast<uint8_t*>(bytes + 3 * vector_bytes);
  auto* level_values = reinterpret_cast<int16_t*>(bytes + 3 * vector_bytes + table_bytes);
  auto* weights = reinterpret_cast<int8_t*>(bytes + 3 * vector_bytes + table_bytes + level_bytes);

  double sum = 0;
  for (size_t j = 0; j < dim; ++j) sum += double{query[j]} * query[j];
  if (snapshot.spec->metric == QUASH_METRIC_COSINE && sum > 0) {
    const double inverse = 1 / std::sqrt(sum);
    for (size_t j = 0; j < dim; ++j) vector[j] = static_cast<float>(query[j] * inverse);
    sum = 1;
  } else {
    std::memcpy(vector, query, dim * sizeof(float));
  }
  vector_ = vector;
  norm_sq_ = static_cast<float>(sum);
  const bool is_l2 = snapshot.spec->metric == QUASH_METRIC_L2;
  offset_ = is_l2 ? norm_sq_ : 0;
  gain_ = is_l2 ? 2 : 1;
  if (against == Against::kTier) return;

  quantizer.rotation().Apply(vector, 1, rotated, scratch);
  levels_ = against == Against::kPlanesAlone ? LevelQuery()
                                             : BuildLevelQuery(rotated, dim, level_values);
  if (against == Against::kCodes) return;

  lut_ = BuildPlaneLut(Kernels(), rotated, dim, table, weights);
  const bool exact = snapshot.spec->rerank != QUASH_RERANK_NONE;
  const auto norm = static_cast<float>(std::sqrt(sum));
  scanned_ = MakePrefixModel(quantizer, std::min<size_t>(planes, layout.bits), norm, lut_.step, lut_.bias, exact);
  if (layout.bits >= 2) {
    two_planes_ = MakePrefixModel(quantizer, 2, norm, lut_.step, lut_.bias, exact);
  }
  full_ = MakePrefixModel(quantizer, layout.bits, norm, lut_.step, lut_.bias, exact);
}

}  // namespace quash
