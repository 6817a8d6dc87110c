"""The attention function "quash" of transformers' AttentionInterface.

It attends over packed codes if its keys come from QuashKVCache.update(), and is
sdpa (eager with softcap or attention sinks) for everything else, the first
tokens of an empty cache included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from quashdb.kv._ffi import PAGE_SIZE
from quashdb.kv.errors import UnsupportedError

if TYPE_CHECKING:
    from quashdb.kv._batch import Batch
    from quashdb.kv._cuda import CudaBatch
    from quashdb.kv.hf_cache import QuashKVLayer

NAME = "quash"
# Stored tokens of a batch that are decompressed at a time, for many queries on a GPU.
PART_TOKENS = 32768
MAX_QUERY_TOKENS = 8  # of a sequence, that the fused kernel takes
_ATTRIBUTE = "_quash_layer"


def marked(keys: torch.Tensor, layer: QuashKVLayer) -> torch.Tensor:
    """A view of new keys by which the attention function finds their cache."""
    view = keys.view_as(keys)
    setattr(view, _ATTRIBUTE, layer)
    return view


def switch(model: Any) -> None:
    """Makes "quash" the attention of `model`; UnsupportedError if it has its own."""
    model.set_attn_implementation(NAME)
    if model.config.get_text_config(decoder=True)._attn_implementation != NAME:
        raise UnsupportedError(
            f"{type(model).__name__} does not take its attention from AttentionInterface; "
            "QuashKVCache(num_layers) works with it, slowly"
        )


def quash_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention with the interface of transformers' other ones.

    query: [batch, heads, n, head_dim]; key, value: [batch, kv_heads, n or more,
        head_dim]; attention_mask: [batch, 1, n, positions], bool or additive.
    Returns ([batch, n, heads, head_dim], None). UnsupportedError, a
    NotImplementedError, for masks over stored tokens other than causal with
    padding and a sliding window, and for position biases.
    """
    layer: QuashKVLayer | None = getattr(key, _ATTRIBUTE, None)
    if layer is not None and layer.batch.is_cuda and layer.get_seq_length() > query.shape[2]:
        return _on_gpu(
            layer, module, query, key, value, attention_mask, scaling, sliding_window, softcap,
            s_aux,
        )  # fmt: skip
    if layer is not None:
        has_bias = kwargs.get("position_bias") is not None
        out = _over_codes(
            layer, query, attention_mask, scaling, sliding_window, softcap, s_aux, has_bias
        )
        if out is not None:
            return out, None
    if softcap is None and s_aux is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    return _eager(module, query, key, value, attention_mask, scaling, softcap, s_aux), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _over_codes(
    layer: QuashKVLayer,
    query: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    s_aux: torch.Tensor | None,
    has_bias: bool,
) -> torch.Tensor | None:
    """Stores the tokens of the last update() and attends; None where they are the first,
    which attend to each other as given. After a failure the cache is as before the step."""
    n = query.shape[2]
    begin = layer.get_seq_length() - n
    try:
        visible = _visible(mask)
        # A token that is not padding sees itself.
        valid = None if visible is None else visible[:, :, -n:].diagonal(dim1=1, dim2=2)
        if valid is not None:
            valid = valid.expand(query.shape[0], n)
        if begin > 0:
            if has_bias:
                raise UnsupportedError("position_bias is not supported over a packed cache")
            _check_mask(layer, visible, valid, n, window)
        layer.commit(valid)
        if begin == 0:
            return None
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        return _packed(layer, query, valid, scale, window, softcap, s_aux)
    except Exception:
        layer.discard(begin)
        raise


def _visible(mask: torch.Tensor | None) -> torch.Tensor | None:
    """bool [batch, n, positions]: what a query may see."""
    if mask is None:
        return None
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise UnsupportedError(
            f"attention_mask has shape {list(mask.shape)}, expected [batch, 1, n, positions]"
        )
    mask = mask[:, 0]
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _check_mask(
    layer: QuashKVLayer,
    visible: torch.Tensor | None,
    valid: torch.Tensor | None,
    n: int,
    window: int | None,
) -> None:
    """Refuses masks that are not causal over the tokens that are not padding."""
    if visible is None or valid is None:
        return
    before = layer.batch.tokens(layer.get_seq_length() - n)
    expected = torch.tensor(before)[:, None] + valid.cumsum(1)
    if window is not None:
        expected = expected.clamp(max=window)
    if not bool(((visible.sum(-1) == expected) | ~valid).all()):
        raise UnsupportedError(
            "attention_mask is not causal with padding (and the layer's sliding window), as a "
            "packed cache needs it"
        )


def _packed(
    layer: QuashKVLayer,
    query: torch.Tensor,
    valid: torch.Tensor | None,
    scale: float,
    window: int | None,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> torch.Tensor:
    batch, heads, n, head_dim = query.shape
    rows = query.detach().transpose(1, 2).reshape(batch * n, heads, head_dim)
    held: Batch = layer.batch  # type: ignore[assignment]
    seqs, counts = held.seqs, [n] * batch
    has_padding = valid is not None and not bool(valid.all())
    if valid is not None and has_padding:
        rows = rows[valid.flatten()]
        pairs = [(s, int(c)) for s, c in zip(seqs, valid.sum(1), strict=True) if c]
        seqs, counts = [s for s, _ in pairs], [c for _, c in pairs]
    out, lse = held.packed.attend(
        layer.index,
        seqs,
        rows,
        None if n == 1 and not has_padding else counts,
        scale=scale,
        softcap=softcap or 0.0,
        window=window or 0,
        return_lse=s_aux is not None,
    )
    if s_aux is not None and lse is not None:
        # A sink is one more score, of a token whose value is 0.
        out = out * torch.sigmoid(lse - s_aux.float().flatten()).unsqueeze(-1).to(out.dtype)
    if valid is not None and has_padding:
        whole = torch.zeros(batch * n, heads, head_dim, dtype=out.dtype)
        whole[valid.flatten()] = out
        out = whole
    return out.reshape(batch, n, heads, head_dim)


def _on_gpu(
    layer: QuashKVLayer,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> tuple[torch.Tensor, None]:
    """Over stored tokens: a few queries by the fused kernel, more by flash attention over
    decompressed ones, some at a time, and the new ones as given; by sdpa over all of
    them with padding, a window or a softcap."""
    batch: CudaBatch = layer.batch  # type: ignore[assignment]
    n, positions = query.shape[2], layer.get_seq_length()
    query = query.detach()
    # One query is of the newest token, and padding is on the left, as was checked before.
    if n > 1 and not _is_causal(mask, n, positions, batch.begins, window):
        raise UnsupportedError(
            "attention_mask is not causal with padding on the left of the first tokens (and the "
            "layer's sliding window), as a packed cache on a GPU needs it"
        )
    batch.make_room(layer.index, n)
    given = batch.given(layer.index)
    if given is not None:
        layer.commit(None)
        keys, values = given.tokens()
        mask = _causal_mask(mask, n, positions, batch.begins, window, query.device)
        return _exact(module, query, keys, values, mask, scaling, softcap, s_aux), None
    if n <= MAX_QUERY_TOKENS:
        layer.commit(None)
        out, lse = batch.packed.attend(
            batch.layers[layer.index], query.transpose(1, 2), scaling, s_aux is not None,
            window=window or 0, softcap=softcap or 0.0,
        )  # fmt: skip
        return _with_sinks(out, lse, s_aux), None
    is_cut = window is not None and positions > window
    if batch.begins is None and not is_cut and softcap is None:
        out, lse = _in_parts(layer, query, key, value, scaling)
        layer.commit(None)
        return _with_sinks(out, lse, s_aux).to(query.dtype), None
    keys, values = batch.read(layer.index, key.dtype, positions - n)
    layer.commit(None)
    keys, values = torch.cat((keys, key), 2), torch.cat((values, value), 2)
    mask = _causal_mask(mask, n, positions, batch.begins, window, query.device)
    return _exact(module, query, keys, values, mask, scaling, softcap, s_aux), None


def _causal_mask(
    mask: torch.Tensor | None,
    n: int,
    positions: int,
    begins: torch.Tensor | None,
    window: int | None,
    device: torch.device,
) -> torch.Tensor | None:
    """`mask`, or what it stands for if it is None, of the newest n of so many positions; None
    where each query sees all."""
    is_cut = window is not None and positions > window
    if mask is not None or (n == 1 and begins is None and not is_cut):
        return mask
    made = torch.ones(n, positions, dtype=torch.bool, device=device).tril(positions - n)
    if window is not None:
        made = made.triu(positions - n + 1 - window)
    if begins is None:
        return made[None, None]
    seen = torch.arange(positions, device=device) >= begins[:, None]
    return (made & seen[:, None])[:, None]


def _exact(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> torch.Tensor:
    """Over tokens as given or decompressed."""
    if s_aux is not None or softcap is not None:
        return _eager(module, query, keys, values, mask, scaling, softcap, s_aux)
    out, _ = sdpa_attention_forward(
        module, query, keys, values, mask, scaling=scaling, is_causal=False
    )
    return out  # type: ignore[no-any-return]


def _with_sinks(
    out: torch.Tensor, lse: torch.Tensor | None, s_aux: torch.Tensor | None
) -> torch.Tensor:
    """[..., heads, head_dim] with one more score per head, of a token whose value is 0."""
    if s_aux is None or lse is None:
        return out
    return out * torch.sigmoid(lse - s_aux.float().flatten()).unsqueeze(-1).to(out.dtype)


def _is_causal(
    mask: torch.Tensor | None,
    n: int,
    positions: int,
    begins: torch.Tensor | None,
    window: int | None,
) -> bool:
    """Whether each query sees as many tokens as a causal mask with padding on the left
    (and the layer's sliding window) shows it."""
    visible = _visible(mask)
    if visible is None:
        return begins is None
    expected = torch.arange(positions - n + 1, positions + 1, device=visible.device)[None]
    if begins is not None:
        expected = expected - begins[:, None]
    if window is not None:
        expected = expected.clamp(max=window)
    # Sums of bool are of int64 copies: not of a whole mask.
    seen = sum(part.sum(-1) for part in visible.split(4096, -1))
    return bool((seen == expected).all())


def _in_parts(
    layer: QuashKVLayer,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of new tokens over stored ones and themselves: float32 [batch, n, heads, head_dim]
    and lse [batch, n, heads]. Stored tokens are decompressed part by part, so memory
    does not grow with them; parts are merged by their log-sum-exp."""
    batch: CudaBatch = layer.batch  # type: ignore[assignment]
    stored = layer.get_seq_length() - query.shape[2]
    out, lse = _flash(query, key, value, scaling, is_causal=True)
    out = out.float()
    step = max(PART_TOKENS // query.shape[0] // PAGE_SIZE, 1) * PAGE_SIZE
    for first in range(0, stored, step):
        part = batch.packed.read(
            batch.layers[layer.index], min(step, stored - first), key.dtype, first=first
        )
        part_out, part_lse = _flash(query, *part, scaling, is_causal=False)
        both = torch.logaddexp(lse, part_lse)
        out *= (lse - both).exp_().unsqueeze(-1)
        out += part_out * (part_lse - both).exp_().unsqueeze(-1)
        lse = both
    return out.transpose(1, 2), lse.transpose(1, 2)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[batch, heads, n, head_dim] and the lse [batch, heads, n], which SDPA keeps back."""
    result = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, is_causal, False, scale=scaling
    )
    return result[0], result[1]


def _eager(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
    s_aux: torch.Tensor | None,
) -> torch.Tensor:
    """Exact attention where sdpa has no softcap and no sinks."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    scores = (query @ key.transpose(2, 3)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    n, positions = scores.shape[2:]
    if mask is None and n > 1 and getattr(module, "is_causal", True):
        mask = torch.ones(n, positions, dtype=torch.bool, device=scores.device)
        mask = mask.tril(positions - n)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + mask
    if s_aux is not None:
        sinks = s_aux.float().reshape(1, -1, 1, 1).expand(query.shape[0], -1, n, 1)
        scores = torch.cat((scores, sinks), -1)
    weights = torch.softmax(scores, -1)[..., :positions].to(value.dtype)
    return (weights @ value).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, quash_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
