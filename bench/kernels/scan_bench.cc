// Speed of the scan table on one core, every instruction set of this CPU.
//
//   scan_top200/ISA/dim/rows/planes  one whole query over a flat collection: table,
//                                    plane sums, collect and the best 200 rows
//   plane_sums/ISA/dim/rows/nq       one pass that serves nq queries. per_row is the
//                                    time of the pass, per_row_query of one query in
//                                    it; bytes_per_second counts the plane. 8,192
//                                    rows stay in L2, 50,000 in L3, 2 million come
//                                    from memory
//   others/ISA/size                  items_per_second: rows, or coordinates where the
//                                    name says so
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/codebook.h"
#include "kernels/dispatch.h"
#include "kernels/random.h"
#include "kernels/scan.h"
#include "kernels/topk.h"

namespace quash {
namespace {

template <typename T>
std::shared_ptr<T[]> AlignedArray(size_t n) {
  const size_t bytes = (n * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  return std::shared_ptr<T[]>(static_cast<T*>(std::aligned_alloc(kAlignment, bytes)),
                              [](T* data) { std::free(data); });
}

void FillRandom(void* data, size_t bytes) {
  Random random(1);
  auto* words = static_cast<uint64_t*>(data);
  for (size_t i = 0; i < bytes / 8; ++i) words[i] = random.Next();
}

std::vector<float> Gaussian(size_t n) {
  Random random(2);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.Gaussian());
  return values;
}

// Sums of a chunk stay in L1, as in the executor.
constexpr size_t kChunkBlocks = 64;
constexpr size_t kChunkRows = kChunkBlocks * kBlockRows;

void ScanTop200(benchmark::State& state, const ScanKernels* kernels) {
  const auto dim = static_cast<size_t>(state.range(0));
  const auto rows = static_cast<size_t>(state.range(1));
  const bool two_planes = state.range(2) == 2;
  constexpr size_t kKeep = 200;
  const size_t plane_bytes = PlaneBytes(dim);
  const size_t block_bytes = plane_bytes * kBlockRows;
  const size_t nblocks = NumBlocks(rows);
  const auto plane1 = AlignedArray<uint8_t>(nblocks * block_bytes);
  const auto plane2 = AlignedArray<uint8_t>(nblocks * block_bytes);
  FillRandom(plane1.get(), nblocks * block_bytes);
  FillRandom(plane2.get(), nblocks * block_bytes);
  const std::vector<float> query = Gaussian(dim);
  const std::vector<float> scale(nblocks * kBlockRows, 0.05f);
  const std::vector<uint32_t> mask(kChunkBlocks, ~0u);
  const auto table = AlignedArray<uint8_t>(kernels->plane_table_bytes(plane_bytes));
  const auto weights = AlignedArray<int8_t>(plane_bytes * 8);
  const auto sums1 = AlignedArray<uint16_t>(kChunkRows);
  const auto sums2 = AlignedArray<uint16_t>(kChunkRows);
  const auto kept_rows = AlignedArray<uint32_t>(kChunkRows);
  const auto scores = AlignedArray<float>(kChunkRows);
  std::vector<Candidate> best(2 * kKeep);
  for (auto _ : state) {
    const PlaneLut lut = BuildPlaneLut(*kernels, query.data(), dim, table.get(), weights.get());
    TopK top(best.data(), kKeep);
    for (size_t block = 0, count; block < nblocks; block += count) {
      count = std::min({block == 0 ? size_t{4} : block, kChunkBlocks, nblocks - block});
      const size_t offset = block * block_bytes;
      kernels->plane_sums(plane1.get() + offset, count, plane_bytes, &lut.table, 1, sums1.get(),
                          kChunkRows);
      if (two_planes) {
        kernels->plane_sums(plane2.get() + offset, count, plane_bytes, &lut.table, 1, sums2.get(),
                            kChunkRows);
      }
      const float* scales = scale.data() + block * kBlockRows;
      const size_t n =
          two_planes
              ? kernels->collect2(sums1.get(), sums2.get(), scales, nullptr, lut.step,
                                  0.4f * lut.step, 1.4f * lut.bias, mask.data(), count,
                                  top.threshold(), kept_rows.get(), scores.get())
              : kernels->collect(sums1.get(), scales, nullptr, lut.step, lut.bias, mask.data(),
                                 count, top.threshold(), kept_rows.get(), scores.get());
      for (size_t i = 0; i < n; ++i) top.Push(scores[i], block * kBlockRows + kept_rows[i]);
    }
    benchmark::DoNotOptimize(top.Finish());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * nblocks *
                                               (block_bytes * (two_planes ? 2 : 1) + 128)));
}

void PlaneSums(benchmark::State& state, const ScanKernels* kernels) {
  const auto dim = static_cast<size_t>(state.range(0));
  const auto rows = static_cast<size_t>(state.range(1));
  const auto nq = static_cast<size_t>(state.range(2));
  const size_t plane_bytes = PlaneBytes(dim);
  const size_t nblocks = NumBlocks(rows);
  const size_t bytes = nblocks * kBlockRows * plane_bytes;
  const auto plane = AlignedArray<uint8_t>(bytes);
  FillRandom(plane.get(), bytes);
  const size_t table_bytes = kernels->plane_table_bytes(plane_bytes);
  const auto tables = AlignedArray<uint8_t>(nq * table_bytes);
  const auto weights = AlignedArray<int8_t>(plane_bytes * 8);
  const uint8_t* luts[kPlaneSumsMaxQueries];
  for (size_t q = 0; q < nq; ++q) {
    const std::vector<float> query = Gaussian(dim);
    BuildPlaneLut(*kernels, query.data(), dim, tables.get() + q * table_bytes, weights.get());
    luts[q] = tables.get() + q * table_bytes;
  }
  const auto sums = AlignedArray<uint16_t>(nq * kChunkRows);
  for (auto _ : state) {
    for (size_t block = 0; block < nblocks; block += kChunkBlocks) {
      kernels->plane_sums(plane.get() + block * kBlockRows * plane_bytes,
                          std::min(kChunkBlocks, nblocks - block), plane_bytes, luts, nq,
                          sums.get(), kChunkRows);
    }
    benchmark::ClobberMemory();
  }
  const auto total = static_cast<double>(state.iterations() * nblocks * kBlockRows);
  using benchmark::Counter;
  const auto time_each = static_cast<Counter::Flags>(Counter::kIsRate | Counter::kInvert);
  state.counters["per_row"] = Counter(total, time_each);
  state.counters["per_row_query"] = Counter(total * static_cast<double>(nq), time_each);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * bytes));
}

// 64 blocks of sums in L1, one row in 1,000 kept.
void Collect(benchmark::State& state, const ScanKernels* kernels, bool two_planes) {
  constexpr size_t kBlocks = 64;
  constexpr size_t kRows = kBlocks * kBlockRows;
  Random random(3);
  std::vector<uint16_t> sums(kRows);
  for (uint16_t& sum : sums) sum = static_cast<uint16_t>(random.Below(1000));
  const std::vector<float> scale(kRows, 1.0f);
  const std::vector<uint32_t> mask(kBlocks, ~0u);
  std::vector<uint32_t> rows(kRows);
  std::vector<float> scores(kRows);
  for (auto _ : state) {
    const size_t kept =
        two_planes ? kernels->collect2(sums.data(), sums.data(), scale.data(), nullptr, 0.5f, 0.5f,
                                       1.0f, mask.data(), kBlocks, 1000, rows.data(), scores.data())
                   : kernels->collect(sums.data(), scale.data(), nullptr, 1.0f, 1.0f, mask.data(),
                                      kBlocks, 1000, rows.data(), scores.data());
    benchmark::DoNotOptimize(kept);
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kRows));
}

void CodeDot(benchmark::State& state, const ScanKernels* kernels) {
  const auto dim = static_cast<size_t>(state.range(0));
  const auto bits = static_cast<size_t>(state.range(1));
  constexpr size_t kRows = 256;
  const size_t plane_bytes = PlaneBytes(dim);
  const LevelCodebook codebook = MakeLevelCodebook(GetCodebook(384, static_cast<uint32_t>(bits)));
  const auto codes = AlignedArray<uint8_t>(kRows * bits * plane_bytes);
  FillRandom(codes.get(), kRows * bits * plane_bytes);
  const auto values = AlignedArray<int16_t>(plane_bytes * 8);
  BuildLevelQuery(Gaussian(dim).data(), dim, values.get());
  for (auto _ : state) {
    for (size_t row = 0; row < kRows; ++row) {
      benchmark::DoNotOptimize(kernels->code_dot(codes.get() + row * bits * plane_bytes, bits,
                                                 plane_bytes, codebook.levels, values.get()));
    }
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kRows));
}

// Rerank rows in L2.
void DotF16(benchmark::State& state, const ScanKernels* kernels) {
  const auto dim = static_cast<size_t>(state.range(0));
  constexpr size_t kRows = 256;
  const std::vector<float> values = Gaussian(kRows * dim);
  std::vector<uint16_t> rows(kRows * dim);
  kernels->f32_to_f16(values.data(), values.size(), rows.data());
  for (auto _ : state) {
    for (size_t row = 0; row < kRows; ++row) {
      benchmark::DoNotOptimize(kernels->dot_f16(rows.data() + row * dim, values.data(), dim));
    }
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * kRows));
}

void HadamardCoordinates(benchmark::State& state, const ScanKernels* kernels) {
  const auto n = static_cast<size_t>(state.range(0));
  std::vector<float> values(n);  // zeros: stays finite however often it runs
  for (auto _ : state) {
    kernels->hadamard(values.data(), n);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * n));
}

void QuantizeCoordinates(benchmark::State& state, const ScanKernels* kernels) {
  const auto dim = static_cast<size_t>(state.range(0));
  const auto bits = static_cast<uint32_t>(state.range(1));
  const LevelCodebook codebook = MakeLevelCodebook(GetCodebook(384, bits));
  std::vector<float> unit = Gaussian(dim);
  for (float& value : unit) value *= 0.05f;
  std::vector<uint8_t> codes(PlaneBytes(dim) * 8);
  for (auto _ : state) {
    kernels->quantize(unit.data(), dim, codebook.boundaries, bits, codes.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * dim));
}

// Set-up of one query.
void PlaneTable(benchmark::State& state, const ScanKernels* kernels) {
  const auto dim = static_cast<size_t>(state.range(0));
  const std::vector<float> query = Gaussian(dim);
  const auto table = AlignedArray<uint8_t>(kernels->plane_table_bytes(PlaneBytes(dim)));
  const auto weights = AlignedArray<int8_t>(PlaneBytes(dim) * 8);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        BuildPlaneLut(*kernels, query.data(), dim, table.get(), weights.get()));
    benchmark::ClobberMemory();
  }
}

// The same for all.
void BM_BuildLevelQuery(benchmark::State& state) {
  const auto dim = static_cast<size_t>(state.range(0));
  const std::vector<float> query = Gaussian(dim);
  const auto values = AlignedArray<int16_t>(PlaneBytes(dim) * 8);
  for (auto _ : state) {
    benchmark::DoNotOptimize(BuildLevelQuery(query.data(), dim, values.get()));
    benchmark::ClobberMemory();
  }
}
BENCHMARK(BM_BuildLevelQuery)->Arg(384)->Arg(768);

void RegisterFor(Isa isa) {
  const ScanKernels* kernels = KernelsFor(isa);
  if (kernels == nullptr) return;
  const auto add = [kernels](const std::string& name, auto function, auto... more) {
    return benchmark::RegisterBenchmark((name + "/" + kernels->name).c_str(), function, kernels,
                                        more...);
  };
  add("scan_top200", ScanTop200)
      ->ArgNames({"dim", "rows", "planes"})
      ->ArgsProduct({{384}, {62666}, {1, 2}})
      ->Unit(benchmark::kMicrosecond);
  add("plane_lut", PlaneTable)->ArgName("dim")->Arg(384)->Arg(768);
  add("plane_sums", PlaneSums)
      ->ArgNames({"dim", "rows", "nq"})
      ->ArgsProduct({{384, 768}, {8192, 50000, 2000000}, {1, 2, 4}});
  add("collect", Collect, false);
  add("collect2", Collect, true);
  add("code_dot", CodeDot)->ArgNames({"dim", "bits"})->ArgsProduct({{384, 768}, {2, 4}});
  add("dot_f16", DotF16)->ArgName("dim")->Arg(384)->Arg(768);
  add("hadamard_coordinates", HadamardCoordinates)->Arg(128)->Arg(256)->Arg(1024)->Arg(4096);
  add("quantize_coordinates", QuantizeCoordinates)->ArgNames({"dim", "bits"})->Args({384, 4});
}

const int kRegistered = [] {
  for (const Isa isa : kAllIsas) RegisterFor(isa);
  return 0;
}();

}  // namespace
}  // namespace quash
