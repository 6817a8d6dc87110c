"""ctypes declarations of quash_kv.h and quash_quantizer.h, in their order, and
the loaded library.

`lib` is the shared library: the file that the environment variable
QUASHKV_LIBRARY names, else the one inside the quashdb package. ctypes releases
the GIL during every call.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
from ctypes import (
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

WHOLE_LENGTH = (1 << 64) - 1  # `length` of quash_kv_seq_fork: all tokens

# Enumerations by the names used in Python.
QUANTIZERS = {"tq_mse": 0, "tq_prod": 1}
ROTATIONS = {"hadamard": 0, "dense": 1, "rht": 2}


class Options(ctypes.Structure):
    """quash_kv_options"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("num_layers", c_uint32),
        ("num_kv_heads", c_uint32),
        ("head_dim", c_uint32),
        ("k_bits", c_float),
        ("v_bits", c_float),
        ("k_quantizer", c_int),
        ("rotation", c_int),
        ("seed", c_uint64),
        ("dtype", c_int),
        ("sink_pages", c_uint32),
        ("reserve", c_uint32),
        ("k_mean", c_int),
        ("v_mean", c_int),
        ("uncompressed_layers", POINTER(c_uint32)),
        ("num_uncompressed_layers", c_size_t),
        ("k_outliers", POINTER(c_uint32)),
        ("v_outliers", POINTER(c_uint32)),
        ("memory_budget_bytes", c_uint64),
        ("threads", c_uint32),
    )


class AttendArgs(ctypes.Structure):
    """quash_kv_attend_args"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("layer", c_uint32),
        ("num_q_heads", c_uint32),
        ("seqs", POINTER(c_uint64)),
        ("num_seqs", c_size_t),
        ("cu_queries", POINTER(c_uint64)),
        ("q", c_void_p),
        ("out", c_void_p),
        ("lse", c_void_p),
        ("dtype", c_int),
        ("q_token_stride", c_int64),
        ("q_head_stride", c_int64),
        ("out_token_stride", c_int64),
        ("out_head_stride", c_int64),
        ("scale", c_float),
        ("softcap", c_float),
        ("window", c_uint64),
        ("causal", c_int),
        ("stream", c_void_p),
    )


class Stats(ctypes.Structure):
    """quash_kv_stats"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("sequences", c_uint64),
        ("tokens", c_uint64),
        ("pages", c_uint64),
        ("page_bytes", c_uint64),
        ("packed_bytes", c_uint64),
        ("open_bytes", c_uint64),
        ("table_bytes", c_uint64),
        ("total_bytes", c_uint64),
        ("f16_bytes", c_uint64),
        ("compression_ratio", c_double),
        ("sealed_ratio", c_double),
        ("k_effective_bits", c_double),
        ("v_effective_bits", c_double),
    )


class QuantizerOptions(ctypes.Structure):
    """quash_quantizer_options"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("dim", c_uint32),
        ("bits", c_uint32),
        ("num_outliers", c_uint32),
        ("quantizer", c_int),
        ("rotation", c_int),
        ("seed", c_uint64),
    )


_OUT = POINTER(c_void_p)
_SEQ = c_uint64

# name: (result type, argument types)
FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "quash_kv_status_name": (c_char_p, (c_int,)),
    "quash_kv_errmsg": (c_char_p, ()),
    "quash_kv_version": (c_char_p, ()),
    "quash_kv_isa": (c_char_p, ()),
    "quash_kv_options_init": (None, (POINTER(Options),)),
    "quash_kv_create": (c_int, (POINTER(Options), _OUT)),
    "quash_kv_free": (None, (c_void_p,)),
    "quash_kv_page_size": (c_uint32, ()),
    "quash_kv_seq_create": (c_int, (c_void_p, POINTER(_SEQ))),
    "quash_kv_seq_fork": (c_int, (c_void_p, _SEQ, c_uint64, POINTER(_SEQ))),
    "quash_kv_seq_free": (c_int, (c_void_p, _SEQ)),
    "quash_kv_seq_truncate": (c_int, (c_void_p, _SEQ, c_uint64)),
    "quash_kv_seq_length": (c_int, (c_void_p, _SEQ, c_uint32, POINTER(c_uint64))),
    "quash_kv_append": (
        c_int,
        (c_void_p, _SEQ, c_uint32, c_void_p, c_void_p, c_uint64, c_int, c_int64, c_int64, c_void_p),
    ),
    "quash_kv_seq_seal": (c_int, (c_void_p, _SEQ)),
    "quash_kv_read": (
        c_int,
        (c_void_p, _SEQ, c_uint32, c_uint64, c_uint64, c_void_p, c_void_p),
    ),
    "quash_kv_attend_args_init": (None, (POINTER(AttendArgs),)),
    "quash_kv_attend": (c_int, (c_void_p, POINTER(AttendArgs))),
    "quash_kv_get_stats": (c_int, (c_void_p, _SEQ, POINTER(Stats))),
    "quash_kv_seq_save": (c_int, (c_void_p, _SEQ, _OUT, POINTER(c_size_t))),
    "quash_kv_bytes_free": (None, (c_void_p,)),
    "quash_kv_seq_restore": (c_int, (c_void_p, c_char_p, c_size_t, POINTER(_SEQ))),
    "quash_codebook": (c_int, (c_uint32, c_uint32, c_void_p, c_void_p, POINTER(c_double))),
    "quash_packed_size": (c_size_t, (c_size_t, c_uint32)),
    "quash_pack_bits": (c_int, (c_void_p, c_size_t, c_size_t, c_uint32, c_void_p)),
    "quash_unpack_bits": (c_int, (c_void_p, c_size_t, c_size_t, c_uint32, c_void_p)),
    "quash_quantizer_options_init": (None, (POINTER(QuantizerOptions),)),
    "quash_quantizer_create": (c_int, (POINTER(QuantizerOptions), _OUT)),
    "quash_quantizer_free": (None, (c_void_p,)),
    "quash_quantizer_effective_bits": (c_double, (c_void_p,)),
    "quash_quantizer_code_size": (c_size_t, (c_void_p,)),
    "quash_quantizer_scales_per_row": (c_size_t, (c_void_p,)),
    "quash_quantizer_encode": (c_int, (c_void_p, c_void_p, c_size_t, c_void_p, c_void_p)),
    "quash_quantizer_decode": (c_int, (c_void_p, c_void_p, c_void_p, c_size_t, c_void_p)),
    "quash_quantizer_dot": (
        c_int,
        (c_void_p, c_void_p, c_size_t, c_void_p, c_void_p, c_size_t, c_void_p),
    ),
    "quash_quantizer_unpack": (c_int, (c_void_p, c_void_p, c_size_t, c_void_p)),
    "quash_quantizer_pack": (c_int, (c_void_p, c_void_p, c_size_t, c_void_p)),
    "quash_quantizer_rotate": (c_int, (c_void_p, c_void_p, c_size_t, c_int, c_void_p)),
    "quash_quantizer_set_outliers": (c_int, (c_void_p, POINTER(c_uint32))),
    "quash_quantizer_calibrate": (c_int, (c_void_p, c_void_p, c_size_t)),
    "quash_quantizer_outliers": (c_int, (c_void_p, POINTER(c_uint32))),
}


def _load() -> ctypes.CDLL:
    path = os.environ.get("QUASHKV_LIBRARY")
    if path is None:
        path = str(pathlib.Path(__file__).parents[1] / "libquashkv.so")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"cannot load the QuashKV library: {error}. Install the wheel, or name a built "
            "libquashkv.so in the environment variable QUASHKV_LIBRARY; libgomp1 and libfmt9 "
            "(Debian) must be installed"
        ) from error
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


lib = _load()
PAGE_SIZE: int = lib.quash_kv_page_size()
