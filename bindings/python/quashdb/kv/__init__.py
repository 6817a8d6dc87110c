"""Compressed KV caches for language models: keys and values as 2 to 4 bit codes,
and attention straight over them. Needs torch; QuashKVCache needs transformers 5.

    from quashdb.kv import QuashKVCache, QuashKVCacheConfig

    cache = QuashKVCache.from_model(model, QuashKVCacheConfig(key_bits=4, value_bits=4))
    model.generate(**inputs, cache=cache)  # past_key_values= before transformers 5.24
    print(cache.compression_stats())

Besides: quantizers over tensors (MSEQuantizer, InnerProductQuantizer and mixed
precision), codebooks, bit packing, QuashKVEngine (one layer), QuashKVPageManager
and QuashKVModelManager (serving), PackedStore (the C library as it is).
Everything works in host memory; QuashKVCache also on NVIDIA GPUs, where the library
was built with CUDA. Errors are QuashError and ValueError, KeyError,
MemoryError, OSError or NotImplementedError besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "quashdb.kv needs torch: pip install 'quashdb[kv]' (quashdb alone does not)"
    ) from _error

from quashdb.kv import theory
from quashdb.kv._batch import QuashKVCacheConfig
from quashdb.kv._ffi import PAGE_SIZE
from quashdb.kv._ffi import lib as _lib
from quashdb.kv.codebook import Codebook, compute_mse_cost, get_codebook, solve_lloyd_max
from quashdb.kv.engine import MemoryReport, QuashKVEngine
from quashdb.kv.errors import BudgetError, QuashError, UnsupportedError
from quashdb.kv.fused import fused_attention, fused_compress, fused_decompress
from quashdb.kv.packing import pack_bits, packed_size, unpack_bits
from quashdb.kv.paged import QuashKVModelManager, QuashKVPageConfig, QuashKVPageManager
from quashdb.kv.quantizers import (
    InnerProductQuantizer,
    MixedPrecisionIPQuantizer,
    MixedPrecisionMSEQuantizer,
    MSEQuantizer,
)
from quashdb.kv.store import PackedStore, StoreStats

if TYPE_CHECKING:
    from quashdb.kv.hf_cache import QuashKVCache

__version__: str = _lib.quash_kv_version().decode()


def isa() -> str:
    """The instruction set in use: "scalar", "avx2", "avx512" or "neon"."""
    return str(_lib.quash_kv_isa().decode())


def __getattr__(name: str) -> Any:
    # transformers takes seconds to import, and the rest does without it.
    if name == "QuashKVCache":
        try:
            from quashdb.kv.hf_cache import QuashKVCache
        except ImportError as error:
            raise ImportError(
                f"QuashKVCache needs transformers 5: pip install 'quashdb[kv]' ({error})"
            ) from error
        globals()[name] = QuashKVCache
        return QuashKVCache
    raise AttributeError(f"module 'quashdb.kv' has no attribute {name!r}")


__all__ = [
    "PAGE_SIZE",
    "BudgetError",
    "Codebook",
    "InnerProductQuantizer",
    "MSEQuantizer",
    "MemoryReport",
    "MixedPrecisionIPQuantizer",
    "MixedPrecisionMSEQuantizer",
    "PackedStore",
    "QuashError",
    "QuashKVCache",
    "QuashKVCacheConfig",
    "QuashKVEngine",
    "QuashKVModelManager",
    "QuashKVPageConfig",
    "QuashKVPageManager",
    "StoreStats",
    "UnsupportedError",
    "compute_mse_cost",
    "fused_attention",
    "fused_compress",
    "fused_decompress",
    "get_codebook",
    "isa",
    "pack_bits",
    "packed_size",
    "solve_lloyd_max",
    "theory",
    "unpack_bits",
]
