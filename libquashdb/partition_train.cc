#include "libquashdb/partition_train.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "kernels/dispatch.h"
#include "libquashdb/executor_parallel.h"
#include "libquashdb/executor_rows.h"
#include "libquashdb/row_reader.h"

namespace quash {
namespace {

constexpr size_t kSamplePerList = 32;
constexpr size_t kSampleBytes = 512 << 20;  // of vectors held while training
constexpr int kIterations = 5;
constexpr size_t kRowsAtOnce = 64;  // per task

// Distinct live rows at random, one from each of `sample` equal stretches.
std::vector<uint64_t> SampleLiveRows(const Snapshot& snapshot, uint64_t sample) {
  const uint64_t live = snapshot.live_rows;
  sample = std::min(sample, live);
  std::mt19937_64 random(live);
  std::vector<uint64_t> rows;
  rows.reserve(sample);
  const auto rank_of = [&](uint64_t i) {
    const uint64_t begin = i * live / sample, end = (i + 1) * live / sample;
    return begin + random() % (end - begin);
  };
  uint64_t next = sample > 0 ? rank_of(0) : 0, passed = 0;
  for (uint32_t s = 0; s < snapshot.segments.size() && rows.size() < sample; ++s) {
    const std::vector<uint32_t>& live_words = *snapshot.segments[s].live;
    for (uint32_t b = 0; b < live_words.size() && rows.size() < sample; ++b) {
      const auto count = static_cast<uint64_t>(std::popcount(live_words[b]));
      uint32_t word = live_words[b];
      for (uint64_t rank = passed; word != 0; ++rank, word &= word - 1) {
        if (rank != next) continue;
        rows.push_back(
            RowIndex(s, static_cast<uint32_t>(b * kBlockRows + std::countr_zero(word))));
        if (rows.size() == sample) break;
        next = rank_of(rows.size());
      }
      passed += count;
    }
  }
  return rows;
}

void Normalise(float* vector, size_t dim) {
  double sum = 0;
  for (size_t j = 0; j < dim; ++j) sum += double{vector[j]} * vector[j];
  if (sum == 0) return;
  const auto inverse = static_cast<float>(1 / std::sqrt(sum));
  for (size_t j = 0; j < dim; ++j) vector[j] *= inverse;
}

// Empty clusters take half of a large one.
void RefillEmpty(std::vector<uint32_t>* counts, std::vector<float>* centroids, size_t dim) {
  for (size_t empty = 0; empty < counts->size(); ++empty) {
    if ((*counts)[empty] != 0) continue;
    const size_t largest = static_cast<size_t>(
        std::max_element(counts->begin(), counts->end()) - counts->begin());
    if ((*counts)[largest] < 2) return;
    float* to = centroids->data() + empty * dim;
    float* from = centroids->data() + largest * dim;
    constexpr float kApart = 1.0f / 64;
    for (size_t j = 0; j < dim; ++j) {
      to[j] = from[j] * (j % 2 == 0 ? 1 + kApart : 1 - kApart);
      from[j] *= j % 2 == 0 ? 1 - kApart : 1 + kApart;
    }
    (*counts)[empty] = (*counts)[largest] / 2;
    (*counts)[largest] -= (*counts)[empty];
  }
}

// Nearest centroid of vectors 0 to n - 1.
//   make_read()      for each few neighbouring vectors, a function of (i, vector)
//                    that puts vector i, [dim], where it is told
template <typename MakeRead>
Status Assign(const Snapshot& snapshot, const Centroids& centroids, size_t n, size_t threads,
              const StopRequested& stop, const MakeRead& make_read, uint32_t* lists) {
  const size_t dim = snapshot.spec->dim;
  const size_t tasks = (n + kRowsAtOnce - 1) / kRowsAtOnce;
  return ParallelFor(tasks, threads, [&](size_t task) -> Status {
    if (stop && stop()) return Status(QUASH_CANCELLED, "stopped");
    static thread_local std::vector<PreparedQuery> queries(kRowsAtOnce);
    std::vector<float> vector(dim);
    auto read = make_read();
    const size_t first = task * kRowsAtOnce;
    const size_t count = std::min(kRowsAtOnce, n - first);
    for (size_t i = 0; i < count; ++i) {
      QUASH_RETURN_IF_ERROR(read(first + i, vector.data()));
      queries[i].Prepare(snapshot, vector.data(), 1, PreparedQuery::Against::kPlanes);
    }
    std::vector<Centroids::Scored> nearest[kRowsAtOnce];
    centroids.Nearest(std::span<const PreparedQuery>(queries).first(count), 1,
                      Centroids::Rank::kVectors, nearest);
    for (size_t i = 0; i < count; ++i) lists[first + i] = nearest[i][0].list;
    return Status();
  });
}

}  // namespace

size_t RowsPerList(uint64_t rows) {
  return std::max<size_t>(64, static_cast<size_t>(std::sqrt(static_cast<double>(rows)) / 4));
}

Status AssignRows(const Snapshot& snapshot, const Centroids& centroids,
                  std::span<const uint64_t> rows, size_t threads, const StopRequested& stop,
                  uint32_t* lists) {
  const auto make_read = [&] {
    return [&rows, reader = VectorReader(snapshot)](size_t i, float* vector) mutable {
      return reader.Read(SegmentOf(rows[i]), RowOf(rows[i]), vector);
    };
  };
  return Assign(snapshot, centroids, rows.size(), threads, stop, make_read, lists);
}

Status AssignAmong(const Snapshot& snapshot, const Centroids& centroids,
                   std::span<const uint64_t> rows, std::span<const uint32_t> choices,
                   uint32_t* lists) {
  std::vector<float> vector(snapshot.spec->dim);
  VectorReader reader(snapshot);
  for (size_t i = 0; i < rows.size(); ++i) {
    QUASH_RETURN_IF_ERROR(reader.Read(SegmentOf(rows[i]), RowOf(rows[i]), vector.data()));
    lists[i] = choices[0];
    float best = centroids.Score(vector.data(), choices[0]);
    for (const uint32_t choice : choices.subspan(1)) {
      const float score = centroids.Score(vector.data(), choice);
      if (score > best || (score == best && choice < lists[i])) {
        best = score;
        lists[i] = choice;
      }
    }
  }
  return Status();
}

Status TrainCentroids(const Snapshot& snapshot, size_t num_lists, size_t threads,
                      const StopRequested& stop, std::vector<float>* centroids) {
  const size_t dim = snapshot.spec->dim;
  const bool is_l2 = snapshot.spec->metric == QUASH_METRIC_L2;
  const size_t most = std::max(num_lists, kSampleBytes / (dim * sizeof(float)));
  const std::vector<uint64_t> sample =
      SampleLiveRows(snapshot, std::min(num_lists * kSamplePerList, most));
  num_lists = std::min(num_lists, sample.size());
  // As the collection compares them: of norm 1 but for L2.
  std::vector<float> vectors(sample.size() * dim);
  QUASH_RETURN_IF_ERROR(ParallelFor(sample.size(), threads, [&](size_t i) {
    float* vector = vectors.data() + i * dim;
    QUASH_RETURN_IF_ERROR(ReadVector(snapshot, SegmentOf(sample[i]), RowOf(sample[i]), vector));
    if (!is_l2) Normalise(vector, dim);
    return Status();
  }));

  centroids->resize(num_lists * dim);
  for (size_t i = 0; i < num_lists; ++i) {
    const size_t from = i * sample.size() / num_lists;
    std::memcpy(centroids->data() + i * dim, vectors.data() + from * dim, dim * sizeof(float));
  }
  std::vector<uint32_t> lists(sample.size());
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    const Centroids now(*snapshot.spec, *snapshot.quantizer, centroids->data(), num_lists);
    const auto make_read = [&] {
      return [&](size_t i, float* vector) {
        std::memcpy(vector, vectors.data() + i * dim, dim * sizeof(float));
        return Status();
      };
    };
    QUASH_RETURN_IF_ERROR(
        Assign(snapshot, now, sample.size(), threads, stop, make_read, lists.data()));
    std::vector<uint32_t> counts(num_lists);
    std::vector<float> sums(num_lists * dim);
    for (size_t i = 0; i < sample.size(); ++i) {
      float* sum = sums.data() + lists[i] * dim;
      const float* vector = vectors.data() + i * dim;
      for (size_t j = 0; j < dim; ++j) sum[j] += vector[j];
      ++counts[lists[i]];
    }
    for (size_t c = 0; c < num_lists; ++c) {
      if (counts[c] == 0) continue;
      for (size_t j = 0; j < dim; ++j) {
        (*centroids)[c * dim + j] = sums[c * dim + j] / static_cast<float>(counts[c]);
      }
    }
    RefillEmpty(&counts, centroids, dim);
    if (!is_l2) {
      for (size_t c = 0; c < num_lists; ++c) Normalise(centroids->data() + c * dim, dim);
    }
  }
  return Status();
}

void TwoMeans(bool is_l2, const float* vectors, size_t n, size_t dim, float* centroids) {
  const ScanKernels& kernels = Kernels();
  // Two rows far apart to begin with.
  const auto farthest = [&](const float* from) {
    size_t best = 0;
    float distance = -1;
    for (size_t i = 0; i < n; ++i) {
      const float d = kernels.l2_f32(vectors + i * dim, from, dim);
      if (d > distance) distance = d, best = i;
    }
    return best;
  };
  const size_t a = farthest(vectors), b = farthest(vectors + a * dim);
  std::memcpy(centroids, vectors + a * dim, dim * sizeof(float));
  std::memcpy(centroids + dim, vectors + b * dim, dim * sizeof(float));
  std::vector<std::pair<float, size_t>> lean(n);  // towards the second, and the row
  for (int iteration = 0; iteration < kIterations; ++iteration) {
    for (size_t i = 0; i < n; ++i) {
      const float* vector = vectors + i * dim;
      lean[i] = {kernels.l2_f32(vector, centroids, dim) -
                     kernels.l2_f32(vector, centroids + dim, dim),
                 i};
    }
    std::sort(lean.begin(), lean.end());
    size_t cut = static_cast<size_t>(
        std::lower_bound(lean.begin(), lean.end(), std::pair<float, size_t>(0, 0)) - lean.begin());
    // Neither side gets less than a quarter.
    cut = std::clamp(cut, std::max<size_t>(n / 4, 1), n - std::max<size_t>(n / 4, 1));
    for (int side = 0; side < 2; ++side) {
      float* centroid = centroids + side * dim;
      std::fill(centroid, centroid + dim, 0.0f);
      const size_t begin = side == 0 ? 0 : cut, end = side == 0 ? cut : n;
      for (size_t i = begin; i < end; ++i) {
        const float* vector = vectors + lean[i].second * dim;
        for (size_t j = 0; j < dim; ++j) centroid[j] += vector[j];
      }
      for (size_t j = 0; j < dim; ++j) centroid[j] /= static_cast<float>(end - begin);
      if (!is_l2) Normalise(centroid, dim);
    }
  }
}

}  // namespace quash
