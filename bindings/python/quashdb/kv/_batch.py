"""The sequences of a Hugging Face batch in a PackedStore."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import torch

from quashdb.kv import _tensors
from quashdb.kv.errors import InvalidError, UnsupportedError
from quashdb.kv.store import PackedStore, StoreStats


@dataclasses.dataclass(frozen=True)
class QuashKVCacheConfig:
    """How QuashKVCache compresses; fields as those of PackedStore.

    reserve: newest tokens that stay as given. None: 16, or 80 below 3 bits, where
        keeping a page more of them is worth more than anything else (bench/kv).
    rotation: as PackedStore has it. None: "rht" where it can be, otherwise "hadamard".
    uncompressed_layers: layers kept as given; negative ones count from the last.
    uncompressed_tokens: on a GPU, all tokens of a layer stay as given, with SDPA over them,
        while batch times positions is at most this; then all are packed, as usual. Not after
        QuashKVCache.reserve(), which a CUDA graph needs. 0: none. None: as many as SDPA is
        faster over on an H200, 2,048 for 8 heads of 128 numbers, so 2^21 numbers of keys. On
        the CPU attention over packed tokens is the faster one, and this is not used.
    """

    key_bits: float = 4
    value_bits: float = 4
    seed: int = 42
    k_quantizer: str = "tq_mse"
    rotation: str | None = None
    sink_pages: int = 1
    reserve: int | None = None
    k_mean: bool = True
    v_mean: bool = True
    uncompressed_layers: Sequence[int] = ()
    uncompressed_tokens: int | None = None
    k_outliers: Sequence[int] | None = None
    v_outliers: Sequence[int] | None = None
    memory_budget: int = 0
    threads: int = 0

    def make_store(
        self, num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> PackedStore:
        """A store with these options. InvalidError, a ValueError, for wrong ones."""
        if self.uncompressed_tokens is not None and self.uncompressed_tokens < 0:
            raise InvalidError(
                f"uncompressed_tokens is {self.uncompressed_tokens}, expected 0 or more"
            )
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del options["uncompressed_tokens"]
        layers = [layer + num_layers if layer < 0 else layer for layer in self.uncompressed_layers]
        options["uncompressed_layers"] = layers
        if self.rotation is None:
            is_rht = (
                head_dim in (64, 128)
                and self.k_quantizer == "tq_mse"
                and self.key_bits in (2, 3, 4)
                and self.value_bits in (2, 3, 4)
            )
            options["rotation"] = "rht" if is_rht else "hadamard"
        if self.reserve is None:
            options["reserve"] = 16 if min(self.key_bits, self.value_bits) >= 3 else 80
        return PackedStore(num_layers, num_kv_heads, head_dim, dtype=dtype, **options)


class Batch:
    """Sequences of equal length, pad tokens included, which are not stored.

    Lengths here count positions as transformers does; the store counts tokens
    that are not padding.
    """

    is_cuda = False

    def __init__(self, num_layers: int, head_dim: int | None, config: QuashKVCacheConfig) -> None:
        self.num_layers = num_layers
        self.head_dim = head_dim
        self.config = config
        self.store: PackedStore | None = None
        self.seqs: list[int] = []
        self.lengths = [0] * num_layers
        # bool [batch, positions], False for padding; None: there is none.
        self.valid: torch.Tensor | None = None

    def prepare(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Makes the store and the sequences at the first [batch, heads, n, dim];
        checks that later ones fit."""
        for name, tensor in (("key_states", keys), ("value_states", values)):
            _tensors.check_device(tensor.device)
            if tensor.ndim != 4 or tensor.shape[3] != (self.head_dim or keys.shape[3]):
                raise InvalidError(
                    f"{name} has shape {list(tensor.shape)}, expected [batch, heads, n, "
                    f"{self.head_dim or keys.shape[-1]}]"
                )
            if tensor.dtype not in _tensors.DTYPES:
                raise UnsupportedError(f"{name} is {tensor.dtype}, not float32, 16 or bfloat16")
        if not self.seqs:
            format_ = (keys.shape[1], keys.shape[3], keys.dtype)
            store = self.store
            if store is None or (store.num_kv_heads, store.head_dim, store.dtype) != format_:
                store = self.store = self.config.make_store(self.num_layers, *format_)
            self.seqs = [store.create() for _ in range(keys.shape[0])]
        if keys.shape[3] != self.packed.head_dim:
            raise UnsupportedError(
                f"key_states have head_dim {keys.shape[3]}, and those of other layers "
                f"{self.packed.head_dim}: all layers of a cache have one"
            )
        expected = (len(self.seqs), self.packed.num_kv_heads)
        if tuple(keys.shape[:2]) != expected:
            raise InvalidError(
                f"key_states are of batch and heads {list(keys.shape[:2])}, and the cache holds "
                f"{list(expected)}: reset() it for another batch"
            )

    @property
    def packed(self) -> PackedStore:
        assert self.store is not None, "prepare() comes first"
        return self.store

    def append(
        self,
        layer: int,
        begin: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        valid: torch.Tensor | None,
    ) -> None:
        """Stores [batch, heads, n, dim] at positions begin..; valid: bool
        [batch, n], False for padding, None for all True. A failure takes back what the
        layers before have stored of them, so that the step can be made again."""
        try:
            self._mark(begin, keys.shape[2], valid)
            for row, seq in enumerate(self.seqs):
                k, v = keys[row].transpose(0, 1), values[row].transpose(0, 1)
                if valid is not None and not bool(valid[row].all()):
                    k, v = k[valid[row]], v[valid[row]]
                if len(k):
                    self.packed.append(seq, layer, k, v)
        except Exception:
            self.crop(begin)
            raise

    def _mark(self, begin: int, n: int, valid: torch.Tensor | None) -> None:
        if self.valid is None:
            if valid is None or bool(valid.all()):
                return
            self.valid = torch.ones(len(self.seqs), begin, dtype=torch.bool)
        missing = begin + n - self.valid.shape[1]
        if missing > 0:
            more = torch.ones(len(self.seqs), missing, dtype=torch.bool)
            self.valid = torch.cat((self.valid, more), 1)
        self.valid[:, begin : begin + n] = True if valid is None else valid

    def tokens(self, positions: int) -> list[int]:
        """Stored tokens of each sequence within its first `positions`."""
        if self.valid is None:
            return [positions] * len(self.seqs)
        return [int(count) for count in self.valid[:, :positions].sum(1)]

    def read(self, layer: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) [batch, heads, positions, dim] decompressed; padding is 0."""
        length, store = self.lengths[layer], self.packed
        shape = (len(self.seqs), store.num_kv_heads, length, store.head_dim)
        keys, values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        for row, seq in enumerate(self.seqs):
            k, v = store.read(seq, layer)
            at = slice(None) if self.valid is None else self.valid[row, :length]
            keys[row, :, at] = k.transpose(0, 1).to(dtype)
            values[row, :, at] = v.transpose(0, 1).to(dtype)
        return keys, values

    def crop(self, positions: int) -> None:
        """Keeps the first `positions` positions of every layer."""
        for seq, tokens in zip(self.seqs, self.tokens(positions), strict=True):
            self.packed.truncate(seq, tokens)
        self.lengths = [min(length, positions) for length in self.lengths]
        if self.valid is not None:
            self.valid = self.valid[:, :positions].clone()

    def select(self, rows: Sequence[int]) -> None:
        """Makes row i what rows[i] was; repeated ones share their pages."""
        if not self.seqs:
            return
        if not rows:
            raise InvalidError("no row of the batch is left: reset() empties the cache")
        chosen: list[int] = []
        forked: list[int] = []
        try:
            for row in rows:
                seq = self.seqs[row]
                if seq in chosen:
                    seq = self.packed.fork(seq)
                    forked.append(seq)
                chosen.append(seq)
        except Exception:
            for seq in forked:
                self.packed.free(seq)
            raise
        for seq in set(self.seqs) - set(chosen):
            self.packed.free(seq)
        self.seqs = chosen
        if self.valid is not None:
            self.valid = self.valid[list(rows)]

    def clear(self) -> None:
        for seq in self.seqs:
            self.packed.free(seq)
        self.seqs = []
        self.lengths = [0] * self.num_layers
        self.valid = None

    def fork(self) -> Batch:
        """A copy in the same store, sharing sealed pages."""
        copy = Batch(self.num_layers, self.head_dim, self.config)
        copy.store = self.store
        for seq in self.seqs:  # one by one: __del__ frees them if one fails
            copy.seqs.append(self.packed.fork(seq))
        copy.lengths = list(self.lengths)
        copy.valid = None if self.valid is None else self.valid.clone()
        return copy

    def stats(self) -> StoreStats | None:
        return None if self.store is None else self.store.stats()

    def __del__(self) -> None:
        # Forks share a store, which outlives each of them.
        if self.store is not None and self.store.is_alive and not sys.is_finalizing():
            for seq in self.seqs:
                self.store.free(seq)
