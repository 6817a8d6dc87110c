// What a search decides before it reads rows: stage widths, and how far the
// score of a plane prefix may lie from the final one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/codebook.h"
#include "kernels/encode.h"
#include "libquashdb/executor.h"
#include "libquashdb/snapshot.h"
#include "quashdb.h"

namespace quash {

// Standard errors kept as margin. Adaptive widths drop a row whose estimate
// plus margin does not reach the k-th best; range bounds and page borders use
// the widest one, since a row they drop is lost however large k is.
inline constexpr float kScanSigmas = 3.25f;   // below the k-th best estimate
inline constexpr float kRerankSigmas = 2.5f;  // below the k-th best final score
inline constexpr float kBoundSigmas = 5.0f;   // of min_score and the cursor

// Planes of a scan that reads whole codes, at any number of bits.
inline constexpr size_t kAllPlanes = QUASH_PLANES_ALL;

struct Widths {
  size_t planes = 1;             // scanned over all rows: 1, 2 or kAllPlanes
  size_t capacity = 0;           // most survivors of the plane scan
  bool adaptive = true;          // margins decide how many of them are scored
  float margin_scale = 1;        // of those margins
  bool coded = false;            // survivors' estimates are of whole codes
  size_t rerank_candidates = 0;  // fixed widths: rows scored from the rerank tier, 0: all
};

// Widths of the plan, else those kept in the snapshot, else adaptive. `k` is
// that of this attempt, which may exceed plan.k.
Widths ChooseWidths(const Snapshot& snapshot, const SearchPlan& plan, size_t k);

// Of the margins of a probing search, where a share of the best k is enough: they then
// cost about half of what may be missed. Measured on sentence embeddings.
float MarginScale(double recall);

// A score from a plane prefix is
//   row scale * (mul1 * sums1 + mul2 * sums2 + add)
// where the parenthesis ("dot") estimates <q, x> / scale. With w the part of
// the levels orthogonal to the row, the error is |x| <q, w>: its standard error
// is |q| |x| tan(angle of u and y) / sqrt(d - 1), and |x| tan(angle) is
// scale * |y| sin(angle).
struct PrefixModel {
  float mul1 = 0;
  float mul2 = 0;
  float add = 0;
  float sigma = 0;          // standard error of dot against the final score's dot
  float bound = 0;          // dot is never further off
  float typical_scale = 0;  // of a unit vector

  float Margin(float sigmas) const { return sigmas * sigma < bound ? sigmas * sigma : bound; }
};

// What the errors of estimates of a cosine collection are multiplied by where the
// cosine is about `cosine`: they come from the part of the query across the row.
float CosineShrink(float cosine);

// Model of the first `planes` planes (1, 2, or all bits for the full code, whose
// mul and add stay 0) for a query of the given norm.
//   lut_step, lut_bias  of its PlaneLut
//   final_is_exact      the final score is the rerank tier's, else the full code's
PrefixModel MakePrefixModel(const Quantizer& quantizer, size_t planes, float query_norm,
                            float lut_step, float lut_bias, bool final_is_exact);

// Few enough matching rows to score each one instead of scanning planes.
bool ScoreDirectly(const Snapshot& snapshot, const SearchPlan& plan, uint64_t matching_rows);

}  // namespace quash
