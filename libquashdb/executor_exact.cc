#include "libquashdb/executor_exact.h"

#include <algorithm>
#include <bit>
#include <span>

#include "libquashdb/executor_merge.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/executor_plane_scan.h"
#include "libquashdb/executor_query.h"
#include "libquashdb/executor_score.h"

namespace quash {
namespace {

// One pass over `ranges` for a tile of queries: a block of the tier stays in
// cache while every query is scored against it.
Status ScoreRanges(const Snapshot& snapshot, const MatchingRows& matching,
                   std::span<const BlockRange> ranges, std::span<const RerankScore> scores,
                   QueryProgress* progress, std::span<TopHits> best, uint64_t* bytes) {
  const size_t row_bytes = scores[0].row_bytes();
  for (const BlockRange& range : ranges) {
    QUASH_RETURN_IF_ERROR(progress->Add(0));
    const Segment& segment = *snapshot.segments[range.segment].segment;
    const uint32_t* mask = matching.mask(range.segment);
    for (uint32_t block = range.begin; block < range.end; ++block) {
      if (mask[block] == 0) continue;
      const void* data = nullptr;
      const float* row_scales = nullptr;
      Pin pin;
      QUASH_RETURN_IF_ERROR(segment.RerankBlock(block, &data, &row_scales, &pin));
      *bytes += std::popcount(mask[block]) * row_bytes;
      for (size_t q = 0; q < scores.size(); ++q) {
        for (uint32_t word = mask[block]; word != 0; word &= word - 1) {
          const uint32_t r = std::countr_zero(word);
          const float scale = row_scales != nullptr ? row_scales[r] : 1.0f;
          best[q].Push(scores[q](static_cast<const char*>(data) + r * row_bytes, scale),
                       RowIndex(range.segment, block * kBlockRows + r));
        }
      }
    }
  }
  return Status();
}

Status SearchExactTile(const Snapshot& snapshot, const MatchingRows& matching, const float* queries,
                       size_t nq, const SearchPlan& plan, size_t threads, QueryProgress* progress,
                       std::vector<Hit>* hits, uint64_t* bytes) {
  std::vector<PreparedQuery> prepared(nq);
  std::vector<RerankScore> scores;
  for (size_t q = 0; q < nq; ++q) {
    prepared[q].Prepare(snapshot, queries + q * snapshot.spec->dim, 1,
                        PreparedQuery::Against::kTier);
    scores.emplace_back(snapshot, prepared[q]);
  }
  const auto parts = matching.Partition(threads, nullptr);
  std::vector<std::vector<TopHits>> best(parts.size(),
                                         std::vector<TopHits>(nq, TopHits(snapshot, plan)));
  std::vector<uint64_t> part_bytes(parts.size());
  QUASH_RETURN_IF_ERROR(ParallelFor(parts.size(), threads, [&](size_t i) {
    return ScoreRanges(snapshot, matching, parts[i], scores, progress, best[i], &part_bytes[i]);
  }));
  for (size_t q = 0; q < nq; ++q) {
    hits[q].clear();
    if (parts.empty()) continue;
    for (size_t i = 1; i < parts.size(); ++i) best[0][q].Merge(best[i][q]);
    QUASH_RETURN_IF_ERROR(best[0][q].Finish(&hits[q]));
  }
  for (uint64_t read : part_bytes) *bytes += read;
  return progress->Add(nq);
}

}  // namespace

uint64_t FinalRowBytes(const Snapshot& snapshot) {
  const uint64_t dim = snapshot.spec->dim;
  switch (snapshot.spec->rerank) {
    case QUASH_RERANK_F32:
      return dim * sizeof(float);
    case QUASH_RERANK_F16:
      return dim * sizeof(uint16_t);
    case QUASH_RERANK_INT8:
      return dim + sizeof(float);
    default:
      return snapshot.quantizer->layout().row_code_bytes() + sizeof(float);
  }
}

Status SearchExact(const Snapshot& snapshot, const MatchingRows& matching, const float* queries,
                   size_t nq, const SearchPlan& plan, size_t threads, QueryProgress* progress,
                   std::vector<std::vector<Hit>>* hits, uint64_t* bytes) {
  const bool over_queries = nq >= threads;
  const size_t tile =
      over_queries ? std::clamp<size_t>(nq / threads, 1, kTileQueries) : std::min(nq, kTileQueries);
  const size_t tiles = (nq + tile - 1) / tile;
  std::vector<uint64_t> tile_bytes(tiles);
  QUASH_RETURN_IF_ERROR(ParallelFor(tiles, over_queries ? threads : 1, [&](size_t i) {
    const size_t first = i * tile;
    return SearchExactTile(snapshot, matching, queries + first * snapshot.spec->dim,
                           std::min(tile, nq - first), plan, over_queries ? 1 : threads, progress,
                           hits->data() + first, &tile_bytes[i]);
  }));
  for (uint64_t read : tile_bytes) *bytes += read;
  return Status();
}

Status SearchDirectly(const Snapshot& snapshot, const MatchingRows& matching, const float* queries,
                      size_t nq, const SearchPlan& plan, size_t threads, QueryProgress* progress,
                      std::vector<std::vector<Hit>>* hits, uint64_t* bytes) {
  const std::vector<uint64_t> rows = matching.List();
  const bool over_queries = nq >= threads;
  const auto against = snapshot.spec->rerank == QUASH_RERANK_NONE ? PreparedQuery::Against::kCodes
                                                                  : PreparedQuery::Against::kTier;
  *bytes += nq * rows.size() * FinalRowBytes(snapshot);
  return ParallelFor(nq, over_queries ? threads : 1, [&](size_t q) -> Status {
    static thread_local PreparedQuery query;
    static thread_local std::vector<float> scores;
    query.Prepare(snapshot, queries + q * snapshot.spec->dim, 1, against);
    scores.resize(rows.size());
    QUASH_RETURN_IF_ERROR(
        ScoreFinal(snapshot, query, rows, over_queries ? 1 : threads, scores.data()));
    TopHits best(snapshot, plan);
    for (size_t i = 0; i < rows.size(); ++i) best.Push(scores[i], rows[i]);
    QUASH_RETURN_IF_ERROR(best.Finish(&(*hits)[q]));
    return progress->Add(1);
  });
}

}  // namespace quash
