#include "kernels/dispatch.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>

namespace quash {
namespace {

TEST_CASE("every table carries the name of its instruction set and no null entry") {
  for (Isa isa : kAllIsas) {
    const ScanKernels* kernels = KernelsFor(isa);
    if (kernels == nullptr) continue;
    CHECK(std::strcmp(kernels->name, IsaName(isa)) == 0);
    // Entries are pointers throughout: look at each as one.
    void* entries[sizeof(ScanKernels) / sizeof(void*)];
    static_assert(sizeof(entries) == sizeof(ScanKernels));
    std::memcpy(entries, kernels, sizeof(entries));
    for (const void* entry : entries) CHECK(entry != nullptr);
  }
}

TEST_CASE("the scalar table is everywhere and QUASH_ISA picks one that exists") {
  REQUIRE(KernelsFor(Isa::kScalar) == ScalarKernels());
  const char* wanted = std::getenv("QUASH_ISA");
  for (Isa isa : kAllIsas) {
    if (wanted != nullptr && std::strcmp(wanted, IsaName(isa)) == 0) {
      CHECK(&Kernels() == KernelsFor(isa));
    }
  }
  CHECK(&Kernels() == &Kernels());
}

TEST_CASE("tables of another architecture are absent") {
#if defined(__x86_64__)
  CHECK(KernelsFor(Isa::kNeon) == nullptr);
  CHECK(Avx2Kernels() != nullptr);
  CHECK(Avx512Kernels() != nullptr);
  // A CPU with the wider set has the narrower one.
  if (KernelsFor(Isa::kAvx512) != nullptr) CHECK(KernelsFor(Isa::kAvx2) != nullptr);
  if (KernelsFor(Isa::kAvx512Vbmi) != nullptr) CHECK(KernelsFor(Isa::kAvx512) != nullptr);
#elif defined(__aarch64__)
  CHECK(KernelsFor(Isa::kNeon) != nullptr);
  CHECK(KernelsFor(Isa::kAvx2) == nullptr);
  CHECK(KernelsFor(Isa::kAvx512) == nullptr);
  CHECK(KernelsFor(Isa::kAvx512Vbmi) == nullptr);
#endif
}

}  // namespace
}  // namespace quash
