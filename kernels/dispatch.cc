#include "kernels/dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>

namespace quash {

#if !defined(__x86_64__)
const ScanKernels* Avx2Kernels() noexcept { return nullptr; }
#endif
#if !defined(QUASH_HAVE_AVX512_KERNELS)
const ScanKernels* Avx512Kernels() noexcept { return nullptr; }
const ScanKernels* Avx512VbmiKernels() noexcept { return nullptr; }
#endif
#if !defined(QUASH_HAVE_NEON_KERNELS)
const ScanKernels* NeonKernels() noexcept { return nullptr; }
#endif

#if defined(__x86_64__)
// Clang 14's __builtin_cpu_supports() does not know it.
static bool CpuHasF16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

const char* IsaName(Isa isa) {
  constexpr const char* kNames[] = {"scalar", "avx2", "avx512", "avx512vbmi", "neon"};
  return kNames[static_cast<int>(isa)];
}

const ScanKernels* KernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return ScalarKernels();
    case Isa::kAvx2:
#if defined(__x86_64__)
      if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && CpuHasF16c() &&
          __builtin_cpu_supports("bmi2")) {
        return Avx2Kernels();
      }
#endif
      return nullptr;
    case Isa::kAvx512:
#if defined(__x86_64__)
      if (KernelsFor(Isa::kAvx2) != nullptr && __builtin_cpu_supports("avx512f") &&
          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd")) {
        return Avx512Kernels();
      }
#endif
      return nullptr;
    case Isa::kAvx512Vbmi:
#if defined(__x86_64__)
      if (KernelsFor(Isa::kAvx512) != nullptr && __builtin_cpu_supports("avx512vbmi")) {
        return Avx512VbmiKernels();
      }
#endif
      return nullptr;
    case Isa::kNeon:
      return NeonKernels();
  }
  return nullptr;
}

const ScanKernels& Kernels() {
  static const ScanKernels& chosen = []() -> const ScanKernels& {
    const char* wanted = std::getenv("QUASH_ISA");
    const ScanKernels* best = ScalarKernels();
    for (const Isa isa : kAllIsas) {
      const ScanKernels* kernels = KernelsFor(isa);
      if (kernels == nullptr) continue;
      if (wanted != nullptr && std::strcmp(wanted, IsaName(isa)) == 0) return *kernels;
      best = kernels;
    }
    return *best;
  }();
  return chosen;
}

}  // namespace quash
