// Picks the kernels of this CPU once per process.
#pragma once

#include "kernels/scan.h"

namespace quash {

// Of each architecture the better ones last.
enum class Isa { kScalar, kAvx2, kAvx512, kAvx512Vbmi, kNeon };
inline constexpr Isa kAllIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vbmi,
                                   Isa::kNeon};

const char* IsaName(Isa isa);

// Kernels of `isa`, or null if this build or this CPU has none.
const ScanKernels* KernelsFor(Isa isa);

// The best the CPU has, lowered by the environment variable QUASH_ISA
// (scalar, avx2, avx512, avx512vbmi, neon; an unknown or unavailable name is
// ignored).
// Decided at the first call.
const ScanKernels& Kernels();

}  // namespace quash
