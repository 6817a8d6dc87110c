// quash_kv.h over Cache: handles, argument checks, statuses.
#include <cstring>
#include <memory>
#include <new>

#include "kernels/attend.h"
#include "kvcache/cache.h"
#include "kvcache/error.h"

struct quash_kv {
  std::unique_ptr<quash::kv::Cache> cache;
};

namespace {

using quash::Guarded;
using quash::SetError;
using quash::kv::ArrayView;
using quash::kv::Cache;
using quash::kv::Status;

quash_kv_status Record(const Status& status) {
  return status.ok() ? QUASH_KV_OK : quash::RecordError(status.code(), status.message());
}

quash_kv_status IsNull(const char* name) {
  return SetError(QUASH_KV_INVALID, "{} is NULL, expected a pointer", name);
}

// Runs body(cache) for a call on a cache.
template <typename Body>
quash_kv_status WithCache(quash_kv* cache, Body&& body) noexcept {
  return Guarded([&]() -> quash_kv_status {
    if (cache == nullptr) return IsNull("cache");
    return body(*cache->cache);
  });
}

// Structs grow at the end: a caller's older one keeps the defaults of the rest.
template <typename Struct>
bool TakeStruct(const Struct& from, Struct* to) {
  if (from.struct_size < sizeof(size_t) || from.struct_size > 4096) return false;
  std::memcpy(to, &from, std::min(from.struct_size, sizeof(Struct)));
  to->struct_size = sizeof(Struct);
  return true;
}

quash_kv_status NoStream(const void* stream) {
  if (stream == nullptr) return QUASH_KV_OK;
  return SetError(QUASH_KV_UNSUPPORTED,
                  "stream is given, expected NULL: the cache is in host memory");
}

}  // namespace

extern "C" {

const char* quash_kv_status_name(quash_kv_status status) {
  switch (status) {
    case QUASH_KV_OK:
      return "QUASH_KV_OK";
    case QUASH_KV_INVALID:
      return "QUASH_KV_INVALID";
    case QUASH_KV_NOT_FOUND:
      return "QUASH_KV_NOT_FOUND";
    case QUASH_KV_FULL:
      return "QUASH_KV_FULL";
    case QUASH_KV_NOMEM:
      return "QUASH_KV_NOMEM";
    case QUASH_KV_CORRUPT:
      return "QUASH_KV_CORRUPT";
    case QUASH_KV_UNSUPPORTED:
      return "QUASH_KV_UNSUPPORTED";
    case QUASH_KV_INTERNAL:
      return "QUASH_KV_INTERNAL";
  }
  return "unknown status";
}

const char* quash_kv_errmsg(void) { return quash::ErrorText(); }
const char* quash_kv_version(void) { return QUASH_KV_VERSION; }
const char* quash_kv_isa(void) { return quash::Attend().name; }
uint32_t quash_kv_page_size(void) { return quash::kv::kPageTokens; }

void quash_kv_options_init(quash_kv_options* options) {
  if (options == nullptr) return;
  *options = {};
  options->struct_size = sizeof(*options);
  options->k_bits = 4;
  options->v_bits = 4;
  options->seed = 42;
  options->sink_pages = 1;
  options->reserve = 16;
  options->k_mean = 1;
  options->v_mean = 1;
}

quash_kv_status quash_kv_create(const quash_kv_options* options, quash_kv** out) {
  return Guarded([&]() -> quash_kv_status {
    if (options == nullptr) return IsNull("options");
    if (out == nullptr) return IsNull("out");
    *out = nullptr;
    quash_kv_options whole;
    quash_kv_options_init(&whole);
    if (!TakeStruct(*options, &whole)) {
      return SetError(QUASH_KV_INVALID, "options.struct_size is {}, use quash_kv_options_init()",
                      options->struct_size);
    }
    auto handle = std::make_unique<quash_kv>();
    if (const Status status = Cache::Create(whole, &handle->cache); !status.ok()) {
      return Record(status);
    }
    *out = handle.release();
    return QUASH_KV_OK;
  });
}

void quash_kv_free(quash_kv* cache) { delete cache; }

quash_kv_status quash_kv_seq_create(quash_kv* cache, quash_kv_seq* out) {
  return WithCache(cache, [&](Cache& c) {
    return out == nullptr ? IsNull("out") : Record(c.CreateSequence(out));
  });
}

quash_kv_status quash_kv_seq_fork(quash_kv* cache, quash_kv_seq from, uint64_t length,
                                  quash_kv_seq* out) {
  return WithCache(cache, [&](Cache& c) {
    return out == nullptr ? IsNull("out") : Record(c.Fork(from, length, out));
  });
}

quash_kv_status quash_kv_seq_free(quash_kv* cache, quash_kv_seq seq) {
  return WithCache(cache, [&](Cache& c) { return Record(c.Free(seq)); });
}

quash_kv_status quash_kv_seq_truncate(quash_kv* cache, quash_kv_seq seq, uint64_t length) {
  return WithCache(cache, [&](Cache& c) { return Record(c.Truncate(seq, length)); });
}

quash_kv_status quash_kv_seq_length(quash_kv* cache, quash_kv_seq seq, uint32_t layer,
                                    uint64_t* out) {
  return WithCache(cache, [&](Cache& c) {
    return out == nullptr ? IsNull("out") : Record(c.Length(seq, layer, out));
  });
}

quash_kv_status quash_kv_append(quash_kv* cache, quash_kv_seq seq, uint32_t layer, const void* k,
                                const void* v, uint64_t n, quash_kv_dtype dtype,
                                int64_t token_stride, int64_t head_stride, void* stream) {
  return WithCache(cache, [&](Cache& c) -> quash_kv_status {
    if (const quash_kv_status status = NoStream(stream); status != QUASH_KV_OK) return status;
    if (!quash::kv::IsDtype(dtype)) {
      return SetError(QUASH_KV_INVALID, "dtype is {}, expected f32, f16 or bf16",
                      static_cast<int>(dtype));
    }
    if (n > uint64_t{1} << 32) {
      return SetError(QUASH_KV_INVALID, "n is {}, expected at most 2^32", n);
    }
    if (n > 0 && k == nullptr) return IsNull("k");
    if (n > 0 && v == nullptr) return IsNull("v");
    if (!quash::kv::StridesFit(n, c.options().num_kv_heads, c.options().head_dim, token_stride,
                               head_stride)) {
      return SetError(QUASH_KV_INVALID, "strides reach past the address space");
    }
    return Record(c.Append(seq, layer, ArrayView{k, dtype, token_stride, head_stride},
                           ArrayView{v, dtype, token_stride, head_stride}, n));
  });
}

quash_kv_status quash_kv_seq_seal(quash_kv* cache, quash_kv_seq seq) {
  return WithCache(cache, [&](Cache& c) { return Record(c.Seal(seq)); });
}

quash_kv_status quash_kv_read(quash_kv* cache, quash_kv_seq seq, uint32_t layer, uint64_t begin,
                              uint64_t n, float* k, float* v) {
  return WithCache(cache, [&](Cache& c) { return Record(c.Read(seq, layer, begin, n, k, v)); });
}

void quash_kv_attend_args_init(quash_kv_attend_args* args) {
  if (args == nullptr) return;
  *args = {};
  args->struct_size = sizeof(*args);
  args->causal = 1;
}

quash_kv_status quash_kv_attend(quash_kv* cache, const quash_kv_attend_args* args) {
  return WithCache(cache, [&](Cache& c) -> quash_kv_status {
    if (args == nullptr) return IsNull("args");
    quash_kv_attend_args whole;
    quash_kv_attend_args_init(&whole);
    if (!TakeStruct(*args, &whole)) {
      return SetError(QUASH_KV_INVALID, "args.struct_size is {}, use quash_kv_attend_args_init()",
                      args->struct_size);
    }
    if (const quash_kv_status status = NoStream(whole.stream); status != QUASH_KV_OK) return status;
    return Record(c.Attend(whole));
  });
}

quash_kv_status quash_kv_get_stats(quash_kv* cache, quash_kv_seq seq, quash_kv_stats* out) {
  return WithCache(cache, [&](Cache& c) -> quash_kv_status {
    if (out == nullptr) return IsNull("out");
    if (out->struct_size < sizeof(size_t) || out->struct_size > 4096) {
      return SetError(QUASH_KV_INVALID, "out.struct_size is {}, expected sizeof(quash_kv_stats)",
                      out->struct_size);
    }
    quash_kv_stats stats = {};
    stats.struct_size = out->struct_size;
    if (const Status status = c.Stats(seq, &stats); !status.ok()) return Record(status);
    std::memcpy(out, &stats, std::min(out->struct_size, sizeof(stats)));
    return QUASH_KV_OK;
  });
}

quash_kv_status quash_kv_seq_save(quash_kv* cache, quash_kv_seq seq, uint8_t** out_bytes,
                                  size_t* out_size) {
  return WithCache(cache, [&](Cache& c) -> quash_kv_status {
    if (out_bytes == nullptr) return IsNull("out_bytes");
    if (out_size == nullptr) return IsNull("out_size");
    std::string bytes;
    if (const Status status = c.Save(seq, &bytes); !status.ok()) return Record(status);
    auto copy = std::make_unique<uint8_t[]>(bytes.size());
    std::memcpy(copy.get(), bytes.data(), bytes.size());
    *out_bytes = copy.release();
    *out_size = bytes.size();
    return QUASH_KV_OK;
  });
}

void quash_kv_bytes_free(uint8_t* bytes) { delete[] bytes; }

quash_kv_status quash_kv_seq_restore(quash_kv* cache, const uint8_t* bytes, size_t size,
                                     quash_kv_seq* out) {
  return WithCache(cache, [&](Cache& c) -> quash_kv_status {
    if (out == nullptr) return IsNull("out");
    if (bytes == nullptr) return IsNull("bytes");
    return Record(c.Restore({reinterpret_cast<const char*>(bytes), size}, out));
  });
}

}  // extern "C"
