// The C functions of quash_kv_cuda.h over kernels/cuda.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/default_rotation.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/fixed_matrix.h"
#include "kernels/cuda/seal.h"
#include "kvcache/error.h"
#include "kvcache/page_format.h"
#include "kvcache/part_codec.h"
#include "quash_kv_cuda.h"

struct quash_kv_cuda {
  quash::cuda::SealFormat format;
  quash::cuda::Buffer tables;
};

namespace {

using quash::Guarded;
using quash::SetError;
using quash::cuda::SealFormat;
using quash::cuda::SequenceState;
using quash::kv::PageFormat;
using quash::kv::PartCodec;
using quash::kv::Side;

quash_kv_status IsNull(const char* name) {
  return SetError(QUASH_KV_INVALID, "{} is NULL, expected a pointer", name);
}

quash_kv_status Launched(const char* error) {
  return error == nullptr ? QUASH_KV_OK : SetError(QUASH_KV_INTERNAL, "on the GPU: {}", error);
}

// What the kernels do not take.
quash_kv_status CheckSupported(const quash_kv_options& o) {
  if (o.head_dim != 64 && o.head_dim != 128 && o.head_dim != 256) {
    return SetError(QUASH_KV_UNSUPPORTED, "head_dim is {}, expected 64, 128 or 256 on a GPU",
                    o.head_dim);
  }
  if (o.rotation == QUASH_KV_DENSE) {
    return SetError(QUASH_KV_UNSUPPORTED, "rotation is dense, expected hadamard or rht on a GPU");
  }
  if (o.num_uncompressed_layers != 0) {
    return SetError(QUASH_KV_UNSUPPORTED, "{} uncompressed layers, expected none on a GPU",
                    o.num_uncompressed_layers);
  }
  return QUASH_KV_OK;
}

// One side of a format: its first band, and its second one.
struct SideOfFormat {
  uint32_t& bits;
  int8_t* levels;
  float* boundaries;
  uint32_t &codes, &scales, &mean;
  quash::cuda::SecondBand& second;
  float* second_boundaries;
};

void TakePart(const PartCodec& codec, const SideOfFormat& to) {
  const auto u32 = [](size_t value) { return static_cast<uint32_t>(value); };
  const auto take_codebook = [](const quash::LevelCodebook& codebook, int8_t* levels,
                                float* boundaries) {
    std::copy_n(codebook.levels, 16, levels);
    std::copy_n(codebook.boundaries, 15, boundaries);
  };
  const quash::kv::PartFormat& part = codec.format();
  to.bits = part.bands[0].bits;
  to.codes = u32(part.bands[0].codes);
  to.scales = u32(part.bands[0].scales);
  to.mean = part.has_mean ? u32(part.mean) : 0;
  take_codebook(codec.codebook(0), to.levels, to.boundaries);
  if (part.bands.size() == 1) return;
  to.second.bits = part.bands[1].bits;
  to.second.codes = u32(part.bands[1].codes);
  to.second.scales = u32(part.bands[1].scales);
  take_codebook(codec.codebook(1), to.second.levels, to.second_boundaries);
}

void TakeParts(const PageFormat& pages, const PartCodec& k, const PartCodec& v, SealFormat* to) {
  quash::cuda::PageLayout& layout = to->layout;
  layout.page_bytes = static_cast<uint32_t>(pages.page_bytes);
  layout.head_page_bytes = static_cast<uint32_t>(pages.head_page_bytes);
  layout.mean_scales = static_cast<uint32_t>(pages.mean_scales);
  TakePart(k, {to->k_bits, to->k_levels, to->k_boundaries, layout.k_codes, layout.k_scales,
               layout.k_mean, to->k_second, to->k_second_boundaries});
  TakePart(v, {to->v_bits, to->v_levels, to->v_boundaries, layout.v_codes, layout.v_scales,
               layout.v_mean, to->v_second, to->v_second_boundaries});
  to->is_fixed_point = k.fixed_point() != nullptr;
  if (to->is_fixed_point) {
    to->k_fixed = *k.fixed_point();
    to->v_fixed = *v.fixed_point();
  }
  to->is_sketched = k.sketch() != nullptr;
  to->k_step = k.codebook(0).step;
  to->sketch_factor = k.sketch_factor();
}

// Tables of a rotation, or of two that halves of a vector have. One round becomes three:
// two transforms undo each other but for the norm.
struct HostTables {
  std::vector<uint16_t> permutation;  // [3, dim]
  std::vector<float> factors;

  HostTables(const std::vector<const quash::Rotation*>& rotations,
             const std::vector<uint32_t>& order) {
    constexpr size_t kRounds = 3;
    for (size_t round = 0; round < kRounds; ++round) {
      size_t begin = 0;
      for (const quash::Rotation* rotation : rotations) {
        const size_t dim = rotation->dim();
        const bool is_there = round < rotation->rounds();
        for (size_t i = 0; i < dim; ++i) {
          const size_t at = round * dim + i;
          const size_t from = begin + (is_there ? rotation->permutation()[at] : i);
          permutation.push_back(
              static_cast<uint16_t>(round == 0 && !order.empty() ? order[from] : from));
          factors.push_back(is_there ? rotation->factors()[at]
                                     : std::fabs(rotation->factors()[i]));
        }
        begin += dim;
      }
    }
  }
};

template <uint32_t kDim>
bool AreDefault(const HostTables& k, const HostTables& v) {
  using quash::cuda::DefaultRotation;
  return DefaultRotation<kDim, false>::IsThatOf(k.permutation.data(), k.factors.data()) &&
         DefaultRotation<kDim, true>::IsThatOf(v.permutation.data(), v.factors.data());
}

// Tables of all rotations in one device array: factors, then permutations.
const char* UploadTables(const PartCodec& k, const PartCodec& v, quash_kv_cuda* to) {
  SealFormat& format = to->format;
  const auto tables_of = [](const PartCodec& codec) {
    std::vector<const quash::Rotation*> rotations;
    for (const quash::Rotation& rotation : codec.rotations()) rotations.push_back(&rotation);
    return HostTables(rotations, codec.order());
  };
  std::vector<HostTables> all = {tables_of(k), tables_of(v)};
  if (k.sketch() != nullptr) all.push_back(HostTables({k.sketch()}, {}));
  const size_t count = size_t{3} * format.head_dim;
  const size_t permutations = all.size() * count * sizeof(float);
  const size_t matrices = permutations + all.size() * count * sizeof(uint16_t);
  std::vector<uint8_t> bytes(matrices);
  for (size_t i = 0; i < all.size(); ++i) {
    std::memcpy(bytes.data() + i * count * sizeof(float), all[i].factors.data(),
                count * sizeof(float));
    std::memcpy(bytes.data() + permutations + i * count * sizeof(uint16_t),
                all[i].permutation.data(), count * sizeof(uint16_t));
  }
  size_t matrix_bytes = 0;
  if (format.is_fixed_point) {
    for (const PartCodec* codec : {&k, &v}) {
      const std::vector<uint16_t> matrix = quash::cuda::FixedMatrix(
          codec->rotations()[0].factors().data(), static_cast<int>(format.head_dim));
      matrix_bytes = matrix.size() * sizeof(uint16_t);
      const auto* begin = reinterpret_cast<const uint8_t*>(matrix.data());
      bytes.insert(bytes.end(), begin, begin + matrix_bytes);
    }
  }
  if (const char* error = to->tables.Reserve(bytes.size())) return error;
  quash::cuda::Stream stream;
  if (const char* error = stream.Open()) return error;
  if (const char* error = stream.Upload(bytes.data(), bytes.size(), to->tables.as<void>())) {
    return error;
  }
  const auto* base = to->tables.as<uint8_t>();
  const auto tables = [&](size_t i, bool is_halved) {
    return quash::cuda::RotationTables{
        reinterpret_cast<const uint16_t*>(base + permutations) + i * count,
        reinterpret_cast<const float*>(base) + i * count, is_halved};
  };
  format.k_rotation = tables(0, k.rotations().size() == 2);
  format.v_rotation = tables(1, v.rotations().size() == 2);
  if (k.sketch() != nullptr) format.sketch = tables(2, false);
  format.k_matrix = reinterpret_cast<const uint16_t*>(base + matrices);
  format.v_matrix = reinterpret_cast<const uint16_t*>(base + matrices + matrix_bytes);
  if (!format.IsBanded() && !format.is_fixed_point) {
    format.has_default_rotations =
        format.head_dim == 64 ? AreDefault<64>(all[0], all[1]) : AreDefault<128>(all[0], all[1]);
  }
  return stream.Wait();
}

// Checks a layer, and gives it to `use` as the kernels take it.
template <typename Use>
quash_kv_status WithLayer(const quash_kv_cuda* cuda, const quash_kv_cuda_layer* layer,
                          const Use& use) noexcept {
  return Guarded([&]() -> quash_kv_status {
    if (cuda == nullptr) return IsNull("cuda");
    if (layer == nullptr) return IsNull("layer");
    if (layer->struct_size != sizeof(*layer)) {
      return SetError(QUASH_KV_INVALID, "layer.struct_size is {}, expected {}", layer->struct_size,
                      sizeof(*layer));
    }
    if (layer->num_seqs == 0 || layer->num_seqs > 65535) {
      return SetError(QUASH_KV_INVALID, "num_seqs is {}, expected 1 to 65535", layer->num_seqs);
    }
    const uint32_t capacity = quash_kv_cuda_open_capacity(cuda);
    if (layer->open_capacity < capacity) {
      return SetError(QUASH_KV_INVALID, "open_capacity is {}, expected at least {}",
                      layer->open_capacity, capacity);
    }
    for (const void* array :
         {static_cast<const void*>(layer->num_pages), static_cast<const void*>(layer->open_k),
          static_cast<const void*>(layer->open_v), static_cast<const void*>(layer->open_tokens),
          static_cast<const void*>(layer->flags)}) {
      if (array == nullptr) return IsNull("an array of the layer");
    }
    if (layer->max_pages != 0 && (layer->pages == nullptr || layer->block_table == nullptr)) {
      return IsNull("layer.pages or layer.block_table");
    }
    return use(SequenceState{layer->num_seqs, layer->pages, layer->block_table, layer->max_pages,
                             layer->num_pages, layer->open_k, layer->open_v, layer->open_tokens,
                             layer->open_capacity, layer->flags});
  });
}

quash_kv_status CheckRows(const quash_kv_cuda_rows* rows, const SealFormat& format) {
  if (rows == nullptr) return IsNull("rows");
  if (rows->struct_size != sizeof(*rows)) {
    return SetError(QUASH_KV_INVALID, "rows.struct_size is {}, expected {}", rows->struct_size,
                    sizeof(*rows));
  }
  if (rows->k == nullptr || rows->v == nullptr) return IsNull("rows.k or rows.v");
  const int64_t multiple = rows->dtype == QUASH_KV_F32 ? 4 : 8;
  for (const int64_t stride : {rows->seq_stride, rows->head_stride, rows->token_stride}) {
    if (stride % multiple != 0) {
      return SetError(QUASH_KV_INVALID, "a stride is {} elements, expected a multiple of {}",
                      stride, multiple);
    }
  }
  for (const void* pointer : {rows->k, rows->v}) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {
      return SetError(QUASH_KV_INVALID, "rows are not 16-byte aligned, of head_dim {}",
                      format.head_dim);
    }
  }
  return QUASH_KV_OK;
}

quash_kv_status CheckAttend(const quash_kv_cuda_attend_args* args, const SealFormat& format) {
  if (args == nullptr) return IsNull("args");
  if (args->struct_size != sizeof(*args)) {
    return SetError(QUASH_KV_INVALID, "args.struct_size is {}, expected {}", args->struct_size,
                    sizeof(*args));
  }
  if (args->q == nullptr || args->out == nullptr || args->workspace == nullptr) {
    return IsNull("q, out or workspace");
  }
  if (args->num_q_heads == 0 || args->num_q_heads % format.num_kv_heads != 0) {
    return SetError(QUASH_KV_INVALID, "num_q_heads is {}, expected a multiple of {}",
                    args->num_q_heads, format.num_kv_heads);
  }
  if (args->query_tokens == 0 || args->query_tokens > 8) {
    return SetError(QUASH_KV_INVALID, "query_tokens is {}, expected 1 to 8", args->query_tokens);
  }
  if (!std::isfinite(args->scale) || !std::isfinite(args->softcap) || args->softcap < 0) {
    return SetError(QUASH_KV_INVALID, "scale is {} and softcap {}, expected finite numbers, softcap "
                    "not negative", args->scale, args->softcap);
  }
  if (args->window > INT32_MAX) {
    return SetError(QUASH_KV_INVALID, "window is {}, expected less than 2^31", args->window);
  }
  if (format.type == quash::cuda::RowType::kF32) {
    return SetError(QUASH_KV_UNSUPPORTED, "attention on a GPU is over bf16 or f16 tokens");
  }
  return QUASH_KV_OK;
}

quash::cuda::RowStrides StridesOf(const quash_kv_cuda_rows& rows) {
  return {rows.seq_stride, rows.head_stride, rows.token_stride};
}

}  // namespace

extern "C" {

int quash_kv_cuda_devices(void) { return quash::cuda::DeviceCount(); }

quash_kv_status quash_kv_cuda_create(const quash_kv_options* options, int device,
                                     quash_kv_cuda** out) {
  return Guarded([&]() -> quash_kv_status {
    if (options == nullptr) return IsNull("options");
    if (out == nullptr) return IsNull("out");
    *out = nullptr;
    // A cache on the host checks all ranges.
    quash_kv* probe = nullptr;
    if (const quash_kv_status status = quash_kv_create(options, &probe); status != QUASH_KV_OK) {
      return status;
    }
    quash_kv_free(probe);
    quash_kv_options whole;
    quash_kv_options_init(&whole);
    std::memcpy(&whole, options, std::min(options->struct_size, sizeof(whole)));
    if (const quash_kv_status status = CheckSupported(whole); status != QUASH_KV_OK) return status;
    if (!quash::cuda::HasCuda()) {
      return SetError(QUASH_KV_UNSUPPORTED,
                      "this build has no CUDA, expected one with -DQUASHDB_BUILD_CUDA=ON");
    }
    const int devices = quash::cuda::DeviceCount();
    if (device < 0 || device >= devices) {
      return SetError(QUASH_KV_UNSUPPORTED, "device is {}, and there are {} GPUs of sm_80 or newer",
                      device, devices);
    }
    const quash::cuda::DeviceScope scope;
    if (const char* error = quash::cuda::UseDevice(device)) return Launched(error);
    auto made = std::make_unique<quash_kv_cuda>();
    const PageFormat pages(whole);
    const PartCodec k(Side::kKey, whole, pages.k, whole.k_outliers);
    const PartCodec v(Side::kValue, whole, pages.v, whole.v_outliers);
    SealFormat& format = made->format;
    format = {};
    format.num_kv_heads = whole.num_kv_heads;
    format.head_dim = whole.head_dim;
    format.type = static_cast<quash::cuda::RowType>(whole.dtype);
    format.sink_tokens = whole.sink_pages * quash::kv::kPageTokens;
    format.reserve = whole.reserve;
    TakeParts(pages, k, v, &format);
    if (const char* error = UploadTables(k, v, made.get())) return Launched(error);
    *out = made.release();
    return QUASH_KV_OK;
  });
}

void quash_kv_cuda_free(quash_kv_cuda* cuda) { delete cuda; }

uint64_t quash_kv_cuda_page_bytes(const quash_kv_cuda* cuda) {
  return cuda == nullptr ? 0 : cuda->format.layout.page_bytes;
}

uint32_t quash_kv_cuda_open_capacity(const quash_kv_cuda* cuda) {
  if (cuda == nullptr) return 0;
  return cuda->format.sink_tokens + quash::kv::kPageTokens + cuda->format.reserve;
}

quash_kv_status quash_kv_cuda_append(quash_kv_cuda* cuda, const quash_kv_cuda_layer* layer,
                                     const quash_kv_cuda_rows* rows, uint32_t n, void* stream) {
  return WithLayer(cuda, layer, [&](const SequenceState& state) -> quash_kv_status {
    if (const quash_kv_status status = CheckRows(rows, cuda->format); status != QUASH_KV_OK) {
      return status;
    }
    if (static_cast<uint32_t>(rows->dtype) != static_cast<uint32_t>(cuda->format.type)) {
      return SetError(QUASH_KV_UNSUPPORTED, "rows.dtype is {}, expected {}, of the options",
                      static_cast<int>(rows->dtype), static_cast<int>(cuda->format.type));
    }
    return Launched(quash::cuda::LaunchAppend(cuda->format, state, rows->k, rows->v, n,
                                              StridesOf(*rows), rows->begins,
                                              static_cast<CUstream_st*>(stream)));
  });
}

quash_kv_status quash_kv_cuda_read(quash_kv_cuda* cuda, const quash_kv_cuda_layer* layer,
                                   const quash_kv_cuda_rows* rows, uint32_t first, uint32_t n,
                                   void* stream) {
  return WithLayer(cuda, layer, [&](const SequenceState& state) -> quash_kv_status {
    if (const quash_kv_status status = CheckRows(rows, cuda->format); status != QUASH_KV_OK) {
      return status;
    }
    if (rows->dtype < QUASH_KV_F32 || rows->dtype > QUASH_KV_BF16) {
      return SetError(QUASH_KV_INVALID, "rows.dtype is {}, expected f32, f16 or bf16",
                      static_cast<int>(rows->dtype));
    }
    if (first % quash::kv::kPageTokens != 0) {
      return SetError(QUASH_KV_INVALID, "first is {}, expected a multiple of {}", first,
                      quash::kv::kPageTokens);
    }
    return Launched(quash::cuda::LaunchRead(
        cuda->format, state, first, n, static_cast<quash::cuda::RowType>(rows->dtype), rows->k,
        rows->v, StridesOf(*rows), rows->begins, static_cast<CUstream_st*>(stream)));
  });
}

size_t quash_kv_cuda_workspace_bytes(uint32_t num_seqs, uint32_t num_q_heads, uint32_t head_dim,
                                     uint32_t query_tokens) {
  return quash::cuda::DecodeWorkspaceBytes(num_seqs, num_q_heads, head_dim, query_tokens);
}

quash_kv_status quash_kv_cuda_attend(quash_kv_cuda* cuda, const quash_kv_cuda_layer* layer,
                                     const quash_kv_cuda_attend_args* call, void* stream) {
  return WithLayer(cuda, layer, [&](const SequenceState& state) -> quash_kv_status {
    const SealFormat& format = cuda->format;
    if (const quash_kv_status status = CheckAttend(call, format); status != QUASH_KV_OK) {
      return status;
    }
    quash::cuda::DecodeArgs args = {};
    args.num_seqs = state.num_seqs;
    args.num_q_heads = call->num_q_heads;
    args.num_kv_heads = format.num_kv_heads;
    args.head_dim = format.head_dim;
    args.k_bits = format.k_bits;
    args.v_bits = format.v_bits;
    args.query_tokens = call->query_tokens;
    args.window = call->window;
    args.scale =
        call->scale == 0 ? 1 / std::sqrt(static_cast<float>(format.head_dim)) : call->scale;
    args.softcap = call->softcap;
    args.is_half = format.type == quash::cuda::RowType::kF16;
    args.layout = format.layout;
    args.k_rotation = format.k_rotation;
    args.v_rotation = format.v_rotation;
    std::copy_n(format.k_levels, 16, args.k_levels);
    std::copy_n(format.v_levels, 16, args.v_levels);
    args.k_second = format.k_second;
    args.v_second = format.v_second;
    args.is_sketched = format.is_sketched;
    args.sketch = format.sketch;
    args.pages = state.pages;
    args.block_table = state.block_table;
    args.num_pages = state.num_pages;
    args.max_pages = state.max_pages;
    args.open_k = static_cast<const uint16_t*>(state.open_k);
    args.open_v = static_cast<const uint16_t*>(state.open_v);
    args.open_tokens = state.open_tokens;
    args.open_capacity = state.open_capacity;
    args.sink_tokens = format.sink_tokens;
    args.q = static_cast<const uint16_t*>(call->q);
    args.out = static_cast<uint16_t*>(call->out);
    args.lse = call->lse;
    args.workspace = call->workspace;
    return Launched(quash::cuda::LaunchDecode(args, static_cast<CUstream_st*>(stream)));
  });
}

}  // extern "C"
