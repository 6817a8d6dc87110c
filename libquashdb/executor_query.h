// One query made ready for every stage: normalised, rotated, with its tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "kernels/scan.h"
#include "libquashdb/executor_plan.h"
#include "libquashdb/snapshot.h"

namespace quash {

// Bytes aligned for SIMD, reused between searches; contents are lost on growth.
class ScratchBuffer {
 public:
  void* Reserve(size_t bytes) {
    if (bytes > size_) {
      size_ = 0;  // stays right if the allocation throws
      data_.reset(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment})));
      size_ = bytes;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t size_ = 0;
};

class PreparedQuery {
 public:
  // What the query will be compared with.
  enum class Against {
    kTier,        // the rerank tier: vector() and what follows from it
    kCodes,       // whole codes: levels() as well
    kPlanes,      // planes and whole codes: everything
    kPlanesAlone  // everything but levels()
  };
  //   query   [dim], not kept: copied, and normalised for cosine
  //   planes  scanned, for scanned()
  void Prepare(const Snapshot& snapshot, const float* query, size_t planes, Against against);

  const float* vector() const { return vector_; }  // [dim]
  float norm_sq() const { return norm_sq_; }       // of vector()
  const PlaneLut& lut() const { return lut_; }
  const LevelQuery& levels() const { return levels_; }

  // Of the scanned planes, of planes 1 and 2, and of the whole code.
  const PrefixModel& scanned() const { return scanned_; }
  const PrefixModel& two_planes() const { return two_planes_; }
  const PrefixModel& full() const { return full_; }

  // Scores are kept without the -|q|^2 of L2 until the last stage.
  //   internal = final + offset
  float offset() const { return offset_; }
  // Derivative of an internal score by <q, x>: 2 for L2, else 1.
  float gain() const { return gain_; }

 private:
  ScratchBuffer buffer_;
  const float* vector_ = nullptr;
  float norm_sq_ = 0;
  float offset_ = 0;
  float gain_ = 1;
  PlaneLut lut_;
  LevelQuery levels_;
  PrefixModel scanned_;
  PrefixModel two_planes_;
  PrefixModel full_;
};

}  // namespace quash
