// Words of sign-magnitude codes (kernels/attend.h) to int8, by byte permutes.
#pragma once

#include <cstdint>

namespace quash::cuda {

// The hardware's byte permute: bit 3 of a selector nibble replicates the sign of
// the byte, which __byte_perm() masks away.
__device__ __forceinline__ uint32_t Permute(uint32_t lo, uint32_t hi, uint32_t selector) {
  uint32_t out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(lo), "r"(hi), "r"(selector));
  return out;
}

// Eight int8 entries. 4 bits: m of the positive levels 2m + 1, so that ~m stands
// for the negative ones and a dot with levels is twice the dot with entries plus
// the sum of the other operand. 2 and 3 bits: the levels, by sign-magnitude code.
struct LevelTable {
  uint32_t lo, hi;
};

// Of 2^bits ascending levels, symmetric around 0.
inline LevelTable MakeLevelTable(uint32_t bits, const int8_t* ascending) {
  const uint32_t half = 1u << (bits - 1);
  uint32_t words[2] = {0, 0};
  for (uint32_t i = 0; i < 8; ++i) {
    int entry = 0;
    if (bits == 4) {
      entry = (ascending[half + i] - 1) / 2;
    } else if (i < 2 * half) {
      entry = i < half ? ascending[half + i] : ascending[2 * half - 1 - i];
    }
    words[i / 4] |= static_cast<uint32_t>(entry & 0xff) << (i % 4 * 8);
  }
  return {words[0], words[1]};
}

// x with its upper half in the lower one too, where Permute() wants it; halves below 0x7c00.
// An addition of -0 to two float16 leaves their bits, and other units do it than those of
// shifts and permutes, which have no time left.
__device__ __forceinline__ uint32_t UpperHalf(uint32_t x) {
  uint32_t out;
  asm("{\n.reg .b16 lower, upper;\n.reg .b32 twice;\nmov.b32 {lower, upper}, %1;\n"
      "mov.b32 twice, {upper, upper};\nadd.rn.f16x2 %0, twice, %2;\n}"
      : "=r"(out)
      : "r"(x), "r"(0x80008000u));
  return out;
}

// Bits of a where the mask has them, else of b.
__device__ __forceinline__ uint32_t Choose(uint32_t mask, uint32_t a, uint32_t b) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(out) : "r"(mask), "r"(a), "r"(b));
  return out;
}

// codes [n] in four int8 each, for the A operand of an m16n8k32 product. Slot 2i
// of a register is the code of byte i's low half, slot 2i + 1 the one n / 2
// places on.

// 4 bits, 8 codes of a word.
__device__ __forceinline__ void DecodeNibbles(uint32_t word, LevelTable table, uint32_t* out) {
  const uint32_t magnitude = word & 0x77777777u;
  const uint32_t shifted = word << 4;  // its bytes have the signs of even nibbles on top
  out[0] = Permute(table.lo, table.hi, magnitude) ^ Permute(shifted, word, 0xd9c8);
  out[1] = Permute(table.lo, table.hi, UpperHalf(magnitude)) ^ Permute(shifted, word, 0xfbea);
}

// 2 bits, 16 codes: fields 0 and 2, then 1 and 3.
__device__ __forceinline__ void DecodeCrumbs(uint32_t word, LevelTable table, uint32_t* out) {
  const uint32_t even = word & 0x33333333u;
  const uint32_t odd = (word >> 2) & 0x33333333u;
  out[0] = Permute(table.lo, table.hi, even);
  out[1] = Permute(table.lo, table.hi, UpperHalf(even));
  out[2] = Permute(table.lo, table.hi, odd);
  out[3] = Permute(table.lo, table.hi, UpperHalf(odd));
}

// 3 bits: the same with the sign of field i at bit 2i of each byte of `signs`.
__device__ __forceinline__ void DecodeTriples(uint32_t word, uint32_t signs, LevelTable table,
                                              uint32_t* out) {
  constexpr uint32_t kMagnitudes = 0x33333333u;
  signs &= 0x55555555u;
  uint32_t signs_of_even;  // times 4, which the compiler is not to do before the mask
  asm("mul.lo.u32 %0, %1, 4;" : "=r"(signs_of_even) : "r"(signs));
  const uint32_t even = Choose(kMagnitudes, word, signs_of_even);
  const uint32_t odd = Choose(kMagnitudes, word >> 2, signs);
  out[0] = Permute(table.lo, table.hi, even);
  out[1] = Permute(table.lo, table.hi, UpperHalf(even));
  out[2] = Permute(table.lo, table.hi, odd);
  out[3] = Permute(table.lo, table.hi, UpperHalf(odd));
}

// 1 bit, four bits of each byte from bit `first` on, for registers of one step.
__device__ __forceinline__ void DecodeBits(uint32_t word, int first, LevelTable table,
                                           uint32_t* out) {
  const uint32_t bits = word >> first & 0x11111111u;
  out[0] = Permute(table.lo, table.hi, bits);
  out[1] = Permute(table.lo, table.hi, bits >> 16);
}

// Whether steps have the order of 4 bits, as rows of 32 codes always do.
template <int kBits, int kN>
__host__ __device__ constexpr bool IsInRuns() {
  return kBits == 4 || kN == 32;
}

// Words of a row that a thread reads at once; two threads share those of 64 codes of 1
// bit and of 32 of 2 or 3.
template <int kBits, int kN>
__host__ __device__ constexpr int RowWords() {
  constexpr int kSteps = kN / 32;
  if (kBits == 1) return kSteps < 4 ? 1 : kSteps / 4;
  return !IsInRuns<kBits, kN>() ? kSteps / 2 : kSteps < 4 ? kSteps : 4;
}

// Which codes of a row of kN are in register r of k-step s of thread t = lane % 4:
// with b = StepBase() + 2 r those of b, b + kN / 2, b + 1 and b + kN / 2 + 1.
template <int kBits, int kN>
__device__ __forceinline__ int StepBase(int t, int s) {
  constexpr int kW = RowWords<kBits, kN>();
  if (kBits == 1) {
    // Steps s % 4 of a word are its bits; of 64 codes threads 2 and 3 have bits 2 and 3.
    if (kN == 64) return 4 * (t % 2) + 8 * (s + t / 2 * 2);
    return 4 * kW * t + 4 * (s / 4) + kN / 8 * (s % 4);
  }
  if (IsInRuns<kBits, kN>()) return 16 * kW * (s / kW) + 4 * kW * t + 4 * (s % kW);
  return 4 * kW * t + 4 * (s / 2) + kN / 4 * (s % 2);
}

// Where coordinate d is when the bytes of each thread's registers follow each other.
template <int kBits, int kN>
__device__ __forceinline__ int OperandOffset(int d) {
  constexpr int kW = RowWords<kBits, kN>(), kSteps = kN / 32;
  const int half = d / (kN / 2), j = d % (kN / 2);
  const int in_register = j % 4 / 2 * 4 + j % 2 * 2 + half;
  if constexpr (kBits == 1) {
    const int bit = j / (kN / 8), byte = j % (kN / 8);
    if (kN == 64) return 16 * (byte / 4 + bit / 2 * 2) + 8 * (bit % 2) + in_register;
    const int word = byte / 4;
    return 8 * kSteps * (word / kW) + 8 * (4 * (word % kW) + bit) + in_register;
  }
  constexpr bool kRuns = IsInRuns<kBits, kN>();
  constexpr int kRun = kRuns ? 16 * kW : kN / 4;
  const int run = j / kRun, in_run = j % kRun;
  const int t = in_run / (4 * kW), word = in_run % (4 * kW) / 4;
  const int s = kRuns ? run * kW + word : 2 * word + run;
  return 8 * kSteps * t + 8 * s + in_register;
}

template <int kCount>
__device__ __forceinline__ void LoadWords(const uint8_t* from, uint32_t* to) {
  if constexpr (kCount >= 4) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const uint4 v = *reinterpret_cast<const uint4*>(from + 4 * i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  } else if constexpr (kCount == 2) {
    const uint2 v = *reinterpret_cast<const uint2*>(from);
    to[0] = v.x, to[1] = v.y;
  } else {
    to[0] = *reinterpret_cast<const uint32_t*>(from);
  }
}

// A row of kN int8, such as a mean, as operand A: register r of step s at 2 s + r.
template <int kBits, int kN>
__device__ __forceinline__ void LoadBytes(const uint8_t* row, int t, uint32_t* out) {
  constexpr int kW = RowWords<kBits, kN>(), kSteps = kN / 32;
  if constexpr (kBits == 1) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint8_t* from = row + StepBase<kBits, kN>(t, s);
      uint32_t lo, hi;
      LoadWords<1>(from, &lo);
      LoadWords<1>(from + kN / 2, &hi);
      out[2 * s] = Permute(lo, hi, 0x5140);
      out[2 * s + 1] = Permute(lo, hi, 0x7362);
    }
    return;
  }
  constexpr bool kRuns = IsInRuns<kBits, kN>();
  constexpr int kRun = kRuns ? 16 * kW : kN / 4;
#pragma unroll
  for (int run = 0; run < kSteps / kW; ++run) {
    uint32_t lo[kW], hi[kW];
    LoadWords<kW>(row + kRun * run + 4 * kW * t, lo);
    LoadWords<kW>(row + kRun * run + 4 * kW * t + kN / 2, hi);
#pragma unroll
    for (int w = 0; w < kW; ++w) {
      const int s = kRuns ? run * kW + w : 2 * w + run;
      out[2 * s] = Permute(lo[w], hi[w], 0x5140);
      out[2 * s + 1] = Permute(lo[w], hi[w], 0x7362);
    }
  }
}

// One row of kN codes in shared memory, the part of thread t: kN / 32 steps of two registers.
template <int kBits, int kN>
struct RowPart {
  static constexpr int kSteps = kN / 32;
  static constexpr bool kIsShared = kBits == 1 ? kN == 64 : kBits != 4 && kN == 32;
  static constexpr int kWords = kBits == 4   ? kSteps
                                : kIsShared  ? 1
                                : kBits == 1 ? kSteps / 4
                                             : kSteps / 2;
  static constexpr int kRowBytes = kN * kBits / 8;
  uint32_t words[kWords];
  uint32_t signs[kBits == 3 ? kWords : 1];

  __device__ __forceinline__ void Load(const uint8_t* row, int t) {
    if constexpr (kIsShared) {
      LoadWords<1>(row + 4 * (t % 2), words);
      if constexpr (kBits == 3) LoadWords<1>(row + kN / 4, signs);
    } else {
      constexpr int kW = RowWords<kBits, kN>();
#pragma unroll
      for (int first = 0; first < kWords; first += kW) {
        LoadWords<kW>(row + 16 * first + 4 * kW * t, words + first);
      }
      if constexpr (kBits == 3) {
        // A row of kN / 8 sign bytes; the upper half of the threads reads the same
        // bytes one bit further.
        LoadWords<kWords>(row + kN / 4 + 4 * kWords * (t % 2), signs);
      }
    }
  }

  // out: register r of step s at 2 s + r
  __device__ __forceinline__ void Decode(LevelTable table, int t,
                                         uint32_t (&out)[2 * kSteps]) const {
    if constexpr (kIsShared && kBits != 1) {
      // Fields 0 and 2 of each byte, or 1 and 3.
      uint32_t codes = words[0] >> t / 2 * 2 & 0x33333333u;
      if constexpr (kBits == 3) codes |= (signs[0] >> t & 0x11111111u) << 2;
      out[0] = Permute(table.lo, table.hi, codes);
      out[1] = Permute(table.lo, table.hi, codes >> 16);
    } else {
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        if constexpr (kBits == 4) {
          DecodeNibbles(words[w], table, out + 2 * w);
        } else if constexpr (kBits == 3) {
          DecodeTriples(words[w], signs[w] >> (t / 2), table, out + 4 * w);
        } else if constexpr (kBits == 2) {
          DecodeCrumbs(words[w], table, out + 4 * w);
        } else {
#pragma unroll
          for (int s = 0; s < (kIsShared ? 2 : 4); ++s) {
            DecodeBits(words[w], kIsShared ? s + t / 2 * 2 : s, table, out + 8 * w + 2 * s);
          }
        }
      }
    }
  }
};

}  // namespace quash::cuda
