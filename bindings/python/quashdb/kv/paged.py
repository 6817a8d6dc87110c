"""Serving: many sequences that come, fork, are set aside and go."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import torch

from quashdb.kv import _tensors
from quashdb.kv._ffi import PAGE_SIZE
from quashdb.kv.errors import InvalidError, NotFoundError
from quashdb.kv.store import PackedStore, StoreStats


@dataclasses.dataclass(frozen=True)
class QuashKVPageConfig:
    """How pages are compressed; fields as those of PackedStore.

    block_size: tokens of a page; 64, the only one there is.
    """

    key_bits: float = 4
    value_bits: float = 4
    block_size: int = 64
    seed: int = 42
    k_quantizer: str = "tq_mse"
    dtype: torch.dtype = torch.float32
    sink_pages: int = 1
    reserve: int = 16
    k_mean: bool = True
    v_mean: bool = True
    uncompressed_layers: Sequence[int] = ()
    memory_budget: int = 0
    threads: int = 0

    def make_store(self, num_layers: int, num_kv_heads: int, head_size: int) -> PackedStore:
        """A store with these options. InvalidError, a ValueError, for wrong ones."""
        if self.block_size != PAGE_SIZE:
            raise InvalidError(f"block_size is {self.block_size}, expected {PAGE_SIZE}")
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del options["block_size"]
        return PackedStore(num_layers, num_kv_heads, head_size, **options)


class _Manager:
    """Sequences of one store under the caller's ids."""

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_size: int,
        config: QuashKVPageConfig | None,
        device: object,
    ) -> None:
        self.device = _tensors.check_device(device)
        self.config = config or QuashKVPageConfig()
        self.num_layers = num_layers
        self.num_kv_heads = num_kv_heads
        self.head_size = head_size
        self.store = self.config.make_store(num_layers, num_kv_heads, head_size)
        self._seqs: dict[Hashable, int] = {}

    def allocate(self, seq_id: Hashable) -> None:
        """An empty sequence. InvalidError, a ValueError, if the id is taken."""
        self._check_new(seq_id)
        self._seqs[seq_id] = self.store.create()

    def free(self, seq_id: Hashable) -> None:
        """Frees a sequence; pages that others share stay."""
        self.store.free(self._seq(seq_id))
        del self._seqs[seq_id]

    def fork(self, seq_id: Hashable, new_id: Hashable, length: int | None = None) -> None:
        """A second sequence with the first `length` tokens (None: all), which
        shares the sealed pages: a common prompt, or beams."""
        self._check_new(new_id)
        self._seqs[new_id] = self.store.fork(self._seq(seq_id), length)

    def truncate(self, seq_id: Hashable, length: int) -> None:
        """Keeps the first `length` tokens: drafts that were refused go."""
        self.store.truncate(self._seq(seq_id), length)

    def preempt(self, seq_id: Hashable) -> bytes:
        """The sequence as bytes, and frees it; resume() brings it back."""
        data = self.store.save(self._seq(seq_id))
        self.free(seq_id)
        return data

    def resume(self, seq_id: Hashable, data: bytes) -> None:
        """What preempt() returned, of this or a like manager, under a new id.
        CorruptError, an OSError, for damaged or foreign bytes."""
        self._check_new(seq_id)
        self._seqs[seq_id] = self.store.restore(data)

    def num_tokens(self, seq_id: Hashable) -> int:
        """Tokens of the first layer of one sequence."""
        return self.store.length(self._seq(seq_id))

    def num_blocks(self, seq_id: Hashable) -> int:
        """Pages that those tokens take, open ones included."""
        return -(-self.num_tokens(seq_id) // PAGE_SIZE)

    def clear(self) -> None:
        """Frees every sequence."""
        for seq_id in list(self._seqs):
            self.free(seq_id)

    @property
    def total_tokens(self) -> int:
        """Tokens of the first layer of all sequences."""
        return sum(self.num_tokens(seq_id) for seq_id in self._seqs)

    def stats(self) -> StoreStats:
        """What all sequences hold."""
        return self.store.stats()

    @property
    def compression_ratio(self) -> float:
        """Bytes as float16 over bytes held, shared pages once; 0 if empty."""
        return self.store.stats().compression_ratio

    @property
    def total_compressed_bytes(self) -> int:
        """Bytes of packed pages, open pages and block tables."""
        return self.store.stats().total_bytes

    def __contains__(self, seq_id: Hashable) -> bool:
        return seq_id in self._seqs

    def __len__(self) -> int:
        return len(self._seqs)

    def _seq(self, seq_id: Hashable) -> int:
        if seq_id not in self._seqs:
            raise NotFoundError(f"there is no sequence {seq_id!r}")
        return self._seqs[seq_id]

    def _check_new(self, seq_id: Hashable) -> None:
        if seq_id in self._seqs:
            raise InvalidError(f"there is a sequence {seq_id!r} already")


class QuashKVPageManager(_Manager):
    """Pages of one layer.

        pages = QuashKVPageManager(8, 128)
        pages.allocate("a")
        pages.append("a", keys, values)           # [n, 8, 128]
        out = pages.attention(queries, ["a"])     # [1, heads, 128]

    num_kv_heads: 1..1024. head_size: 16..512, a multiple of 16.
    config: QuashKVPageConfig. device: None or "cpu".
    """

    def __init__(
        self,
        num_kv_heads: int,
        head_size: int,
        config: QuashKVPageConfig | None = None,
        device: object = None,
    ) -> None:
        super().__init__(1, num_kv_heads, head_size, config, device)

    def append(self, seq_id: Hashable, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Appends [n, num_kv_heads, head_size], float32, float16 or bfloat16."""
        self.store.append(self._seq(seq_id), 0, keys, values)

    def compress_and_store(
        self, keys: torch.Tensor, values: torch.Tensor, seq_id: Hashable = 0
    ) -> None:
        """append(), to a sequence that is made if there is none."""
        if seq_id not in self._seqs:
            self.allocate(seq_id)
        self.append(seq_id, keys, values)

    def attention(
        self,
        queries: torch.Tensor,
        seq_ids: Sequence[Hashable] = (0,),
        query_counts: Sequence[int] | None = None,
        scale: float | None = None,
        *,
        causal: bool = True,
        window: int = 0,
        softcap: float = 0.0,
    ) -> torch.Tensor:
        """[rows, heads, head_size] like queries, the newest tokens of each
        sequence; query_counts: rows of each, None for one each. See
        PackedStore.attend()."""
        seqs = [self._seq(seq_id) for seq_id in seq_ids]
        out, _ = self.store.attend(
            0,
            seqs,
            queries,
            query_counts,
            scale=scale,
            causal=causal,
            window=window,
            softcap=softcap,
        )
        return out


class QuashKVModelManager(_Manager):
    """Pages of all layers of a model; a sequence is one id in all of them.

    num_layers, num_kv_heads: 1..1024. head_size: 16..512, a multiple of 16.
    """

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_size: int,
        config: QuashKVPageConfig | None = None,
        device: object = None,
    ) -> None:
        super().__init__(num_layers, num_kv_heads, head_size, config, device)

    def forward_layer(
        self,
        layer: int,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        seq_ids: Sequence[Hashable] = (0,),
        counts: Sequence[int] | None = None,
        scale: float | None = None,
        *,
        window: int = 0,
        softcap: float = 0.0,
    ) -> torch.Tensor:
        """Stores new tokens and attends to all so far, causally.

        queries [rows, heads, head_size], keys and values [rows, num_kv_heads,
        head_size] of the new tokens of all sequences, one after the other;
        counts: tokens of each, None for one each. Unknown ids are allocated.
        Returns a tensor like queries.
        """
        numbers = [1] * len(seq_ids) if counts is None else list(counts)
        if len(numbers) != len(seq_ids) or sum(numbers) != len(keys) or len(keys) != len(queries):
            raise InvalidError(
                f"counts {numbers} do not fit {len(seq_ids)} sequences, {len(queries)} queries and "
                f"{len(keys)} keys"
            )
        begin = 0
        for seq_id, count in zip(seq_ids, numbers, strict=True):
            if seq_id not in self._seqs:
                self.allocate(seq_id)
            rows = slice(begin, begin + count)
            self.store.append(self._seqs[seq_id], layer, keys[rows], values[rows])
            begin += count
        out, _ = self.store.attend(
            layer,
            [self._seqs[seq_id] for seq_id in seq_ids],
            queries,
            None if counts is None else numbers,
            scale=scale,
            window=window,
            softcap=softcap,
        )
        return out
