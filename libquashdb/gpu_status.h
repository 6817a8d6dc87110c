// Errors of the GPU as statuses.
#pragma once

#include "libquashdb/status.h"

#define QUASH_RETURN_IF_GPU_ERROR(what, expression)                         \
  do {                                                                      \
    if (const char* gpu_error_ = (expression); gpu_error_ != nullptr)       \
      return Error(QUASH_INTERNAL, "GPU: {} failed: {}", what, gpu_error_); \
  } while (0)
