"""Attention of vLLM (0.33's v1 interface) over packed pages, on the CPU.

vLLM schedules and counts blocks; keys and values lie in a PackedStore beside.
The block size in vLLM's accounting is that of packed pages, and its own tensor
of that size is never touched, so it takes address space, not memory. Sink and
open tokens of each request come on top.

A request is known by its first block. Limits, all refused with a message:
prefix caching and KV transfer (tokens would appear without their keys), the
hybrid KV cache manager with sliding windows (run with
--disable-hybrid-kv-cache-manager), MLA, ALiBi, attention sinks, KV sharing
between layers, encoder and bidirectional attention, devices other than the CPU.
A finished request's pages are freed when vLLM gives one of its blocks away.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionMetadata,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
)
from vllm.v1.kv_cache_interface import AttentionSpec, FullAttentionSpec

from quashdb.kv import vllm_plugin
from quashdb.kv.errors import UnsupportedError
from quashdb.kv.store import PackedStore


def _make_store(num_layers: int, num_kv_heads: int, head_size: int, dtype: torch.dtype) -> Any:
    key_bits, value_bits = vllm_plugin.bits() or (4.0, 4.0)
    return PackedStore(
        num_layers, num_kv_heads, head_size, key_bits=key_bits, value_bits=value_bits, dtype=dtype
    )


class QuashAttentionBackend(AttentionBackend):
    """Registered in the place of CPU_ATTN."""

    forward_includes_kv_cache_update: bool = True
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]

    @staticmethod
    def get_name() -> str:
        return "CPU_ATTN"

    @staticmethod
    def get_impl_cls() -> type[QuashAttentionImpl]:
        return QuashAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[QuashMetadataBuilder]:
        return QuashMetadataBuilder

    @classmethod
    def supports_head_size(cls, head_size: int) -> bool:
        return 16 <= head_size <= 512 and head_size % 16 == 0

    @classmethod
    def supports_sliding_window(cls) -> bool:
        return True

    @classmethod
    def supports_kv_connector(cls) -> bool:
        return False

    @classmethod
    def customize_spec(cls, spec: AttentionSpec) -> AttentionSpec:
        """Blocks of the size that packed tokens take."""
        if spec.state_content_bytes is not None:
            return spec
        page = _make_store(1, 1, spec.head_size, spec.dtype).stats().page_bytes
        return dataclasses.replace(spec, state_content_bytes=-(-page // (64 * 4)) * 4)


@dataclasses.dataclass
class QuashMetadata(AttentionMetadata):
    """One batch: its sequences in the store and their query rows."""

    store: PackedStore
    layers: dict[str, int]
    seqs: list[int]
    starts: list[int]
    """Rows of request i are starts[i]..starts[i + 1]."""
    contexts: list[int]
    """Tokens stored before this batch."""


class QuashMetadataBuilder(AttentionMetadataBuilder[QuashMetadata]):
    def __init__(
        self,
        kv_cache_spec: AttentionSpec,
        layer_names: list[str],
        vllm_config: Any,
        device: torch.device,
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        if not isinstance(kv_cache_spec, FullAttentionSpec):
            raise UnsupportedError(
                f"packed pages need FullAttentionSpec, not {type(kv_cache_spec).__name__}: run "
                "with --disable-hybrid-kv-cache-manager"
            )
        if vllm_config.cache_config.enable_prefix_caching:
            raise UnsupportedError(
                "packed pages cannot share blocks with vLLM's prefix caching: run with "
                "--no-enable-prefix-caching"
            )
        self._store = _make_store(
            len(layer_names), kv_cache_spec.num_kv_heads, kv_cache_spec.head_size,
            kv_cache_spec.dtype,
        )  # fmt: skip
        self._layers = {name: index for index, name in enumerate(layer_names)}
        self._block_size = kv_cache_spec.block_size
        self._seqs: dict[int, int] = {}  # by first block

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> QuashMetadata:
        common = common_attn_metadata
        if common.causal is not True:
            raise UnsupportedError("packed pages are attended causally only")
        starts = common.query_start_loc.tolist()
        lengths = common.seq_lens.tolist()
        metadata = QuashMetadata(self._store, self._layers, [], starts[:1], [])
        for row in range(common.num_reqs):
            count = starts[row + 1] - starts[row]
            if count == 0:  # a padding request
                continue
            blocks = -(-lengths[row] // self._block_size)
            table = common.block_table_tensor[row, :blocks].tolist()
            context = lengths[row] - count
            metadata.seqs.append(self._sequence(table, context))
            metadata.starts.append(starts[row + 1])
            metadata.contexts.append(context)
        return metadata

    def _sequence(self, table: list[int], context: int) -> int:
        """The sequence of the request with these blocks, `context` tokens long."""
        first, *others = table
        for block in self._seqs.keys() & set(others):  # of finished requests
            self._store.free(self._seqs.pop(block))
        if context == 0:
            if first in self._seqs:
                self._store.free(self._seqs[first])
            self._seqs[first] = self._store.create()
            return self._seqs[first]
        seq = self._seqs.get(first)
        stored = -1 if seq is None else self._store.length(seq)
        if seq is None or stored < context:
            raise UnsupportedError(
                f"a request has {context} computed tokens, and {max(stored, 0)} are stored: prefix "
                "caching and KV transfer do not work with packed pages"
            )
        if stored > context:  # drafts that were refused
            self._store.truncate(seq, context)
        return seq


class QuashAttentionImpl(AttentionImpl[QuashMetadata]):
    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        sinks: torch.Tensor | None = None,
    ) -> None:
        for what, is_set in (
            ("ALiBi", alibi_slopes is not None),
            ("attention sinks", sinks is not None),
            ("sharing of keys and values between layers", kv_sharing_target_layer_name is not None),
            (f"attention of type {attn_type}", attn_type != AttentionType.DECODER),
        ):
            if is_set:
                raise UnsupportedError(f"packed pages do not support {what}")
        self.num_heads = num_heads
        self.head_size = head_size
        self.scale = float(scale)
        self.num_kv_heads = num_kv_heads or num_heads
        self.kv_cache_dtype = kv_cache_dtype
        self._window = sliding_window or 0
        self._softcap = logits_soft_cap or 0.0

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: QuashMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """query, output [tokens, num_heads, head_size]; key, value [tokens,
        num_kv_heads, head_size]. New requests attend exactly, as given."""
        if attn_metadata is None:  # a profiling run
            return output.zero_()
        if output_scale is not None or output_block_scale is not None:
            raise UnsupportedError("fused output quantization is not supported")
        store, starts = attn_metadata.store, attn_metadata.starts
        index = attn_metadata.layers[layer.layer_name]
        packed: list[int] = []
        for i, seq in enumerate(attn_metadata.seqs):
            rows = slice(starts[i], starts[i + 1])
            store.append(seq, index, key[rows], value[rows])
            if attn_metadata.contexts[i] == 0 and not self._softcap:
                output[rows] = self._exact(query[rows], key[rows], value[rows])
            else:
                packed.append(i)
        if packed:
            counts = [starts[i + 1] - starts[i] for i in packed]
            at = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in packed])
            out, _ = store.attend(
                index,
                [attn_metadata.seqs[i] for i in packed],
                query[at],
                counts,
                scale=self.scale,
                window=self._window,
                softcap=self._softcap,
            )
            output[at] = out
        return output

    def _exact(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        n = len(q)
        mask = None
        if self._window and self._window < n:
            mask = torch.ones(n, n, dtype=torch.bool).tril().triu(1 - self._window)
        out = torch.nn.functional.scaled_dot_product_attention(
            q.transpose(0, 1),
            k.transpose(0, 1),
            v.transpose(0, 1),
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scale,
            enable_gqa=self.num_heads != self.num_kv_heads,
        )
        return out.transpose(0, 1)
