// Speed of the encoder on one core, in rows per second (items_per_second).
// Arguments: dim, bits.
#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/dispatch.h"
#include "kernels/encode.h"
#include "kernels/inner_product.h"
#include "kernels/random.h"

namespace quash {
namespace {

constexpr size_t kRows = 1024;

std::vector<float> RandomVectors(size_t n, size_t dim) {
  Random random(1);
  std::vector<float> vectors(n * dim);
  for (float& value : vectors) value = static_cast<float>(random.Gaussian());
  return vectors;
}

void CountRows(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kRows));
  state.SetLabel(Kernels().name);
}

void BM_Encode(benchmark::State& state, RotationKind kind) {
  const Quantizer quantizer(static_cast<uint32_t>(state.range(0)),
                            static_cast<uint32_t>(state.range(1)), kind, 1);
  const CodeLayout& layout = quantizer.layout();
  const std::vector<float> vectors = RandomVectors(kRows, layout.dim);
  std::vector<float> scratch(quantizer.scratch_floats());
  std::vector<uint8_t> plane1(NumBlocks(kRows) * layout.block_bytes());
  std::vector<uint8_t> plane2(plane1.size());
  std::vector<uint8_t> rest(kRows * layout.rest_stride());
  std::vector<float> floats(4 * kRows);
  const CodeArrays codes = {plane1.data(),
                            plane2.data(),
                            rest.data(),
                            floats.data(),
                            floats.data() + kRows,
                            floats.data() + 2 * kRows,
                            floats.data() + 3 * kRows};
  for (auto _ : state) {
    quantizer.Encode(vectors.data(), kRows, scratch.data(), 0, codes);
    benchmark::ClobberMemory();
  }
  CountRows(state);
}

void BM_Rotate(benchmark::State& state, RotationKind kind) {
  const Rotation rotation(kind, static_cast<uint32_t>(state.range(0)), 1);
  const std::vector<float> vectors = RandomVectors(kRows, rotation.dim());
  std::vector<float> rotated(vectors.size());
  std::vector<float> scratch(rotation.dim());
  for (auto _ : state) {
    rotation.Apply(vectors.data(), kRows, rotated.data(), scratch.data());
    benchmark::ClobberMemory();
  }
  CountRows(state);
}

void BM_Decode(benchmark::State& state) {
  const Quantizer quantizer(static_cast<uint32_t>(state.range(0)),
                            static_cast<uint32_t>(state.range(1)), RotationKind::kHadamard, 1);
  std::vector<float> vectors = RandomVectors(kRows, quantizer.layout().dim);
  std::vector<float> scratch(quantizer.scratch_floats());
  std::vector<uint8_t> row_codes(kRows * quantizer.row_code_bytes());
  std::vector<float> scales(kRows);
  quantizer.EncodeRows(vectors.data(), kRows, scratch.data(), row_codes.data(), scales.data());
  for (auto _ : state) {
    quantizer.Decode(row_codes.data(), scales.data(), kRows, scratch.data(), vectors.data());
    benchmark::ClobberMemory();
  }
  CountRows(state);
}

void BM_EncodeInnerProduct(benchmark::State& state) {
  const InnerProductQuantizer quantizer(static_cast<uint32_t>(state.range(0)),
                                        static_cast<uint32_t>(state.range(1)),
                                        RotationKind::kHadamard, 1);
  const std::vector<float> vectors = RandomVectors(kRows, quantizer.dim());
  std::vector<float> scratch(quantizer.scratch_floats());
  std::vector<uint8_t> row_codes(kRows * quantizer.row_code_bytes());
  std::vector<float> scales(kRows * quantizer.scales_per_row());
  for (auto _ : state) {
    quantizer.EncodeRows(vectors.data(), kRows, scratch.data(), row_codes.data(), scales.data());
    benchmark::ClobberMemory();
  }
  CountRows(state);
}

BENCHMARK_CAPTURE(BM_Encode, hadamard, RotationKind::kHadamard)
    ->ArgsProduct({{128, 384, 768, 1536}, {4}})
    ->Args({384, 1})
    ->Args({384, 2})
    ->Args({384, 3});
BENCHMARK_CAPTURE(BM_Encode, dense, RotationKind::kDense)->Args({384, 4});
BENCHMARK_CAPTURE(BM_Rotate, hadamard, RotationKind::kHadamard)->Arg(128)->Arg(384)->Arg(1536);
BENCHMARK_CAPTURE(BM_Rotate, dense, RotationKind::kDense)->Arg(384);
BENCHMARK(BM_Decode)->Args({384, 4});
BENCHMARK(BM_EncodeInnerProduct)->Args({384, 4});

}  // namespace
}  // namespace quash
