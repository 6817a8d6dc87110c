"""ctypes declarations of quashdb.h, in its order, and the loaded library.

`lib` is the shared library: the file that the environment variable
QUASHDB_LIBRARY names, else the one inside this package, loaded by the first
call: quashdb.kv does without it. ctypes releases the GIL during every call. Nothing here
checks arguments: ctypes wraps integers that are too large, so callers check ranges before.
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
    c_long,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

HEADER_VERSION = (0, 1)  # QUASH_VERSION_MAJOR, QUASH_VERSION_MINOR

DIM_MAX = 65536
K_MAX = 16384
BATCH_ROWS_MAX = 1 << 24
BATCH_BYTES_MAX = 256 << 20
NAME_BYTES_MAX = 255
ID_BYTES_MAX = 1024
METADATA_BYTES_MAX = 1 << 20
DOCUMENT_BYTES_MAX = 16 << 20
FIELDS_MAX = 256
GPU_ALL = -1
PLANES_ALL = 4
FILTER_BYTES_MAX = 1 << 20
FILTER_DEPTH_MAX = 64
PROGRESS_QUERIES_MIN = 32

INCLUDE_METADATA = 1
INCLUDE_DOCUMENTS = 2
INCLUDE_VECTORS = 4
TEXTS = {"string_id": 0, "metadata": 1, "document": 2}

# Enumerations by the names that the JSON texts of the library use.
OPEN_MODES = {"create": 0, "readwrite": 1, "readonly": 2, "follower": 3}
DURABILITIES = {"full": 0, "normal": 1}
METRICS = {"ip": 0, "cosine": 1, "l2": 2}
ID_TYPES = {"int64": 0, "string": 1}
RERANKS = {"none": 0, "int8": 1, "f16": 2, "f32": 3}
ROTATIONS = {"hadamard": 0, "dense": 1}
FIELD_TYPES = {"bool": 0, "int": 1, "float": 2, "string": 3, "int[]": 4, "string[]": 5}

ProgressFn = ctypes.CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64)


class OpenOptions(ctypes.Structure):
    """quash_open_options"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("mode", c_int),
        ("durability", c_int),
        ("memory_budget_bytes", c_uint64),
        ("threads", c_uint32),
    )


class Field(ctypes.Structure):
    """quash_field"""

    _fields_ = (("name", c_char_p), ("type", c_int))


class CollectionOptions(ctypes.Structure):
    """quash_collection_options"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("dim", c_uint32),
        ("metric", c_int),
        ("id_type", c_int),
        ("bits", c_uint32),
        ("rerank", c_int),
        ("rotation", c_int),
        ("seed", c_uint64),
        ("fields", POINTER(Field)),
        ("num_fields", c_size_t),
        ("partition_rows", c_uint64),
    )


class CollectionInfo(ctypes.Structure):
    """quash_collection_info"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("dim", c_uint32),
        ("bits", c_uint32),
        ("metric", c_int),
        ("id_type", c_int),
        ("rerank", c_int),
        ("rows", c_uint64),
        ("dead_rows", c_uint64),
        ("segments", c_uint64),
        ("tail_rows", c_uint64),
        ("code_bytes", c_uint64),
        ("rerank_bytes", c_uint64),
        ("resident_bytes", c_uint64),
        ("hot_bytes", c_uint64),
        ("generation", c_uint64),
        ("lists", c_uint64),
        ("indexed_rows", c_uint64),
        ("list_bytes", c_uint64),
    )


class GpuOptions(ctypes.Structure):
    """quash_gpu_options"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("device", c_int),
        ("budget_bytes", c_uint64),
        ("devices", POINTER(c_int)),
        ("num_devices", c_size_t),
    )


class Rows(ctypes.Structure):
    """quash_rows"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("n", c_size_t),
        ("int_ids", c_void_p),
        ("string_ids", POINTER(c_char_p)),
        ("vectors", c_void_p),
        ("metadata", POINTER(c_char_p)),
        ("documents", POINTER(c_char_p)),
    )


class Ids(ctypes.Structure):
    """quash_ids"""

    _fields_ = (("n", c_size_t), ("int_ids", c_void_p), ("string_ids", POINTER(c_char_p)))


class Texts(ctypes.Structure):
    """quash_texts"""

    _fields_ = (("bytes", c_void_p), ("offsets", c_void_p), ("present", c_void_p))


class SearchOptions(ctypes.Structure):
    """quash_search_options"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("exact", c_int),
        ("filter", c_char_p),
        ("min_score", c_double),
        ("candidates", c_uint32),
        ("rerank_candidates", c_uint32),
        ("planes", c_uint32),
        ("include", c_uint32),
        ("threads", c_uint32),
        ("has_cursor", c_int),
        ("cursor_score", c_float),
        ("cursor_int_id", c_int64),
        ("cursor_string_id", c_char_p),
        ("nprobe", c_uint32),
        ("recall", c_double),
    )


class MeasureOptions(ctypes.Structure):
    """quash_measure_options"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("sample", c_size_t),
        ("queries", c_void_p),
        ("nq", c_size_t),
        ("k", c_size_t),
        ("target_recall", c_double),
        ("apply", c_int),
        ("seed", c_uint64),
    )


class MeasureReport(ctypes.Structure):
    """quash_measure_report"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("recall", c_double),
        ("recall_low", c_double),
        ("exact_us", c_double),
        ("search_us", c_double),
        ("candidates", c_uint32),
        ("rerank_candidates", c_uint32),
        ("planes", c_uint32),
        ("queries", c_size_t),
        ("nprobe", c_uint32),
    )


# Handles are c_void_p values; "out" text is c_void_p so that it can be freed.
_OUT = POINTER(c_void_p)

# name: (result type, argument types)
FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "quash_version": (c_char_p, ()),
    "quash_isa": (c_char_p, ()),
    "quash_status_name": (c_char_p, (c_int,)),
    "quash_errmsg": (c_char_p, ()),
    "quash_error_offset": (c_long, ()),
    "quash_free": (None, (c_void_p,)),
    "quash_open_options_init": (None, (POINTER(OpenOptions),)),
    "quash_open": (c_int, (c_char_p, POINTER(OpenOptions), _OUT)),
    "quash_close": (c_int, (c_void_p,)),
    "quash_refresh": (c_int, (c_void_p,)),
    "quash_set_progress": (c_int, (c_void_p, ProgressFn, c_void_p)),
    "quash_checkpoint": (c_int, (c_void_p,)),
    "quash_backup": (c_int, (c_void_p, c_char_p)),
    "quash_restore": (c_int, (c_char_p, c_char_p)),
    "quash_verify": (c_int, (c_void_p, _OUT)),
    "quash_collection_options_init": (None, (POINTER(CollectionOptions),)),
    "quash_collection_create": (c_int, (c_void_p, c_char_p, POINTER(CollectionOptions), _OUT)),
    "quash_collection_open": (c_int, (c_void_p, c_char_p, _OUT)),
    "quash_collection_free": (None, (c_void_p,)),
    "quash_collection_drop": (c_int, (c_void_p, c_char_p)),
    "quash_collection_list": (c_int, (c_void_p, _OUT)),
    "quash_collection_describe": (c_int, (c_void_p, _OUT)),
    "quash_collection_add_field": (c_int, (c_void_p, POINTER(Field))),
    "quash_collection_stats": (c_int, (c_void_p, POINTER(CollectionInfo))),
    "quash_gpu_options_init": (None, (POINTER(GpuOptions),)),
    "quash_collection_attach_gpu": (c_int, (c_void_p, POINTER(GpuOptions))),
    "quash_collection_detach_gpu": (c_int, (c_void_p,)),
    "quash_stats": (c_int, (c_void_p, _OUT)),
    "quash_rows_init": (None, (POINTER(Rows),)),
    "quash_add": (c_int, (c_void_p, POINTER(Rows), c_void_p)),
    "quash_upsert": (c_int, (c_void_p, POINTER(Rows))),
    "quash_delete": (c_int, (c_void_p, POINTER(Ids), POINTER(c_uint64))),
    "quash_delete_where": (c_int, (c_void_p, c_char_p, POINTER(c_uint64))),
    "quash_compact": (c_int, (c_void_p,)),
    "quash_search_options_init": (None, (POINTER(SearchOptions),)),
    "quash_search": (
        c_int,
        (c_void_p, c_void_p, c_size_t, c_size_t, POINTER(SearchOptions), _OUT),
    ),
    "quash_search_into": (
        c_int,
        (c_void_p, c_void_p, c_size_t, c_size_t, POINTER(SearchOptions))
        + (c_void_p, c_void_p, c_void_p),
    ),
    "quash_search_by_id": (c_int, (c_void_p, POINTER(Ids), c_size_t, POINTER(SearchOptions), _OUT)),
    "quash_query_prepare": (c_int, (c_void_p, POINTER(SearchOptions), _OUT)),
    "quash_query_run": (c_int, (c_void_p, c_void_p, c_size_t, c_size_t, _OUT)),
    "quash_query_explain": (c_int, (c_void_p, _OUT)),
    "quash_query_free": (None, (c_void_p,)),
    "quash_distance": (c_float, (c_int, c_float)),
    "quash_result_num_queries": (c_size_t, (c_void_p,)),
    "quash_result_offsets": (c_void_p, (c_void_p,)),
    "quash_result_int_ids": (c_void_p, (c_void_p,)),
    "quash_result_string_id": (c_char_p, (c_void_p, c_size_t)),
    "quash_result_scores": (c_void_p, (c_void_p,)),
    "quash_result_vectors": (c_void_p, (c_void_p,)),
    "quash_result_metadata": (c_char_p, (c_void_p, c_size_t)),
    "quash_result_document": (c_char_p, (c_void_p, c_size_t)),
    "quash_result_texts": (c_int, (c_void_p, c_int, POINTER(Texts))),
    "quash_result_free": (None, (c_void_p,)),
    "quash_get": (c_int, (c_void_p, POINTER(Ids), c_uint32, _OUT)),
    "quash_contains": (c_int, (c_void_p, POINTER(Ids), POINTER(c_uint8))),
    "quash_count": (c_int, (c_void_p, c_char_p, POINTER(c_uint64))),
    "quash_iterate": (c_int, (c_void_p, c_char_p, c_uint32, _OUT)),
    "quash_iterator_next": (c_int, (c_void_p, c_size_t, _OUT)),
    "quash_iterator_free": (None, (c_void_p,)),
    "quash_measure_options_init": (None, (POINTER(MeasureOptions),)),
    "quash_measure": (c_int, (c_void_p, POINTER(MeasureOptions), POINTER(MeasureReport))),
}


def _load() -> ctypes.CDLL:
    path = os.environ.get("QUASHDB_LIBRARY")
    if path is None:
        path = str(pathlib.Path(__file__).parent / "libquashdb.so")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"cannot load the QuashDB library: {error}. Install the wheel, or name a built "
            "libquashdb.so in the environment variable QUASHDB_LIBRARY; the system's RocksDB "
            "(Debian: librocksdb7.8, libgomp1, libfmt9) must be installed"
        ) from error
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    version = library.quash_version().decode()
    if tuple(int(part) for part in version.split(".")[:2]) != HEADER_VERSION:
        raise ImportError(
            f"{path} is QuashDB {version}, this package was written for "
            f"{HEADER_VERSION[0]}.{HEADER_VERSION[1]}"
        )
    return library


class _Library:
    """The functions of the library as attributes. Threads that come first
    together load it each: the system maps one copy."""

    def __getattr__(self, name: str) -> Any:
        if name not in FUNCTIONS:
            raise AttributeError(f"libquashdb has no function {name!r}")
        library = _load()
        for function in FUNCTIONS:
            setattr(self, function, getattr(library, function))
        return getattr(library, name)


lib = _Library()
