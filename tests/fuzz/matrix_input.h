// What every reader of vector files promises of any bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "cli/error.h"
#include "cli/matrix.h"
#include "tests/fuzz/memory_file.h"

// Either an Error with a message, or as many rows as it says, each to be read,
// the first ones alone and together with the same values.
inline void ReadMatrix(const MemoryFile& file, size_t size) {
  try {
    const auto reader = quash::cli::OpenMatrix(file.path());
    const uint64_t rows = reader->rows();
    const uint32_t dim = reader->dim();
    // At least a byte of the file for each value.
    if (dim == 0 || rows > size || (rows > 0 && dim > size)) std::abort();
    const auto some = static_cast<size_t>(std::min<uint64_t>(rows, 64));
    std::vector<float> together(some * dim), alone(dim);
    reader->Read(0, some, together.data());
    for (size_t row = 0; row < some; ++row) {
      reader->Read(row, 1, alone.data());
      // Compared as bytes: values may be NaN.
      const auto* bytes = reinterpret_cast<const uint8_t*>(alone.data());
      const auto* others = reinterpret_cast<const uint8_t*>(&together[row * dim]);
      if (!std::equal(bytes, bytes + dim * sizeof(float), others)) std::abort();
    }
    if (rows > some) reader->Read(rows - 1, 1, alone.data());
  } catch (const quash::cli::Error& error) {
    if (error.what()[0] == '\0') std::abort();
  }
}
