// The rotations of the default seed of quash_kv_options, made by the compiler: with
// them a permutation of registers is only their names, and signs are part of
// additions. Whether a cache has them is found by comparing, not by its seed.
#pragma once

#include <cstdint>

#include "kernels/random.h"

namespace quash::cuda {

// What kernels/rotation.cc makes for kHadamard and a power of two.
template <int kDim, bool kIsValue>
struct DefaultRotation {
  static constexpr int kRounds = 3;
  static constexpr uint64_t kSeed = 42;
  static constexpr float kNorm = kDim == 64 ? 0.125f : 0x1.6a09e6p-4f;  // 1 / sqrt(kDim)
  static_assert(kDim == 64 || kDim == 128);

  struct Tables {
    uint16_t permutation[kRounds][kDim];
    bool is_negative[kRounds][kDim];
  };
  static constexpr Tables Make() {
    Tables tables = {};
    Random seeds(kSeed + (kIsValue ? 1 : 0));
    Random random(seeds.Next());
    for (int round = 0; round < kRounds; ++round) {
      for (int i = 0; i < kDim; ++i) {
        const uint32_t j = random.Below(static_cast<uint32_t>(i) + 1);
        tables.permutation[round][i] = tables.permutation[round][j];
        tables.permutation[round][j] = static_cast<uint16_t>(i);
      }
      for (int i = 0; i < kDim; ++i) {
        tables.is_negative[round][i] = (random.Next() >> 63) != 0;
      }
    }
    return tables;
  }
  static constexpr Tables kTables = Make();

  // Whether the tables of a Rotation are these. [3, kDim] each.
  static bool IsThatOf(const uint16_t* permutation, const float* factors) {
    for (int i = 0; i < kRounds * kDim; ++i) {
      const int round = i / kDim, at = i % kDim;
      const float factor = kTables.is_negative[round][at] ? -kNorm : kNorm;
      if (permutation[i] != kTables.permutation[round][at] || factors[i] != factor) return false;
    }
    return true;
  }
};

}  // namespace quash::cuda
