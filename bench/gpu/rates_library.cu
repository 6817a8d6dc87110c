// Loaded by rates.py: how many of an operation a multiprocessor does in a clock.
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/decode_codes.cuh"

namespace {

using quash::cuda::LevelTable;
using quash::cuda::RowPart;

constexpr int kRounds = 512;

// Products of four chains per warp, so that latency hides.
#define QUASH_BENCH_PRODUCT(Name, instruction)                                                    \
  struct Name {                                                                                   \
    static constexpr int kOps = 4;                                                                \
    int sums[4][4] = {};                                                                          \
    __device__ void Run(uint32_t seed) {                                                          \
      uint32_t a[4], b[2];                                                                        \
      for (int i = 0; i < 4; ++i) a[i] = seed * (2 * i + 1);                                      \
      for (int i = 0; i < 2; ++i) b[i] = seed * (2 * i + 9);                                      \
      _Pragma("unroll") for (int chain = 0; chain < 4; ++chain) {                                 \
        int(&s)[4] = sums[chain];                                                                 \
        asm volatile(instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"         \
                     : "+r"(s[0]), "+r"(s[1]), "+r"(s[2]), "+r"(s[3])                             \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));         \
      }                                                                                           \
    }                                                                                             \
    __device__ uint32_t Sum() const { return sums[0][0] ^ sums[1][1] ^ sums[2][2] ^ sums[3][3]; } \
  }

QUASH_BENCH_PRODUCT(Int8, "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32");
QUASH_BENCH_PRODUCT(Bits, "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc");
QUASH_BENCH_PRODUCT(Bfloat16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");

// Codes of one row of 128 in a quad's registers to int8.
template <int kBits>
struct Decode {
  using Part = RowPart<kBits, 128>;
  static constexpr int kOps = 1;
  uint32_t sum = 0;
  __device__ void Run(uint32_t seed) {
    Part part;
    for (int i = 0; i < Part::kWords; ++i) part.words[i] = seed * (2 * i + 1) + sum;
    for (uint32_t& word : part.signs) word = seed * 77;
    uint32_t out[2 * Part::kSteps];
    part.Decode(LevelTable{0x07050301u ^ seed, 0x0f0d0b09u}, threadIdx.x % 4, out);
#pragma unroll
    for (uint32_t word : out) sum ^= word;  // one operation a word on top of the decoding
  }
  __device__ uint32_t Sum() const { return sum; }
};

template <typename Op>
__global__ void Rate(uint32_t seed, uint32_t* out, long long* clocks) {
  Op op;
  __syncthreads();
  const long long begin = clock64();
#pragma unroll 4
  for (int i = 0; i < kRounds; ++i) op.Run(seed + i);
  __syncthreads();
  const long long end = clock64();
  out[blockIdx.x * blockDim.x + threadIdx.x] = op.Sum();
  if (threadIdx.x == 0) *clocks = end - begin;
}

}  // namespace

// Clocks of a multiprocessor for one operation of a warp, with `warps` resident. A
// decode is of a row of 128 codes for every quad. Returns null, or what failed.
extern "C" __attribute__((visibility("default"))) const char* quash_bench_rate(const char* op,
                                                                               int warps,
                                                                               double* clocks) {
  uint32_t* out = nullptr;
  long long* taken = nullptr;
  cudaMalloc(&out, warps * 32 * sizeof(uint32_t));
  cudaMallocManaged(&taken, sizeof(long long));
  int ops = 1;
  const auto run = [&]<typename Op>() {
    for (int i = 0; i < 2; ++i) Rate<Op><<<1, warps * 32>>>(12345, out, taken);
    ops = Op::kOps;
  };
  switch (op[0]) {
    case 'i':
      run.operator()<Int8>();
      break;
    case 'b':
      run.operator()<Bits>();
      break;
    case 'f':
      run.operator()<Bfloat16>();
      break;
    case '4':
      run.operator()<Decode<4>>();
      break;
    case '3':
      run.operator()<Decode<3>>();
      break;
    default:
      run.operator()<Decode<2>>();
      break;
  }
  const cudaError_t error = cudaDeviceSynchronize();
  *clocks = static_cast<double>(*taken) / (kRounds * ops * warps);
  cudaFree(out);
  cudaFree(taken);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
