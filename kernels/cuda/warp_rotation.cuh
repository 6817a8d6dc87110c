// The Hadamard rotation of kernels/rotation.h and its inverse, by one warp.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/warp_math.cuh"

namespace quash::cuda {

// One warp rotates kDim values in shared memory; lane has kDim / 32 of them.
// kCanBeHalved  RotationTables::is_halved is looked at
template <int kDim, bool kCanBeHalved = false>
struct WarpRotation {
  static constexpr int kPer = kDim / 32;

  // is_halved  of both halves by themselves
  static __device__ void Hadamard(float (&v)[kPer], int lane, bool is_halved) {
    HadamardOfThread(v);
#pragma unroll
    for (int stride = 1; stride < 32; stride *= 2) {
      if (stride == 16 && is_halved) continue;
      const float sign = (lane & stride) != 0 ? -1.0f : 1.0f;
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        // A sum or a difference, rounded as one.
        v[i] = fmaf(sign, v[i], __shfl_xor_sync(kAllLanes, v[i], stride));
      }
    }
  }

  // This lane's part of a table, all rounds, so that their loads overlap.
  struct Tables {
    using Rotation = WarpRotation;
    static constexpr int kUnroll = 3;
    uint16_t permutation[3][kPer];
    float factors[3][kPer];
    bool is_halved;

    __device__ Tables(const RotationTables& tables, int lane) : is_halved(tables.is_halved) {
#pragma unroll
      for (int round = 0; round < 3; ++round) {
        const int at = round * kDim + lane * kPer;
        Load(tables.permutation + at, permutation[round]);
        Load(tables.factors + at, factors[round]);
      }
    }

    __device__ const Tables& Round(int) const { return *this; }
    __device__ uint16_t Place(int round, int i) const { return permutation[round][i]; }
    __device__ float Factor(int round, int i) const { return factors[round][i]; }
  };

  // Tables in shared memory, of which a round is read at a time.
  struct SharedTables {
    using Rotation = WarpRotation;
    static constexpr int kUnroll = 1;
    const uint16_t* permutation;  // [3, kDim]
    const float* factors;
    int lane;
    bool is_halved;

    struct OfRound {
      uint16_t permutation[kPer];
      float factors[kPer];
      __device__ uint16_t Place(int, int i) const { return permutation[i]; }
      __device__ float Factor(int, int i) const { return factors[i]; }
    };
    __device__ OfRound Round(int round) const {
      OfRound of;
      Load(permutation + round * kDim + lane * kPer, of.permutation);
      Load(factors + round * kDim + lane * kPer, of.factors);
      return of;
    }
  };

  static __device__ void Apply(float* x, const Tables& tables, int lane) {
    float v[kPer];
#pragma unroll
    for (int round = 0; round < 3; ++round) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        v[i] = x[tables.permutation[round][i]] * tables.factors[round][i];
      }
      Hadamard(v, lane, kCanBeHalved && tables.is_halved);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kPer; ++i) x[lane * kPer + i] = v[i];
    }
    __syncwarp();
  }

  template <typename AnyTables>
  static __device__ void ApplyInverse(float* y, const AnyTables& tables, int lane) {
    float v[kPer];
    // A loop where tables are: code that runs once costs what it takes to fetch.
#pragma unroll(AnyTables::kUnroll)
    for (int round = 2; round >= 0; --round) {
      const auto& of_round = tables.Round(round);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kPer; ++i) v[i] = y[lane * kPer + i];
      Hadamard(v, lane, kCanBeHalved && tables.is_halved);
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        y[of_round.Place(round, i)] = v[i] * of_round.Factor(round, i);
      }
    }
    __syncwarp();
  }

 private:
  template <typename T>
  static __device__ void Load(const T* from, T (&to)[kPer]) {
    struct alignas(sizeof(T) * kPer) Vector {
      T values[kPer];
    };
    const Vector vector = *reinterpret_cast<const Vector*>(from);
#pragma unroll
    for (int i = 0; i < kPer; ++i) to[i] = vector.values[i];
  }
};

}  // namespace quash::cuda
