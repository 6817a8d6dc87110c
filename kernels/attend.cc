#include "kernels/attend.h"

#include <algorithm>

namespace quash {

#if !defined(__x86_64__)
const AttendKernels* Avx2AttendKernels() { return nullptr; }
#endif
#if !defined(QUASH_HAVE_AVX512_KERNELS)
const AttendKernels* Avx512AttendKernels() { return nullptr; }
#endif
#if !defined(QUASH_HAVE_NEON_KERNELS)
const AttendKernels* NeonAttendKernels() { return nullptr; }
#endif

const AttendKernels* AttendKernelsFor(Isa isa) {
  if (KernelsFor(isa) == nullptr) return nullptr;  // not on this CPU
  switch (isa) {
    case Isa::kScalar:
      return ScalarAttendKernels();
    case Isa::kAvx2:
      return Avx2AttendKernels();
    case Isa::kAvx512:
    case Isa::kAvx512Vbmi:
      return Avx512AttendKernels();
    case Isa::kNeon:
      return NeonAttendKernels();
  }
  return nullptr;
}

const AttendKernels& Attend() {
  static const AttendKernels& chosen = []() -> const AttendKernels& {
    for (const Isa isa : kAllIsas) {
      const AttendKernels* kernels = AttendKernelsFor(isa);
      if (kernels != nullptr && KernelsFor(isa) == &Kernels()) return *kernels;
    }
    return *ScalarAttendKernels();
  }();
  return chosen;
}

namespace {

// Between an ascending code and its sign beside its magnitude; both directions
// invert the top bit, and the lower ones of a negative.
uint8_t ToSignMagnitude(uint8_t code, unsigned half) {
  return static_cast<uint8_t>(code ^ (code >= half ? half : 2 * half - 1));
}
uint8_t ToAscending(uint8_t signed_code, unsigned half) {
  return static_cast<uint8_t>(signed_code ^ (signed_code >= half ? 2 * half - 1 : half));
}

// Strided fields of `width` bits: value j + i * m, m = n * width / 8, lies in byte j
// at bit i * width.
template <typename Value>
void PackFields(size_t n, unsigned width, uint8_t* row, Value value) {
  const size_t m = n * width / 8;
  std::fill_n(row, m, uint8_t{0});
  for (unsigned i = 0; i * width < 8; ++i) {
    for (size_t j = 0; j < m; ++j) {
      row[j] = static_cast<uint8_t>(row[j] | value(j + i * m) << (i * width));
    }
  }
}

template <typename Use>
void UnpackFields(const uint8_t* row, size_t n, unsigned width, Use use) {
  const size_t m = n * width / 8;
  for (unsigned i = 0; i * width < 8; ++i) {
    for (size_t j = 0; j < m; ++j) {
      use(j + i * m, static_cast<uint8_t>(row[j] >> (i * width) & ((1u << width) - 1)));
    }
  }
}

}  // namespace

void PackSignedRow(const uint8_t* codes, size_t n, size_t bits, uint8_t* row) {
  const unsigned half = 1u << (bits - 1);
  const auto signed_code = [=](size_t j) { return ToSignMagnitude(codes[j], half); };
  if (bits == 3) {
    PackFields(n, 2, row, [=](size_t j) { return signed_code(j) & 3; });
    PackFields(n, 1, row + n / 4, [=](size_t j) { return signed_code(j) >> 2; });
  } else {
    PackFields(n, static_cast<unsigned>(bits), row, signed_code);
  }
}

void UnpackSignedRow(const uint8_t* row, size_t n, size_t bits, uint8_t* codes) {
  const unsigned half = 1u << (bits - 1);
  if (bits == 3) {
    UnpackFields(row, n, 2, [=](size_t j, uint8_t magnitude) { codes[j] = magnitude; });
    UnpackFields(row + n / 4, n, 1, [=](size_t j, uint8_t sign) {
      codes[j] = ToAscending(static_cast<uint8_t>(codes[j] | sign << 2), half);
    });
  } else {
    UnpackFields(row, n, static_cast<unsigned>(bits),
                 [=](size_t j, uint8_t code) { codes[j] = ToAscending(code, half); });
  }
}

}  // namespace quash
