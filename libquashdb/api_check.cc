// Checks of what callers pass in.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "libquashdb/api_handles.h"
#include "libquashdb/utf8.h"

namespace quash {
namespace {

// The largest magnitude, or infinity or NaN if there is one: the order of patterns is
// that of magnitudes. Signed integers, so that it vectorises.
float LargestMagnitude(const float* values, size_t n) {
  int32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<int32_t>(values[i]) & 0x7FFFFFFF);
  }
  return std::bit_cast<float>(largest);
}

// In four sums, as one is a chain of additions that each wait for the one before.
double NormSquared(const float* vector, size_t dim) {
  double sums[4] = {};
  size_t i = 0;
  for (; i + 4 <= dim; i += 4) {
    for (size_t lane = 0; lane < 4; ++lane) {
      sums[lane] += double{vector[i + lane]} * vector[i + lane];
    }
  }
  for (; i < dim; ++i) sums[0] += double{vector[i]} * vector[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

Status CheckIdCount(size_t n) {
  if (n > QUASH_BATCH_ROWS_MAX) {
    return Error(QUASH_LIMIT, "{} ids in one call, expected at most {}", n, QUASH_BATCH_ROWS_MAX);
  }
  return Status();
}

}  // namespace

Status CheckVectors(const float* vectors, size_t n, const CollectionSpec& spec, const char* what) {
  const size_t dim = spec.dim;
  for (size_t row = 0; row < n; ++row) {
    const float* vector = vectors + row * dim;
    const double largest = LargestMagnitude(vector, dim);
    if (!std::isfinite(largest)) {
      const size_t at = std::find_if_not(vector, vector + dim,
                                         [](float x) { return std::isfinite(x); }) -
                        vector;
      return Error(QUASH_INVALID, "{} {} has {} at coordinate {}, expected finite numbers", what,
                   row, vector[at], at);
    }
    // largest^2 <= |x|^2 <= dim largest^2: mostly enough to know.
    const double largest_sq = largest * largest;
    if (largest_sq * static_cast<double>(dim) <= 1e37 && largest_sq >= 1e-37) continue;
    const double norm_sq = NormSquared(vector, dim);
    if (norm_sq > 1e37) {
      return Error(QUASH_INVALID, "{} {} has norm {:.3g}, expected at most 3e18", what, row,
                   std::sqrt(norm_sq));
    }
    if (spec.metric == QUASH_METRIC_COSINE && norm_sq < 1e-37) {
      return Error(QUASH_INVALID,
                   "{} {} has norm {:.3g}: cosine is not defined for a zero vector", what, row,
                   std::sqrt(norm_sq));
    }
  }
  return Status();
}

Status CheckFitsRerank(const float* vectors, size_t n, const CollectionSpec& spec) {
  // Unit vectors always fit, and int8 rows have a scale each.
  if (spec.rerank != QUASH_RERANK_F16 || spec.metric == QUASH_METRIC_COSINE) return Status();
  constexpr float kLargestF16 = 65504;
  const size_t dim = spec.dim;
  for (size_t row = 0; row < n; ++row) {
    const float* vector = vectors + row * dim;
    if (LargestMagnitude(vector, dim) <= kLargestF16) continue;
    const size_t at = std::find_if(vector, vector + dim, [](float x) {
                        return std::fabs(x) > kLargestF16;
                      }) - vector;
    return Error(QUASH_INVALID,
                 "vector {} has {} at coordinate {}, the float16 rerank tier holds up to 65504: "
                 "scale the vectors or make the collection with rerank f32",
                 row, vector[at], at);
  }
  return Status();
}

Status CheckStringId(const char* id, size_t row, std::string* out) {
  if (id == nullptr) return Error(QUASH_INVALID, "id {} is NULL, expected a string", row);
  const size_t length = strnlen(id, QUASH_ID_BYTES_MAX + 1);
  if (length == 0) return Error(QUASH_INVALID, "id {} is empty", row);
  if (length > QUASH_ID_BYTES_MAX) {
    return Error(QUASH_LIMIT, "id {} is longer than {} bytes", row, QUASH_ID_BYTES_MAX);
  }
  if (!IsUtf8({id, length})) return Error(QUASH_INVALID, "id {} is not valid UTF-8", row);
  out->assign(id, length);
  return Status();
}

Status ParseIds(const quash_ids* ids, const CollectionSpec& spec, std::vector<Id>* out) {
  if (ids == nullptr) return NullArgument("ids");
  QUASH_RETURN_IF_ERROR(CheckIdCount(ids->n));
  out->clear();
  if (ids->n == 0) return Status();
  out->reserve(ids->n);
  if (spec.id_type == QUASH_ID_INT64) {
    if (ids->int_ids == nullptr) {
      return Error(QUASH_MISUSE, "collection \"{}\" has int64 ids, expected ids.int_ids",
                   spec.name);
    }
    out->assign(ids->int_ids, ids->int_ids + ids->n);
    return Status();
  }
  if (ids->string_ids == nullptr) {
    return Error(QUASH_MISUSE, "collection \"{}\" has string ids, expected ids.string_ids",
                 spec.name);
  }
  for (size_t i = 0; i < ids->n; ++i) {
    std::string id;
    QUASH_RETURN_IF_ERROR(CheckStringId(ids->string_ids[i], i, &id));
    out->emplace_back(std::move(id));
  }
  return Status();
}

Status CheckFilterText(const char* filter, std::string_view* text) {
  const size_t length = strnlen(filter, QUASH_FILTER_BYTES_MAX + 1);
  if (length > QUASH_FILTER_BYTES_MAX) {
    return Error(QUASH_LIMIT, "filter is longer than {} bytes", QUASH_FILTER_BYTES_MAX);
  }
  *text = {filter, length};
  return Status();
}

Status MakeSearchPlan(const quash_search_options& options, const CollectionSpec& spec,
                      uint32_t default_threads, SearchPlan* plan) {
  plan->exact = options.exact != 0;
  if (plan->exact && spec.rerank == QUASH_RERANK_NONE) {
    return Error(QUASH_INVALID,
                 "exact search needs a rerank tier, and collection \"{}\" was made with rerank none",
                 spec.name);
  }
  if (options.filter != nullptr) {
    std::string_view text;
    QUASH_RETURN_IF_ERROR(CheckFilterText(options.filter, &text));
    QUASH_RETURN_IF_ERROR(Filter::Parse(text, spec, &plan->filter));
  }
  if (std::isnan(options.min_score)) {
    return Error(QUASH_INVALID, "min_score is NaN, expected a number or -INFINITY");
  }
  plan->min_score = options.min_score;
  if (options.planes > std::min(spec.bits, 2u) && options.planes != QUASH_PLANES_ALL) {
    return Error(QUASH_INVALID, "planes is {}, expected 0 to {} for {} bits or {} for all",
                 options.planes, std::min(spec.bits, 2u), spec.bits, QUASH_PLANES_ALL);
  }
  plan->widths.candidates = options.candidates;
  plan->widths.rerank_candidates = options.rerank_candidates;
  plan->widths.planes = options.planes;
  if (!(options.recall >= 0 && options.recall <= 1)) {
    return Error(QUASH_INVALID, "recall is {}, expected 0 to 1", options.recall);
  }
  plan->nprobe = options.nprobe;
  plan->recall = options.recall;
  if (options.include & ~(QUASH_INCLUDE_METADATA | QUASH_INCLUDE_DOCUMENTS |
                          QUASH_INCLUDE_VECTORS)) {
    return Error(QUASH_INVALID, "include is {:#x}, expected QUASH_INCLUDE_ flags",
                 options.include);
  }
  plan->threads = options.threads != 0 ? options.threads : default_threads;
  if (options.has_cursor) {
    if (std::isnan(options.cursor_score)) {
      return Error(QUASH_INVALID, "cursor_score is NaN, expected a score of the page before");
    }
    plan->has_cursor = true;
    plan->cursor_score = options.cursor_score;
    if (spec.id_type == QUASH_ID_INT64) {
      plan->cursor_id = options.cursor_int_id;
    } else {
      std::string id;
      if (options.cursor_string_id == nullptr) {
        return Error(QUASH_MISUSE, "collection \"{}\" has string ids, expected cursor_string_id",
                     spec.name);
      }
      QUASH_RETURN_IF_ERROR(CheckStringId(options.cursor_string_id, 0, &id));
      plan->cursor_id = std::move(id);
    }
  }
  return Status();
}

}  // namespace quash
