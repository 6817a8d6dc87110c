"""The KV cache on a GPU: quash_kv_cuda.h over torch's memory, and the sequences of
a Hugging Face batch in it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from ctypes import POINTER, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import TYPE_CHECKING

import torch

from quashdb.kv import _ffi, _tensors
from quashdb.kv._ffi import PAGE_SIZE, lib
from quashdb.kv._given import GivenTokens
from quashdb.kv.errors import InvalidError, UnsupportedError, check
from quashdb.kv.store import StoreStats

if TYPE_CHECKING:
    from quashdb.kv._batch import QuashKVCacheConfig


class _Layer(ctypes.Structure):
    """quash_kv_cuda_layer"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("num_seqs", c_uint32),
        ("max_pages", c_uint32),
        ("pages", c_void_p),
        ("block_table", c_void_p),
        ("num_pages", c_void_p),
        ("open_k", c_void_p),
        ("open_v", c_void_p),
        ("open_tokens", c_void_p),
        ("open_capacity", c_uint32),
        ("flags", c_void_p),
    )


class _Rows(ctypes.Structure):
    """quash_kv_cuda_rows"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("k", c_void_p),
        ("v", c_void_p),
        ("dtype", c_int),
        ("seq_stride", c_int64),
        ("head_stride", c_int64),
        ("token_stride", c_int64),
        ("begins", c_void_p),
    )


class _Attend(ctypes.Structure):
    """quash_kv_cuda_attend_args"""

    _fields_ = (
        ("struct_size", c_size_t),
        ("num_q_heads", c_uint32),
        ("query_tokens", c_uint32),
        ("q", c_void_p),
        ("out", c_void_p),
        ("lse", c_void_p),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("window", c_uint32),
        ("workspace", c_void_p),
    )


_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "quash_kv_cuda_devices": (c_int, ()),
    "quash_kv_cuda_create": (c_int, (POINTER(_ffi.Options), c_int, POINTER(c_void_p))),
    "quash_kv_cuda_free": (None, (c_void_p,)),
    "quash_kv_cuda_page_bytes": (ctypes.c_uint64, (c_void_p,)),
    "quash_kv_cuda_open_capacity": (c_uint32, (c_void_p,)),
    "quash_kv_cuda_append": (
        c_int, (c_void_p, POINTER(_Layer), POINTER(_Rows), c_uint32, c_void_p)
    ),
    "quash_kv_cuda_read": (
        c_int, (c_void_p, POINTER(_Layer), POINTER(_Rows), c_uint32, c_uint32, c_void_p)
    ),
    "quash_kv_cuda_workspace_bytes": (c_size_t, (c_uint32, c_uint32, c_uint32, c_uint32)),
    "quash_kv_cuda_attend": (c_int, (c_void_p, POINTER(_Layer), POINTER(_Attend), c_void_p)),
}
for _name, (_result, _arguments) in _FUNCTIONS.items():
    _function = getattr(lib, _name)
    _function.restype = _result
    _function.argtypes = _arguments


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class CudaLayer:
    """Pages, open tokens and counts of one layer; all on the device."""

    def __init__(self, store: CudaStore, num_seqs: int) -> None:
        self._store = store
        self.num_seqs = num_seqs
        shape = (num_seqs, store.open_capacity, store.num_kv_heads, store.head_dim)
        self.open_k = torch.zeros(shape, dtype=store.dtype, device=store.device)
        self.open_v = torch.zeros_like(self.open_k)

        def counts(n: int) -> torch.Tensor:
            return torch.zeros(n, dtype=torch.int32, device=store.device)

        self.num_pages, self.open_tokens = counts(num_seqs), counts(num_seqs)
        self.flags = counts(num_seqs + 1)
        self.max_pages = 0
        self.pages = torch.zeros(
            num_seqs, 0, store.page_bytes, dtype=torch.uint8, device=store.device
        )
        self._bind()

    def reserve(self, pages: int) -> None:
        """Room for so many pages of each sequence."""
        if pages <= self.max_pages:
            return
        shape = (self.num_seqs, pages, self._store.page_bytes)
        grown = torch.zeros(shape, dtype=torch.uint8, device=self._store.device)
        grown[:, : self.max_pages] = self.pages
        self.pages, self.max_pages = grown, pages
        self._bind()

    def select(self, rows: torch.Tensor) -> CudaLayer:
        """A copy whose sequence i is that of rows[i]."""
        copy = CudaLayer.__new__(CudaLayer)
        copy._store, copy.num_seqs, copy.max_pages = self._store, len(rows), self.max_pages
        for name in ("open_k", "open_v", "num_pages", "open_tokens", "pages"):
            setattr(copy, name, getattr(self, name).index_select(0, rows))
        copy.flags = torch.zeros(len(rows) + 1, dtype=torch.int32, device=self._store.device)
        copy._bind()
        return copy

    def _bind(self) -> None:
        table = torch.arange(self.num_seqs * self.max_pages, device=self._store.device)
        self.block_table = table.to(torch.int32)
        self.struct = _Layer(
            ctypes.sizeof(_Layer), self.num_seqs, self.max_pages, _pointer(self.pages),
            _pointer(self.block_table), _pointer(self.num_pages), _pointer(self.open_k),
            _pointer(self.open_v), _pointer(self.open_tokens), self._store.open_capacity,
            _pointer(self.flags),
        )  # fmt: skip


class CudaStore:
    """The format of pages on one device, and its calls; arguments as those of
    PackedStore. Launches go to torch's current stream."""

    def __init__(
        self,
        num_kv_heads: int,
        head_dim: int,
        config: QuashKVCacheConfig,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Checks the options and puts them in the library's struct.
        options = config.make_store(1, num_kv_heads, head_dim, dtype).options
        self.device = torch.device("cuda", device.index or 0)
        handle = c_void_p()
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().synchronize()  # torch's context comes first
            check(
                lib.quash_kv_cuda_create(
                    ctypes.byref(options), self.device.index, ctypes.byref(handle)
                )
            )
        self._handle = handle
        self._finalizer = weakref.finalize(self, lib.quash_kv_cuda_free, handle)
        self._finalizer.atexit = False
        self.num_kv_heads, self.head_dim, self.dtype = num_kv_heads, head_dim, dtype
        self.page_bytes: int = lib.quash_kv_cuda_page_bytes(handle)
        self.open_capacity: int = lib.quash_kv_cuda_open_capacity(handle)
        self._workspaces: dict[tuple[int, int, int], torch.Tensor] = {}

    def _rows(
        self, keys: torch.Tensor, values: torch.Tensor, begins: torch.Tensor | None
    ) -> _Rows:
        """[batch, heads, n, dim] as the library takes it; strides agree."""
        return _Rows(
            ctypes.sizeof(_Rows), keys.data_ptr(), values.data_ptr(),
            _tensors.DTYPES[keys.dtype], keys.stride(0), keys.stride(1), keys.stride(2),
            _pointer(begins),
        )  # fmt: skip

    def append(
        self,
        layer: CudaLayer,
        keys: torch.Tensor,
        values: torch.Tensor,
        begins: torch.Tensor | None = None,
    ) -> None:
        """Tokens begins[i].. of row i of [batch, heads, n, dim]."""
        multiple = 16 // keys.element_size()
        if (
            keys.stride() != values.stride()
            or keys.stride(3) != 1
            or any(stride % multiple for stride in keys.stride()[:3])
            or (keys.data_ptr() | values.data_ptr()) % 16
        ):
            keys, values = keys.contiguous(), values.contiguous()
        rows = self._rows(keys, values, begins)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        with torch.cuda.device(self.device):
            check(
                lib.quash_kv_cuda_append(
                    self._handle, layer.struct, ctypes.byref(rows), keys.shape[2], stream
                )
            )

    def read(
        self,
        layer: CudaLayer,
        positions: int,
        dtype: torch.dtype,
        begins: torch.Tensor | None = None,
        first: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) [batch, heads, positions, dim] of tokens first.., 0 before begins.
        `first` is a multiple of 64, and positions too unless they reach the last token."""
        shape = (layer.num_seqs, self.num_kv_heads, positions, self.head_dim)
        make = torch.empty if begins is None else torch.zeros
        keys = make(shape, dtype=dtype, device=self.device)
        values = make(shape, dtype=dtype, device=self.device)
        if positions == 0:
            return keys, values
        rows = self._rows(keys, values, begins)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        with torch.cuda.device(self.device):
            check(
                lib.quash_kv_cuda_read(
                    self._handle, layer.struct, ctypes.byref(rows), first, positions, stream
                )
            )
        return keys, values

    def attend(
        self,
        layer: CudaLayer,
        queries: torch.Tensor,
        scale: float | None = None,
        return_lse: bool = False,
        *,
        window: int = 0,
        softcap: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The newest token of each sequence, [batch, heads, dim], or its 1 to 8 newest,
        [batch, tokens, heads, dim], over all tokens up to each; of the store's dtype, which is
        bfloat16 or float16. A token sees its last `window` tokens (0: all)."""
        queries = queries.contiguous()
        if queries.dtype != self.dtype:
            raise InvalidError(f"queries are {queries.dtype}, expected {self.dtype}")
        num_tokens = queries.shape[1] if queries.ndim == 4 else 1
        size = (layer.num_seqs, queries.shape[-2], num_tokens)
        if size not in self._workspaces:
            num_bytes = lib.quash_kv_cuda_workspace_bytes(*size[:2], self.head_dim, num_tokens)
            self._workspaces[size] = torch.zeros(num_bytes, dtype=torch.uint8, device=self.device)
        out = torch.empty_like(queries)
        lse = torch.empty(queries.shape[:-1], device=self.device) if return_lse else None
        args = _Attend(
            ctypes.sizeof(_Attend), size[1], num_tokens, queries.data_ptr(), out.data_ptr(),
            _pointer(lse), scale or 0.0, softcap, window, self._workspaces[size].data_ptr(),
        )  # fmt: skip
        stream = torch.cuda.current_stream(self.device).cuda_stream
        with torch.cuda.device(self.device):
            check(
                lib.quash_kv_cuda_attend(self._handle, layer.struct, ctypes.byref(args), stream)
            )
        return out, lse


# Numbers of a layer's keys up to which bf16 SDPA is faster than the kernel over packed
# tokens (kernels/cuda/README.md): 2,048 tokens of 8 heads of 128.
GIVEN_NUMBERS = 1 << 21


class CudaBatch:
    """What Batch (in _batch.py) is, on a GPU. Sequences may be padded on the left. A layer's
    tokens are all in its GivenTokens or all in its CudaLayer."""

    is_cuda = True

    def __init__(
        self,
        num_layers: int,
        head_dim: int | None,
        config: QuashKVCacheConfig,
        device: torch.device,
    ) -> None:
        if lib.quash_kv_cuda_devices() == 0:
            raise UnsupportedError(
                f"device is '{device}', and the QuashKV library has no CUDA or no GPU that it "
                "runs on; build it with -DQUASHDB_BUILD_CUDA=ON"
            )
        if config.memory_budget or config.uncompressed_layers:
            raise UnsupportedError(
                "memory_budget and uncompressed_layers are not supported on a GPU"
            )
        self.num_layers, self.head_dim, self.config, self.device = (
            num_layers, head_dim, config, device,
        )  # fmt: skip
        self.store: CudaStore | None = None
        self.layers: list[CudaLayer] = []
        self._given: list[GivenTokens | None] = []
        self.seqs: list[int] = []
        self.lengths = [0] * num_layers
        # int32 [batch] on the device: positions of padding; None: there is none.
        self.begins: torch.Tensor | None = None
        self._reserved = 0

    def prepare(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        for name, tensor in (("key_states", keys), ("value_states", values)):
            if tensor.ndim != 4 or tensor.shape[3] != (self.head_dim or keys.shape[3]):
                raise InvalidError(
                    f"{name} has shape {list(tensor.shape)}, expected [batch, heads, n, "
                    f"{self.head_dim or keys.shape[-1]}]"
                )
            if tensor.device.type != self.device.type:
                raise UnsupportedError(f"{name} is on '{tensor.device}', expected '{self.device}'")
            if tensor.dtype not in (torch.bfloat16, torch.float16):
                raise UnsupportedError(
                    f"{name} is {tensor.dtype}, expected torch.bfloat16 or torch.float16 on a "
                    "GPU: load the model with dtype=torch.bfloat16"
                )
        if not self.seqs:
            if self.store is None or self.store.num_kv_heads != keys.shape[1]:
                self.store = CudaStore(
                    keys.shape[1], keys.shape[3], self.config, keys.dtype, keys.device
                )
            self.seqs = list(range(keys.shape[0]))
            self.layers = [CudaLayer(self.store, keys.shape[0]) for _ in range(self.num_layers)]
            most = self._most_given(keys)
            self._given = [GivenTokens(most) if most else None for _ in self.layers]
        expected = (len(self.seqs), self.packed.num_kv_heads)
        if tuple(keys.shape[:2]) != expected:
            raise InvalidError(
                f"key_states are of batch and heads {list(keys.shape[:2])}, and the cache holds "
                f"{list(expected)}: reset() it for another batch"
            )

    @property
    def packed(self) -> CudaStore:
        assert self.store is not None, "prepare() comes first"
        return self.store

    def _most_given(self, keys: torch.Tensor) -> int:
        """Positions that a layer keeps as given, for keys [batch, heads, n, dim]."""
        batch, heads, _, dim = keys.shape
        tokens = self.config.uncompressed_tokens
        if tokens is None:
            tokens = GIVEN_NUMBERS // (heads * dim)
        return 0 if self._reserved else tokens // batch

    def reserve(self, positions: int) -> None:
        """Memory for so many positions of each sequence, so that none is taken later. Packs
        what is there, and what comes."""
        self._reserved = max(self._reserved, positions, 1)
        for index, layer in enumerate(self.layers):
            layer.reserve(-(-positions // PAGE_SIZE))
            self._pack(index)

    def given(self, layer: int) -> GivenTokens | None:
        """A layer's tokens, padding included, or None if they are packed."""
        return self._given[layer] if self._given else None

    def make_room(self, layer: int, n: int) -> None:
        """Packs the layer's tokens if with n more they are too many to be kept as given."""
        tokens = self.given(layer)
        if tokens is None:
            return
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise InvalidError(
                "a captured step cannot change from tokens as given to packed ones: reserve() "
                "before a CUDA graph is captured"
            )
        if not tokens.fits(n):
            self._pack(layer)

    def _pack(self, layer: int) -> None:
        tokens, self._given[layer] = self._given[layer], None
        if tokens is None or len(tokens) == 0:
            return
        keys, values = tokens.tokens()
        self._append_packed(layer, len(tokens), keys, values, self.begins)

    def append(
        self,
        layer: int,
        begin: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        valid: torch.Tensor | None,
    ) -> None:
        n = keys.shape[2]
        begins = None
        if valid is not None and not bool(valid.all()):
            begins = self._padding(begin, valid)
        self.make_room(layer, n)
        tokens = self.given(layer)
        if tokens is not None:
            tokens.append(keys, values)
        else:
            self._append_packed(layer, begin + n, keys, values, begins)

    def _append_packed(
        self,
        layer: int,
        length: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        begins: torch.Tensor | None,
    ) -> None:
        """length: of the layer with these tokens."""
        state = self.layers[layer]
        needed = length // PAGE_SIZE + 1
        if needed > state.max_pages:
            # Grows by a quarter, as copies cost time and room memory.
            state.reserve(max(needed + needed // 4, -(-self._reserved // PAGE_SIZE)))
        self.packed.append(state, keys, values, begins)

    def _padding(self, begin: int, valid: torch.Tensor) -> torch.Tensor:
        begins = (~valid).sum(1).to(torch.int32)
        places = torch.arange(valid.shape[1], device=valid.device)
        if begin != 0 or not bool((valid == (places >= begins[:, None])).all()):
            raise UnsupportedError(
                "a GPU cache takes padding on the left of the first tokens only: pad with "
                "padding_side='left', in one chunk"
            )
        self.begins = begins
        return begins

    def tokens(self, positions: int) -> list[int]:
        if self.begins is None:
            return [positions] * len(self.seqs)
        return [max(positions - begin, 0) for begin in self.begins.tolist()]

    def read(
        self, layer: int, dtype: torch.dtype, positions: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) [batch, heads, positions, dim] decompressed; padding is 0."""
        length = self.lengths[layer] if positions is None else positions
        tokens = self.given(layer)
        if tokens is None:
            return self.packed.read(self.layers[layer], length, dtype, self.begins)
        keys, values = (rows[:, :, :length].to(dtype, copy=True) for rows in tokens.tokens())
        if self.begins is not None:
            places = torch.arange(length, device=keys.device)
            padding = (places < self.begins[:, None])[:, None, :, None]
            for rows in (keys, values):
                rows.masked_fill_(padding, 0)
        return keys, values

    def crop(self, positions: int) -> None:
        removed = [max(length - positions, 0) for length in self.lengths]
        for index, tokens in enumerate(self._given):
            if tokens is not None:
                tokens.crop(positions)
                removed[index] = 0
        counts = [
            (layer.open_tokens.tolist(), layer.num_pages.tolist()) for layer in self.layers
        ]
        sinks = self.config.sink_pages * PAGE_SIZE
        for count, (opens, pages) in zip(removed, counts, strict=True):
            for in_open, sealed in zip(opens, pages, strict=True):
                if sealed and count > in_open - sinks:
                    raise UnsupportedError(
                        f"{count} positions cannot be removed on a GPU: {in_open - sinks} tokens "
                        "are open and earlier ones sealed; a larger reserve keeps more open"
                    )
        for layer, count in zip(self.layers, removed, strict=True):
            if count:
                layer.open_tokens.sub_(count).clamp_(min=0)
        self.lengths = [min(length, positions) for length in self.lengths]

    def select(self, rows: Sequence[int]) -> None:
        if not self.seqs or list(rows) == self.seqs:
            return
        index = torch.tensor(list(rows), device=self.packed.device)
        self.layers = [layer.select(index) for layer in self.layers]
        self._given = [
            None if tokens is None else tokens.select(index) for tokens in self._given
        ]
        self.seqs = list(range(len(rows)))
        if self.begins is not None:
            self.begins = self.begins.index_select(0, index)

    def clear(self) -> None:
        self.seqs, self.layers, self._given, self.begins = [], [], [], None
        self.lengths = [0] * self.num_layers

    def fork(self) -> CudaBatch:
        """A copy; pages are copied too."""
        copy = CudaBatch(self.num_layers, self.head_dim, self.config, self.device)
        copy.store, copy.seqs, copy.lengths = self.store, list(self.seqs), list(self.lengths)
        copy._reserved = self._reserved
        if self.layers:
            index = torch.arange(len(self.seqs), device=self.packed.device)
            copy.layers = [layer.select(index) for layer in self.layers]
            copy._given = [
                None if tokens is None else tokens.select(index) for tokens in self._given
            ]
        copy.begins = None if self.begins is None else self.begins.clone()
        return copy

    def stats(self) -> StoreStats | None:
        """Of sealed pages and open tokens, which tokens kept as given are too; memory reserved
        for more is not in it."""
        if self.store is None:
            return None
        store = self.store
        pages = sum(int(layer.num_pages.sum()) for layer in self.layers)
        in_open = sum(int(layer.open_tokens.sum()) for layer in self.layers)
        for tokens in self._given:
            if tokens is not None:
                in_open += sum(self.tokens(len(tokens)))
        numbers = 2 * store.num_kv_heads * store.head_dim
        packed, tables = pages * store.page_bytes, 4 * pages
        open_bytes = in_open * numbers * store.dtype.itemsize
        total = packed + open_bytes + tables
        f16 = 2 * numbers * (in_open + pages * PAGE_SIZE)
        host = self.config.make_store(1, store.num_kv_heads, store.head_dim, store.dtype).stats()
        return StoreStats(
            sequences=len(self.seqs), tokens=in_open + pages * PAGE_SIZE, pages=pages,
            page_bytes=store.page_bytes, packed_bytes=packed, open_bytes=open_bytes,
            table_bytes=tables, total_bytes=total, f16_bytes=f16,
            compression_ratio=f16 / total if total else 0.0, sealed_ratio=host.sealed_ratio,
            k_effective_bits=host.k_effective_bits, v_effective_bits=host.v_effective_bits,
        )  # fmt: skip
