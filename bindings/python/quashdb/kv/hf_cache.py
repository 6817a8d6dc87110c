"""QuashKVCache: a packed cache for Hugging Face transformers (5.x)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers.cache_utils import Cache, CacheLayerMixin, get_layer_types_and_kwargs

from quashdb.kv import _tensors, hf_attention
from quashdb.kv._batch import Batch, QuashKVCacheConfig
from quashdb.kv._cuda import CudaBatch
from quashdb.kv.errors import InvalidError, UnsupportedError

_LAYER_TYPES = ("full_attention", "sliding_attention")


@functools.cache
def _cache_name() -> str:
    names = inspect.signature(transformers.LlamaForCausalLM.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def with_cache(cache: Cache | None) -> dict[str, Cache | None]:
    """As keyword argument of models and generate(): `cache`, before transformers 5.24
    `past_key_values`."""
    return {_cache_name(): cache}


def _batch_on(
    device: object, num_layers: int, head_dim: int | None, config: QuashKVCacheConfig
) -> Batch | CudaBatch:
    checked = torch.device("cpu" if device is None else device)  # type: ignore[call-overload]
    if checked.type == "cuda":
        return CudaBatch(num_layers, head_dim, config, checked)
    _tensors.check_device(checked)
    return Batch(num_layers, head_dim, config)


class QuashKVLayer(CacheLayerMixin):
    """One layer of a QuashKVCache. Reordering, cropping and selecting are done
    for all layers at once, by the cache."""

    is_sliding = False  # sliding-window layers keep all tokens and read the window
    is_compileable = False
    is_croppable = True
    supports_early_init = False

    def __init__(self, batch: Batch | CudaBatch, index: int, is_bound: bool) -> None:
        super().__init__()
        self._batch = batch
        self._index = index
        self.dtype = torch.float32
        self._is_bound = is_bound
        # (keys, values, first position) between update() and attention.
        self._pending: tuple[torch.Tensor, torch.Tensor, int] | None = None

    @property
    def batch(self) -> Batch | CudaBatch:
        return self._batch

    @property
    def index(self) -> int:
        return self._index

    @property
    def batch_size(self) -> int:
        return len(self._batch.seqs) or -1

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._batch.prepare(key_states, value_states)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._pending is not None:
            raise RuntimeError(
                "the model did not attend to the tokens of the last update(): its attention is no "
                "longer 'quash'; make the cache with QuashKVCache.from_model(model)"
            )
        self.lazy_initialization(key_states, value_states)
        key_states, value_states = key_states.detach(), value_states.detach()
        lengths = self._batch.lengths
        begin = lengths[self._index]
        if self._is_bound:
            self._pending = (key_states, value_states, begin)
            lengths[self._index] += key_states.shape[2]
            return hf_attention.marked(key_states, self), value_states
        self._batch.append(self._index, begin, key_states, value_states, None)
        lengths[self._index] += key_states.shape[2]
        if begin == 0:
            return key_states, value_states
        return self._batch.read(self._index, key_states.dtype)

    def commit(self, valid: torch.Tensor | None) -> int:
        """Stores the tokens of the last update(); valid: bool [batch, n], False for
        padding. Returns their first position."""
        if self._pending is None:
            raise RuntimeError("these keys were stored already")
        keys, values, begin = self._pending
        self._pending = None
        self._batch.append(self._index, begin, keys, values, valid)
        return begin

    def discard(self, begin: int) -> None:
        """Takes back a step that failed, in all layers: the tokens from `begin` on. Not on
        a GPU, where sealed ones cannot be."""
        if not self._batch.is_cuda:
            self._pending = None
            self._batch.crop(begin)

    def get_seq_length(self) -> int:
        return self._batch.lengths[self._index]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self._pending = None
        self.is_initialized = False

    def offload(self) -> None:
        """Packed tokens are in host memory already."""

    def prefetch(self) -> None:
        """Packed tokens are in host memory already."""

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        raise UnsupportedError("one layer cannot be reordered: use QuashKVCache.reorder_cache()")


class QuashKVCache(Cache):
    """A drop-in for DynamicCache that holds keys and values as 2 to 4 bit codes.

        cache = QuashKVCache.from_model(model, QuashKVCacheConfig(key_bits=4))
        model.generate(**inputs, cache=cache)  # past_key_values= before transformers 5.24

    from_model() switches the model's attention to "quash", which reads packed
    codes directly: update() stores new tokens and returns those alone. The first
    tokens of an empty cache attend to each other exactly, as given. Padding by
    attention_mask is not stored. Other caches in that model go on by sdpa.

    A cache made by the constructor works with any model and attention, slowly:
    its update() returns all tokens decompressed.

    Results are not differentiable. Copies (copy.deepcopy) share sealed pages on the
    CPU.

    On a GPU (sm_80 on, a library built with CUDA) the model is bfloat16 or float16, head_dim
    64, 128 or 256, rotations are not dense, padding is on the left, and crop() reaches open
    tokens only; the rest is UnsupportedError. Half bits and tq_prod are slower there. Few
    tokens stay as given (`uncompressed_tokens`), and crop() reaches all of them.

    num_layers: of the model. head_dim: checked if given.
    config: QuashKVCacheConfig. device: None for the CPU, or a device of torch.
    """

    def __init__(
        self,
        num_layers: int,
        head_dim: int | None = None,
        config: QuashKVCacheConfig | None = None,
        device: object = None,
    ) -> None:
        self.config = config or QuashKVCacheConfig()
        # So that wrong options are refused here. Outliers are half of a head.
        outliers = self.config.k_outliers
        outliers = self.config.v_outliers if outliers is None else outliers
        half = 32 if outliers is None else len(outliers)
        self.config.make_store(num_layers, 1, head_dim or 2 * half, torch.float32)
        self._setup(_batch_on(device, num_layers, head_dim, self.config), is_bound=False)

    def _setup(self, batch: Batch | CudaBatch, is_bound: bool) -> None:
        self._batch = batch
        self._is_bound = is_bound
        self._kv_layers = [
            QuashKVLayer(batch, index, is_bound) for index in range(batch.num_layers)
        ]
        super().__init__(layers=list(self._kv_layers))

    @classmethod
    def from_model(
        cls, model: Any, config: QuashKVCacheConfig | None = None, device: object = None
    ) -> QuashKVCache:
        """An empty cache for `model`, whose attention becomes "quash".

        UnsupportedError, a NotImplementedError, for encoder-decoder models, for
        layers other than full and sliding-window attention, for models whose
        attention cannot be set, and for devices that the library has no kernels for.
        """
        text_config = model.config.get_text_config(decoder=True)
        if getattr(model.config, "is_encoder_decoder", False):
            raise UnsupportedError("encoder-decoder models keep two caches: not supported")
        layer_types, _ = get_layer_types_and_kwargs(text_config)
        for layer_type in layer_types:
            if layer_type not in _LAYER_TYPES:
                raise UnsupportedError(
                    f"the model has a layer of type '{layer_type}', expected {_LAYER_TYPES}"
                )
        cache = cls(len(layer_types), None, config, model.device if device is None else device)
        hf_attention.switch(model)
        cache._setup(cache._batch, is_bound=True)
        return cache

    def reset(self) -> None:
        """Removes every token; the next batch may have another size."""
        self._batch.clear()
        super().reset()

    def reserve(self, positions: int) -> None:
        """Takes the memory for so many positions of each sequence at once, on a GPU:
        before a CUDA graph is captured, which cannot take more. Tokens that were kept as
        given are packed, and so are all to come. Nothing on the CPU."""
        if isinstance(self._batch, CudaBatch):
            self._batch.reserve(positions)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what beam_idx[i] was; repeated rows share sealed pages."""
        self._batch.select([int(row) for row in beam_idx])

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._batch.select([row for row in range(len(self._batch.seqs)) for _ in range(repeats)])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        rows = torch.arange(len(self._batch.seqs))[indices.to("cpu")]
        self._batch.select([int(row) for row in rows])

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the newest -tokens_to_remove positions (tokens_to_remove <= 0).
        Exact for the newest `reserve` tokens and those of the open page."""
        if tokens_to_remove > 0:
            raise InvalidError(
                f"tokens_to_remove is {tokens_to_remove}, expected 0 or a negative number"
            )
        if tokens_to_remove < 0 and self._batch.seqs:
            self._batch.crop(max(max(self._batch.lengths) + tokens_to_remove, 0))

    def compression_stats(self) -> dict[str, float]:
        """Fields of StoreStats by name (bytes held, ratios, effective bits), and
        "seq_length". Copies of a cache share a store, and stats are of it all."""
        stats = self._batch.stats()
        values: dict[str, float] = {} if stats is None else dataclasses.asdict(stats)
        return {"seq_length": self.get_seq_length(), **values}

    @property
    def total_bytes(self) -> int:
        """Bytes of packed pages, open pages and block tables."""
        stats = self._batch.stats()
        return 0 if stats is None else stats.total_bytes

    @property
    def compression_ratio(self) -> float:
        """Bytes as float16 over total_bytes; 0 if empty."""
        stats = self._batch.stats()
        return 0.0 if stats is None else stats.compression_ratio

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, None]]:
        """(keys, values, None) of each layer that has tokens, decompressed
        [batch, kv_heads, positions, head_dim], zero at padding."""
        for layer in self._kv_layers:
            if layer.get_seq_length():
                keys, values = self._batch.read(layer.index, layer.dtype)
                yield keys, values, None

    def __getitem__(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) of one layer, decompressed; from the last one if negative.
        IndexError where there is no such layer, or no token in it."""
        held = self._kv_layers[layer]
        if held.get_seq_length() == 0:
            raise IndexError(f"layer {layer} has no tokens")
        return self._batch.read(held.index, held.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> QuashKVCache:
        copied = type(self).__new__(type(self))
        copied.config = self.config
        copied._setup(self._batch.fork(), self._is_bound)
        for new, old in zip(copied._kv_layers, self._kv_layers, strict=True):
            if old.is_initialized:
                new.dtype, new.device, new.is_initialized = old.dtype, old.device, True
        memo[id(self)] = copied
        return copied
