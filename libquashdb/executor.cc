#include "libquashdb/executor.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "kernels/cuda/device.h"
#include "libquashdb/executor_exact.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/executor_plan.h"
#include "libquashdb/executor_plane_scan.h"
#include "libquashdb/executor_progress.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/executor_staged.h"
#include "libquashdb/gpu_batch.h"

namespace quash {
namespace {

// Waking a thread costs about as long as reading this much.
constexpr uint64_t kBytesPerThread = 256 << 10;

size_t ThreadsFor(size_t threads, uint64_t bytes) {
  return std::clamp<uint64_t>(bytes / kBytesPerThread, 1, threads);
}

// Tiles of queries over threads if there are enough queries, else the blocks of
// one tile after the other over threads.
Status SearchStaged(const Snapshot& snapshot, const MatchingRows& matching, const Probe& probe,
                    const float* queries, size_t nq, const SearchPlan& plan, size_t threads,
                    QueryProgress* progress, std::vector<std::vector<Hit>>* hits,
                    StagedCounts* counts) {
  const bool on_gpu = snapshot.gpu != nullptr && !probe.enabled();
  const StagedSearch search = {snapshot, matching, probe, plan};
  std::optional<cuda::DeviceScope> device_scope;
  if (on_gpu) {
    device_scope.emplace();
    std::vector<size_t> open;
    QUASH_RETURN_IF_ERROR(SearchBatchOnGpu(snapshot, matching, queries, nq, plan, threads, progress,
                                           hits->data(), counts, &open));
    if (open.size() < nq) {
      for (size_t q : open) {
        QUASH_RETURN_IF_ERROR(SearchStagedTile(search, queries + q * snapshot.spec->dim, 1,
                                               threads, &(*hits)[q], counts));
        QUASH_RETURN_IF_ERROR(progress->Add(1));
      }
      return Status();
    }
  }
  // A GPU takes large tiles one after the other, each with all threads.
  const bool over_queries = !on_gpu && nq >= threads;
  const size_t share = over_queries ? (nq + threads - 1) / threads : nq;
  const size_t tile = std::clamp<size_t>(share, 1, on_gpu ? kMaxTileQueries : kTileQueries);
  const size_t tiles = (nq + tile - 1) / tile;
  std::vector<StagedCounts> tile_counts(tiles);
  QUASH_RETURN_IF_ERROR(ParallelFor(tiles, over_queries ? threads : 1, [&](size_t i) -> Status {
    const size_t first = i * tile, count = std::min(tile, nq - first);
    QUASH_RETURN_IF_ERROR(SearchStagedTile(search, queries + first * snapshot.spec->dim, count,
                                           over_queries ? 1 : threads, hits->data() + first,
                                           &tile_counts[i]));
    return progress->Add(count);
  }));
  for (const StagedCounts& one : tile_counts) counts->Add(one);
  return Status();
}

void AddStage(const char* name, StageStats stage, SearchStats* stats) {
  if (stage.rows_in == 0) return;
  stage.name = name;
  stats->stages.push_back(std::move(stage));
}

uint64_t HitCount(const std::vector<std::vector<Hit>>& hits) {
  uint64_t count = 0;
  for (const auto& list : hits) count += list.size();
  return count;
}

}  // namespace

Status Search(const Snapshot& snapshot, const float* queries, size_t nq, const SearchPlan& plan,
              std::vector<std::vector<Hit>>* hits, SearchStats* stats) {
  const auto start = std::chrono::steady_clock::now();
  const bool has_tier = snapshot.spec->rerank != QUASH_RERANK_NONE;
  if (plan.k == 0) return Error(QUASH_INVALID, "k is 0, expected 1 to {}", QUASH_K_MAX);
  if (plan.exact && !has_tier) {
    return Error(QUASH_INVALID, "exact search needs a rerank tier, \"{}\" has rerank none",
                 snapshot.spec->name);
  }
  hits->resize(nq);
  for (auto& list : *hits) list.clear();
  if (stats != nullptr) *stats = SearchStats();
  if (nq == 0) return Status();

  const size_t threads = ThreadCount(plan.threads);
  MatchingRows matching;
  QUASH_RETURN_IF_ERROR(
      matching.Evaluate(snapshot, plan.filter.get(), ThreadsFor(threads, snapshot.live_rows * 4)));
  SearchStats unused;
  if (stats == nullptr) stats = &unused;
  stats->rows = snapshot.live_rows;
  stats->matching_rows = matching.count();

  QueryProgress progress(plan, nq);
  StageStats one;
  one.rows_in = nq * matching.count();
  if (plan.exact) {
    stats->mode = "exact";
    const uint64_t bytes = one.rows_in * FinalRowBytes(snapshot);
    QUASH_RETURN_IF_ERROR(SearchExact(snapshot, matching, queries, nq, plan,
                                      ThreadsFor(threads, bytes), &progress, hits, &one.bytes));
    one.rows_out = HitCount(*hits);
    AddStage("exact", one, stats);
  } else if (ScoreDirectly(snapshot, plan, matching.count())) {
    stats->mode = "direct";
    const uint64_t bytes = one.rows_in * FinalRowBytes(snapshot);
    QUASH_RETURN_IF_ERROR(SearchDirectly(snapshot, matching, queries, nq, plan,
                                         ThreadsFor(threads, bytes), &progress, hits, &one.bytes));
    one.rows_out = HitCount(*hits);
    AddStage(has_tier ? "rerank" : "full code", one, stats);
  } else {
    const Probe probe(snapshot, plan, matching);
    stats->mode = probe.enabled() ? "partitions" : "staged";
    const Widths widths = ChooseWidths(snapshot, plan, plan.k);
    const CodeLayout& layout = snapshot.quantizer->layout();
    uint64_t bytes =
        one.rows_in * std::min<size_t>(widths.planes, layout.bits) * layout.plane_bytes();
    if (probe.enabled()) bytes = bytes * probe.nprobe(1) / snapshot.partitions->num_lists();
    StagedCounts counts;
    QUASH_RETURN_IF_ERROR(SearchStaged(snapshot, matching, probe, queries, nq, plan,
                                       ThreadsFor(threads, bytes), &progress, hits, &counts));
    stats->gpu_queries = counts.gpu_queries;
    stats->gpu_note = counts.gpu_note;
    stats->widths.planes = static_cast<uint32_t>(widths.planes);
    stats->widths.candidates = static_cast<uint32_t>(counts.plane_scan.rows_out / nq);
    stats->widths.rerank_candidates =
        has_tier ? static_cast<uint32_t>(counts.final.rows_in / nq) : 0;
    if (probe.enabled()) {
      stats->lists = snapshot.partitions->num_lists();
      stats->nprobe = counts.probed_lists / nq;
      if (probe.coded()) {
        counts.full_code.rows_out = counts.plane_scan.rows_out;
      } else {
        counts.probe.rows_out = counts.plane_scan.rows_out;
      }
    }
    AddStage("probe", counts.probe, stats);
    AddStage("plane scan", counts.plane_scan, stats);
    AddStage("refine", counts.refine, stats);
    AddStage("full code", counts.full_code, stats);
    AddStage(has_tier ? "rerank" : "full code", counts.final, stats);
  }
  const std::chrono::duration<double, std::micro> elapsed =
      std::chrono::steady_clock::now() - start;
  stats->elapsed_us = elapsed.count();
  return Status();
}

}  // namespace quash
