// Cost of attention over packed pages of 64 tokens on one core, everything in L1,
// every instruction set of this CPU.
//
//   page/ISA/dim/bits/nv        one page of one KV head for nv query rows: levels of K,
//                               scores, levels of V, sums of V
//   page_softmax/ISA/...        the same with the softmax between and the float sums
//                               after: what one page costs but for its scales
//   unpack/ISA/dim/bits         levels of K alone
//   dots/ISA/dim/nv             scores of K alone, levels given
//   exp_sum/ISA/n               one run of n scores
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#include "kernels/attend.h"
#include "kernels/codebook.h"
#include "kernels/dispatch.h"
#include "kernels/random.h"

namespace quash {
namespace {

constexpr size_t kTokens = 64;

// Of whole cache lines, as the buffers of the cache are.
template <typename T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <typename U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t n) {
    return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* data, size_t) { ::operator delete (data, std::align_val_t{64}); }
  bool operator==(const LineAllocator&) const = default;
};
template <typename T>
using Lines = std::vector<T, LineAllocator<T>>;

// One page, its query rows and the buffers of a pass over it.
struct Page {
  Page(size_t dim, size_t bits, size_t nv) : dim(dim), bits(bits), nv(nv) {
    Random random(1);
    for (uint8_t& byte : keys) byte = static_cast<uint8_t>(random.Next());
    for (uint8_t& byte : values) byte = static_cast<uint8_t>(random.Next());
    for (int16_t& x : queries) x = static_cast<int16_t>(random.Below(4001) - 2000);
    for (int16_t& x : weights) x = static_cast<int16_t>(random.Below(4001));
  }

  size_t dim, bits, nv;
  LevelCodebook codebook = MakeLevelCodebook(GetCodebook(128, static_cast<uint32_t>(bits)));
  Lines<uint8_t> keys = Lines<uint8_t>(kTokens * dim * bits / 8 + 8);
  Lines<uint8_t> values = Lines<uint8_t>(kTokens * dim * bits / 8 + 8);
  Lines<int8_t> levels = Lines<int8_t>(kTokens * dim + 32);
  Lines<int16_t> queries = Lines<int16_t>(nv * dim);
  Lines<int16_t> weights = Lines<int16_t>(nv * kTokens);
  Lines<int32_t> score_sums = Lines<int32_t>(nv * kTokens);
  Lines<int32_t> value_sums = Lines<int32_t>(nv * dim);
  Lines<float> probabilities = Lines<float>(nv * kTokens);
  Lines<float> outputs = Lines<float>(nv * dim);

  void Unpack(const AttendKernels* kernels) {
    kernels->unpack_levels(keys.data(), kTokens, dim, bits, codebook.levels, levels.data());
  }
  void Scores(const AttendKernels* kernels) {
    kernels->level_dots(levels.data(), kTokens, dim, queries.data(), nv, score_sums.data(),
                        kTokens);
  }
  void ValueSums(const AttendKernels* kernels) {
    kernels->unpack_levels(values.data(), dim, kTokens, bits, codebook.levels, levels.data());
    kernels->level_dots(levels.data(), dim, kTokens, weights.data(), nv, value_sums.data(), dim);
  }
};

Page PageOf(const benchmark::State& state) {
  return Page(static_cast<size_t>(state.range(0)), static_cast<size_t>(state.range(1)),
              static_cast<size_t>(state.range(2)));
}

void PageDots(benchmark::State& state, const AttendKernels* kernels) {
  Page page = PageOf(state);
  for (auto _ : state) {
    page.Unpack(kernels);
    page.Scores(kernels);
    page.ValueSums(kernels);
    benchmark::ClobberMemory();
  }
}

void PageSoftmax(benchmark::State& state, const AttendKernels* kernels) {
  Page page = PageOf(state);
  for (auto _ : state) {
    page.Unpack(kernels);
    page.Scores(kernels);
    for (size_t v = 0; v < page.nv; ++v) {
      float* scores = page.probabilities.data() + v * kTokens;
      for (size_t i = 0; i < kTokens; ++i) scores[i] = 0;
      kernels->add_scaled_i32(page.score_sums.data() + v * kTokens, kTokens, 1e-6f, scores);
      benchmark::DoNotOptimize(kernels->exp_sum(scores, kTokens, 10.0f));
      const float largest = kernels->max_abs(scores, kTokens);
      kernels->quantize_i16(scores, kTokens, 32767.0f / largest, page.weights.data() + v * kTokens);
    }
    page.ValueSums(kernels);
    kernels->add_scaled_i32(page.value_sums.data(), page.nv * page.dim, 1e-9f, page.outputs.data());
    benchmark::ClobberMemory();
  }
}

void Unpack(benchmark::State& state, const AttendKernels* kernels) {
  Page page(static_cast<size_t>(state.range(0)), static_cast<size_t>(state.range(1)), 1);
  for (auto _ : state) {
    page.Unpack(kernels);
    benchmark::ClobberMemory();
  }
}

void Dots(benchmark::State& state, const AttendKernels* kernels) {
  Page page(static_cast<size_t>(state.range(0)), 4, static_cast<size_t>(state.range(1)));
  page.Unpack(kernels);
  for (auto _ : state) {
    page.Scores(kernels);
    benchmark::ClobberMemory();
  }
}

void ExpSum(benchmark::State& state, const AttendKernels* kernels) {
  const auto n = static_cast<size_t>(state.range(0));
  std::vector<float> values(n, 0.0f);
  for (auto _ : state) {
    // Its own results are valid scores again, so the values need no reset.
    benchmark::DoNotOptimize(kernels->exp_sum(values.data(), n, 1.0f));
    benchmark::ClobberMemory();
  }
}

void RegisterFor(Isa isa) {
  const AttendKernels* kernels = AttendKernelsFor(isa);
  if (kernels == nullptr) return;
  const auto add = [kernels](const std::string& name, auto function) {
    return benchmark::RegisterBenchmark((name + "/" + kernels->name).c_str(), function, kernels);
  };
  const auto add_page = [&](const std::string& name, auto function) {
    add(name, function)
        ->ArgNames({"dim", "bits", "nv"})
        ->ArgsProduct({{64, 128}, {2, 3, 4}, {1, 4, 8}});
  };
  add_page("page", PageDots);
  add_page("page_softmax", PageSoftmax);
  add("unpack", Unpack)->ArgNames({"dim", "bits"})->ArgsProduct({{64, 96, 128}, {1, 2, 3, 4}});
  add("dots", Dots)->ArgNames({"dim", "nv"})->ArgsProduct({{64, 128}, {1, 4, 8}});
  add("exp_sum", ExpSum)->ArgName("n")->Arg(64)->Arg(512);
}

const int kRegistered = [] {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon}) RegisterFor(isa);
  return 0;
}();

}  // namespace
}  // namespace quash
