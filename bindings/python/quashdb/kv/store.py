"""Sequences of packed keys and values, and attention over them: quash_kv.h."""

from __future__ import annotations

import ctypes
import dataclasses
import operator
import weakref
from collections.abc import Sequence

import torch

from quashdb.kv import _ffi, _tensors
from quashdb.kv._ffi import lib
from quashdb.kv.errors import InvalidError, check


@dataclasses.dataclass(frozen=True)
class StoreStats:
    """quash_kv_stats: what a store or one sequence holds; _bytes in bytes."""

    sequences: int
    tokens: int
    """Of all sequences and layers, shared ones counted in each."""
    pages: int
    """Sealed ones, shared ones once."""
    page_bytes: int
    packed_bytes: int
    """pages * page_bytes."""
    open_bytes: int
    """Sink pages, open pages and uncompressed layers."""
    table_bytes: int
    total_bytes: int
    """packed_bytes + open_bytes + table_bytes."""
    f16_bytes: int
    """What the tokens would take as float16."""
    compression_ratio: float
    sealed_ratio: float
    k_effective_bits: float
    v_effective_bits: float


def _uint(value: object, name: str, most: int) -> int:
    """An integer of any library."""
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number <= most:
        raise InvalidError(f"{name} is {value!r}, expected an integer of 0 to {most}")
    return number


def _indices(values: Sequence[int], most: int, name: str) -> ctypes.Array[ctypes.c_uint32]:
    items = [_uint(value, f"{name}[{i}]", most - 1) for i, value in enumerate(values)]
    return (ctypes.c_uint32 * len(items))(*items)


def _seq(seq: int) -> int:
    return _uint(seq, "the sequence", 2**64 - 1)


class PackedStore:
    """Keys and values of any number of sequences, each with num_layers layers, as
    2 to 4 bit codes in pages of 64 tokens.

    A sequence is a number. The first sink_pages pages and the newest tokens, at
    least reserve and at most 63 + reserve, stay as given; full pages between are
    compressed and never change. Forks share them.

    num_layers, num_kv_heads: 1..1024. head_dim: 16..512, a multiple of 16.
    key_bits, value_bits: 2, 2.5, 3, 3.5 or 4.
    seed: of the rotations.
    k_quantizer: "tq_mse", or "tq_prod" for unbiased scores that vary more.
    rotation: "hadamard", "dense", or "rht", one round of Hadamard in fixed point, which GPUs
        pack several times as fast: for tq_mse, whole bits and head_dim 64 or 128.
    dtype: of what stays uncompressed: torch.float32, float16 or bfloat16.
    sink_pages: first pages of a sequence kept as given.
    reserve: newest tokens, 0..4096, that truncate() takes back exactly.
    k_mean, v_mean: keep the means of each page.
    uncompressed_layers: layers kept as given.
    k_outliers, v_outliers: head_dim / 2 coordinates of the finer band at 2.5 and
        3.5 bits; None: the first.
    memory_budget: bytes that all sequences may hold; 0 for no limit.
    threads: 0 for torch.get_num_threads().

    Calls release the GIL. Calls for different sequences may run in parallel.
    """

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        key_bits: float = 4,
        value_bits: float = 4,
        seed: int = 42,
        k_quantizer: str = "tq_mse",
        rotation: str = "hadamard",
        dtype: torch.dtype = torch.float32,
        sink_pages: int = 1,
        reserve: int = 16,
        k_mean: bool = True,
        v_mean: bool = True,
        uncompressed_layers: Sequence[int] = (),
        k_outliers: Sequence[int] | None = None,
        v_outliers: Sequence[int] | None = None,
        memory_budget: int = 0,
        threads: int = 0,
    ) -> None:
        if k_quantizer not in _ffi.QUANTIZERS:
            raise InvalidError(f"k_quantizer is {k_quantizer!r}, expected 'tq_mse' or 'tq_prod'")
        if rotation not in _ffi.ROTATIONS:
            raise InvalidError(
                f"rotation is {rotation!r}, expected 'hadamard', 'dense' or 'rht'"
            )
        if dtype not in _tensors.DTYPES:
            raise InvalidError(
                f"dtype is {dtype}, expected torch.float32, torch.float16 or torch.bfloat16"
            )
        options = _ffi.Options()
        lib.quash_kv_options_init(ctypes.byref(options))
        options.num_layers = _uint(num_layers, "num_layers", 1 << 31)
        options.num_kv_heads = _uint(num_kv_heads, "num_kv_heads", 1 << 31)
        options.head_dim = _uint(head_dim, "head_dim", 1 << 31)
        options.k_bits = float(key_bits)
        options.v_bits = float(value_bits)
        options.k_quantizer = _ffi.QUANTIZERS[k_quantizer]
        options.rotation = _ffi.ROTATIONS[rotation]
        options.seed = _uint(seed, "seed", 2**64 - 1)
        options.dtype = _tensors.DTYPES[dtype]
        options.sink_pages = _uint(sink_pages, "sink_pages", 1 << 31)
        options.reserve = _uint(reserve, "reserve", 1 << 31)
        options.k_mean = int(k_mean)
        options.v_mean = int(v_mean)
        layers = _indices(uncompressed_layers, options.num_layers, "uncompressed_layers")
        options.uncompressed_layers = layers
        options.num_uncompressed_layers = len(layers)
        for name, outliers in (("k_outliers", k_outliers), ("v_outliers", v_outliers)):
            if outliers is None:
                continue
            if len(outliers) != options.head_dim // 2:
                raise InvalidError(
                    f"{name} has {len(outliers)} coordinates, expected {options.head_dim // 2}"
                )
            setattr(options, name, _indices(outliers, options.head_dim, name))
        options.memory_budget_bytes = _uint(memory_budget, "memory_budget", 2**64 - 1)
        options.threads = _uint(threads, "threads", 1 << 31) or torch.get_num_threads()
        handle = ctypes.c_void_p()
        check(lib.quash_kv_create(ctypes.byref(options), ctypes.byref(handle)))
        self.options = options
        self._handle = handle
        self._finalizer = weakref.finalize(self, lib.quash_kv_free, handle)
        self._finalizer.atexit = False
        self.num_layers = int(options.num_layers)
        self.num_kv_heads = int(options.num_kv_heads)
        self.head_dim = int(options.head_dim)
        self.dtype = dtype

    @property
    def is_alive(self) -> bool:
        """False while garbage collection takes a cycle apart and has freed the
        library's part: for __del__ of those who hold the store."""
        return self._finalizer.alive

    def create(self) -> int:
        """A new, empty sequence."""
        seq = ctypes.c_uint64()
        check(lib.quash_kv_seq_create(self._handle, ctypes.byref(seq)))
        return seq.value

    def fork(self, seq: int, length: int | None = None) -> int:
        """A sequence with the first `length` tokens of each layer of `seq` (None:
        all). Sealed pages are shared, the rest is copied."""
        out = ctypes.c_uint64()
        tokens = _ffi.WHOLE_LENGTH if length is None else _uint(length, "length", 2**63)
        check(lib.quash_kv_seq_fork(self._handle, _seq(seq), tokens, ctypes.byref(out)))
        return out.value

    def free(self, seq: int) -> None:
        check(lib.quash_kv_seq_free(self._handle, _seq(seq)))

    def truncate(self, seq: int, length: int) -> None:
        """Keeps the first `length` tokens of every layer."""
        tokens = _uint(length, "length", 2**63)
        check(lib.quash_kv_seq_truncate(self._handle, _seq(seq), tokens))

    def length(self, seq: int, layer: int = 0) -> int:
        """Tokens of one layer."""
        out = ctypes.c_uint64()
        check(
            lib.quash_kv_seq_length(self._handle, _seq(seq), self._layer(layer), ctypes.byref(out))
        )
        return out.value

    def seal(self, seq: int) -> None:
        """Compresses all that is open, for prefixes that will be shared and not grow."""
        check(lib.quash_kv_seq_seal(self._handle, _seq(seq)))

    def append(self, seq: int, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Appends n tokens to a layer: keys and values [n, num_kv_heads, head_dim]
        of one dtype, finite; read by strides, without a copy if those agree."""
        keys = self._rows(keys, self.num_kv_heads, "keys")
        values = self._rows(values, self.num_kv_heads, "values")
        _tensors.same_batch("values", values, tuple(keys.shape))
        if keys.dtype != values.dtype:
            raise InvalidError(f"values are {values.dtype}, expected {keys.dtype} as keys")
        if keys.stride()[:2] != values.stride()[:2]:
            keys, values = keys.contiguous(), values.contiguous()
        check(
            lib.quash_kv_append(
                self._handle,
                _seq(seq),
                self._layer(layer),
                keys.data_ptr(),
                values.data_ptr(),
                len(keys),
                _tensors.DTYPES[keys.dtype],
                keys.stride(0),
                keys.stride(1),
                None,
            )
        )

    def read(
        self, seq: int, layer: int, begin: int = 0, n: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values), float32 [n, num_kv_heads, head_dim]: tokens begin.. as
        attention sees them; n None: to the end."""
        length = self.length(seq, layer)
        begin = _uint(begin, "begin", length)
        n = length - begin if n is None else _uint(n, "n", length - begin)
        keys = torch.empty(n, self.num_kv_heads, self.head_dim)
        values = torch.empty_like(keys)
        check(
            lib.quash_kv_read(
                self._handle, _seq(seq), self._layer(layer), begin, n, keys.data_ptr(),
                values.data_ptr(),
            )
        )  # fmt: skip
        return keys, values

    def attend(
        self,
        layer: int,
        seqs: Sequence[int],
        queries: torch.Tensor,
        query_counts: Sequence[int] | None = None,
        *,
        scale: float | None = None,
        softcap: float = 0.0,
        window: int = 0,
        causal: bool = True,
        return_lse: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """softmax(q k^T scale) v over packed codes for a batch of sequences.

        queries: [rows, num_q_heads, head_dim], float32, float16 or bfloat16; the
            newest tokens of each sequence. num_q_heads is a multiple of
            num_kv_heads.
        query_counts: rows of each sequence; None: one each.
        scale: None for 1 / sqrt(head_dim). softcap, window: 0 for none.
        Returns (out, like queries; float32 [rows, num_q_heads] log of the sum of
        exp(score), or None). InvalidError, a ValueError, for a sequence without
        tokens and for more causal queries than tokens.
        """
        queries = self._rows(queries, None, "queries")
        counts = [1] * len(seqs) if query_counts is None else list(query_counts)
        if len(counts) != len(seqs) or sum(counts) != len(queries) or min(counts, default=0) < 0:
            raise InvalidError(
                f"query_counts {counts} do not fit {len(seqs)} sequences and {len(queries)} rows"
            )
        out = torch.empty(queries.shape, dtype=queries.dtype)
        lse = torch.empty(queries.shape[:2]) if return_lse else None
        if len(queries) == 0:
            return out, lse
        args = _ffi.AttendArgs()
        lib.quash_kv_attend_args_init(ctypes.byref(args))
        args.layer = self._layer(layer)
        args.num_q_heads = queries.shape[1]
        args.seqs = (ctypes.c_uint64 * len(seqs))(*(_seq(seq) for seq in seqs))
        args.num_seqs = len(seqs)
        if query_counts is not None:
            ends = [0]
            for count in counts:
                ends.append(ends[-1] + count)
            args.cu_queries = (ctypes.c_uint64 * len(ends))(*ends)
        args.q = queries.data_ptr()
        args.out = out.data_ptr()
        args.lse = None if lse is None else lse.data_ptr()
        args.dtype = _tensors.DTYPES[queries.dtype]
        args.q_token_stride, args.q_head_stride = queries.stride(0), queries.stride(1)
        args.out_token_stride, args.out_head_stride = out.stride(0), out.stride(1)
        args.scale = 0.0 if scale is None else scale
        args.softcap = softcap
        args.window = _uint(window, "window", 2**63)
        args.causal = int(causal)
        check(lib.quash_kv_attend(self._handle, ctypes.byref(args)))
        return out, lse

    def stats(self, seq: int = 0) -> StoreStats:
        """Of one sequence, or of all with 0."""
        stats = _ffi.Stats()
        stats.struct_size = ctypes.sizeof(stats)
        check(lib.quash_kv_get_stats(self._handle, _seq(seq), ctypes.byref(stats)))
        return StoreStats(
            **{field.name: getattr(stats, field.name) for field in dataclasses.fields(StoreStats)}
        )

    def save(self, seq: int) -> bytes:
        """A sequence as bytes with a checksum, for restore() of a like store."""
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        check(lib.quash_kv_seq_save(self._handle, _seq(seq), ctypes.byref(data), ctypes.byref(size)))
        try:
            return ctypes.string_at(data.value or 0, size.value)
        finally:
            lib.quash_kv_bytes_free(data)

    def restore(self, data: bytes) -> int:
        """The sequence that save() wrote, from bytes or another contiguous buffer.
        CorruptError, an OSError, for anything but whole bytes of a store with the same
        options."""
        seq = ctypes.c_uint64()
        if not isinstance(data, bytes):
            data = bytes(memoryview(data))
        check(lib.quash_kv_seq_restore(self._handle, data, len(data), ctypes.byref(seq)))
        return seq.value

    def __reduce__(self) -> str:
        raise TypeError("a PackedStore cannot be pickled or copied: save() gives one sequence")

    def _layer(self, layer: int) -> int:
        return _uint(layer, "layer", self.num_layers - 1)

    def _rows(self, tensor: torch.Tensor, heads: int | None, name: str) -> torch.Tensor:
        tensor = _tensors.checked(tensor, name)
        if (
            tensor.ndim != 3
            or tensor.shape[2] != self.head_dim
            or (heads is not None and tensor.shape[1] != heads)
        ):
            wanted = f"[n, {'heads' if heads is None else heads}, {self.head_dim}]"
            raise InvalidError(f"{name} has shape {list(tensor.shape)}, expected {wanted}")
        if tensor.dtype not in _tensors.DTYPES:
            raise InvalidError(
                f"{name} is {tensor.dtype}, expected torch.float32, torch.float16 or torch.bfloat16"
            )
        return tensor if tensor.stride(2) == 1 else tensor.contiguous()
