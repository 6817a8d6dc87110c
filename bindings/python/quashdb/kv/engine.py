"""A compressed KV cache of one layer, with the interface of QuashKV's engine."""

from __future__ import annotations

import dataclasses

import torch

from quashdb.kv import _tensors
from quashdb.kv.errors import InvalidError
from quashdb.kv.store import PackedStore, StoreStats


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """What an engine holds, in bytes."""

    tokens: int
    packed_bytes: int
    open_bytes: int
    table_bytes: int
    total_bytes: int
    f16_bytes: int
    compression_ratio: float


class QuashKVEngine:
    """Keys and values of a batch of sequences as packed codes, and attention.

        engine = QuashKVEngine(head_dim=128, key_bits=3, value_bits=3)
        engine.append(keys, values)          # [batch, kv_heads, seq, 128]
        out = engine.attention(queries)      # [batch, heads, nq, 128]

    The first append() fixes batch, heads and the dtype of the open page. Tokens
    are compressed by pages of 64; the newest, at most 63, are kept as given.

    head_dim: 16..512, a multiple of 16.
    key_bits, value_bits: 2, 2.5, 3, 3.5 or 4. seed: of the rotations.
    device: None or "cpu".
    pack_storage: accepted for compatibility; codes are always packed.
    policy: options of PackedStore (sink_pages, reserve, k_quantizer, ...).
    """

    def __init__(
        self,
        head_dim: int = 128,
        key_bits: float = 3,
        value_bits: float = 3,
        seed: int = 42,
        device: object = None,
        pack_storage: bool = True,
        **policy: object,
    ) -> None:
        del pack_storage
        self.device = _tensors.check_device(device)
        self.head_dim = head_dim
        self.key_bits = key_bits
        self.value_bits = value_bits
        self._policy = {"sink_pages": 0, "reserve": 0, "seed": seed, **policy}
        self._store: PackedStore | None = None
        self._seqs: list[int] = []
        self._make_store(1, torch.float32)  # so that wrong options are refused here

    def _make_store(self, heads: int, dtype: torch.dtype) -> PackedStore:
        return PackedStore(
            1,
            heads,
            self.head_dim,
            key_bits=self.key_bits,
            value_bits=self.value_bits,
            dtype=dtype,
            **self._policy,  # type: ignore[arg-type]
        )

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Appends [batch, kv_heads, seq, head_dim], float32, float16 or bfloat16,
        finite. InvalidError, a ValueError, for other shapes than before."""
        keys = _tensors.checked(keys, "keys")
        values = _tensors.checked(values, "values")
        if keys.ndim != 4 or keys.shape[3] != self.head_dim:
            raise InvalidError(
                f"keys has shape {list(keys.shape)}, expected [batch, heads, seq, {self.head_dim}]"
            )
        _tensors.same_batch("values", values, tuple(keys.shape))
        store = self._store
        if store is None:
            store = self._store = self._make_store(keys.shape[1], keys.dtype)
            self._seqs = [store.create() for _ in range(keys.shape[0])]
        expected = (len(self._seqs), store.num_kv_heads)
        if tuple(keys.shape[:2]) != expected:
            raise InvalidError(
                f"keys are of batch and heads {list(keys.shape[:2])}, expected {list(expected)}"
            )
        before = self.total_tokens
        try:
            for seq, k, v in zip(
                self._seqs, keys.transpose(1, 2), values.transpose(1, 2), strict=True
            ):
                store.append(seq, 0, k, v)
        except Exception:
            for seq in self._seqs:
                store.truncate(seq, before)
            if before == 0:
                self.clear()  # nothing has fixed the shapes yet
            raise

    def attention(
        self, queries: torch.Tensor, scale: float | None = None, causal: bool = False
    ) -> torch.Tensor:
        """softmax(q k^T scale) v over all tokens.

        queries: [batch, heads, nq, head_dim]; heads a multiple of the KV heads.
        scale: None for 1 / sqrt(head_dim).
        causal: queries are the newest nq tokens, each sees tokens up to itself.
        Returns a tensor like queries. InvalidError, a ValueError, if empty.
        """
        queries = _tensors.checked(queries, "queries")
        if self._store is None or self.total_tokens == 0:
            raise InvalidError("the cache is empty: append() keys and values before attention()")
        if queries.ndim != 4 or queries.shape[0] != len(self._seqs):
            raise InvalidError(
                f"queries has shape {list(queries.shape)}, expected "
                f"[{len(self._seqs)}, heads, nq, {self.head_dim}]"
            )
        batch, heads, nq, _ = queries.shape
        rows = queries.transpose(1, 2).reshape(batch * nq, heads, queries.shape[3])
        out, _ = self._store.attend(0, self._seqs, rows, [nq] * batch, scale=scale, causal=causal)
        return out.reshape(batch, nq, heads, self.head_dim).transpose(1, 2)

    @property
    def total_tokens(self) -> int:
        """Tokens of each sequence."""
        return 0 if self._store is None else self._store.length(self._seqs[0])

    def stats(self) -> StoreStats | None:
        """Of all sequences; None before the first append()."""
        return None if self._store is None else self._store.stats()

    def actual_memory_bytes(self) -> int:
        """Bytes of packed pages, open pages and block tables."""
        stats = self.stats()
        return 0 if stats is None else stats.total_bytes

    def compression_ratio(self, original_dtype: torch.dtype = torch.float16) -> float:
        """Bytes of the tokens as original_dtype over actual_memory_bytes(); 0 if
        empty."""
        stats = self.stats()
        if stats is None or stats.total_bytes == 0:
            return 0.0
        return stats.f16_bytes * original_dtype.itemsize / 2 / stats.total_bytes

    def memory_report(self) -> MemoryReport:
        """Where the bytes are."""
        stats = self.stats()
        if stats is None:
            return MemoryReport(0, 0, 0, 0, 0, 0, 0.0)
        return MemoryReport(
            self.total_tokens,
            stats.packed_bytes,
            stats.open_bytes,
            stats.table_bytes,
            stats.total_bytes,
            stats.f16_bytes,
            stats.compression_ratio,
        )

    def clear(self) -> None:
        """Removes every token; the next append() fixes the shapes anew."""
        self._store = None
        self._seqs = []
