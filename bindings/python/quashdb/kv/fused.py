"""Compression and attention over packed rows, without unpacked intermediates."""

from __future__ import annotations

import math

import torch

from quashdb.kv import _tensors
from quashdb.kv._quantizer import PackedQuantizer
from quashdb.kv.errors import InvalidError

_BLOCK = 1024  # tokens whose values are decoded at a time


def fused_compress(
    x: torch.Tensor, quantizer: PackedQuantizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes uint8 [..., code_size], scales float32 [..., scales_per_row]) of
    finite x [..., d]: rotation, quantization and packing in one pass."""
    return quantizer.encode(x)


def fused_decompress(
    codes: torch.Tensor, scales: torch.Tensor, quantizer: PackedQuantizer
) -> torch.Tensor:
    """float32 [..., d] of what fused_compress() returned."""
    return quantizer.decode(codes, scales)


def fused_attention(
    queries: torch.Tensor,
    key_codes: torch.Tensor,
    key_scales: torch.Tensor,
    value_codes: torch.Tensor,
    value_scales: torch.Tensor,
    key_quantizer: PackedQuantizer,
    value_quantizer: PackedQuantizer,
    scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """softmax(q k^T scale) v with keys and values from fused_compress().

    Scores come straight from codes; values are decoded a block at a time.
    For caches that grow, QuashKVEngine is faster.

    queries: [..., heads, nq, d] of any float dtype.
    key_codes, value_codes: uint8 [..., kv_heads, n, code_size]; key_scales,
        value_scales: [..., kv_heads, n, scales_per_row]. heads is a multiple of
        kv_heads; the dimensions before are equal.
    scale: of scores, None for 1 / sqrt(d).
    causal: query i sees tokens up to n - nq + i.
    Returns [..., heads, nq, d] of the dtype of the queries. InvalidError, a
    ValueError, if there are no tokens or, if causal, more queries than tokens.
    """
    q = _tensors.checked(queries, "queries")
    if q.ndim < 3 or key_codes.ndim != q.ndim:
        raise InvalidError(
            f"queries and key_codes have {q.ndim} and {key_codes.ndim} dimensions, expected the "
            "same, 3 or more"
        )
    heads, nq, d = q.shape[-3:]
    kv_heads, n = key_codes.shape[-3:-1]
    if n == 0:
        raise InvalidError("attention needs at least 1 token")
    if causal and nq > n:
        raise InvalidError(f"{nq} causal queries over {n} tokens, expected at most {n}")
    if heads % kv_heads != 0 or q.shape[:-3] != key_codes.shape[:-3]:
        raise InvalidError(f"queries {list(q.shape)} do not fit key_codes {list(key_codes.shape)}")
    if value_codes.shape[:-1] != key_codes.shape[:-1]:
        raise InvalidError("value_codes and key_codes are not of the same tokens")
    factor = 1 / math.sqrt(d) if scale is None else scale
    groups = q.float().reshape(-1, kv_heads, heads // kv_heads * nq, d).flatten(0, 1)
    codes_k, scales_k, codes_v, scales_v = (
        part.flatten(0, -3) for part in (key_codes, key_scales, value_codes, value_scales)
    )
    out = torch.empty(*groups.shape[:-1], value_quantizer.d)
    last = torch.arange(n - nq, n).repeat(heads // kv_heads)  # last token a query sees
    for row, query in enumerate(groups):
        scores = key_quantizer.encoded_dot(query, codes_k[row], scales_k[row]) * factor
        if causal:
            scores.masked_fill_(torch.arange(n) > last[:, None], -math.inf)
        weights = torch.softmax(scores, -1)
        out[row] = 0
        for begin in range(0, n, _BLOCK):
            end = begin + _BLOCK
            values = value_quantizer.decode(codes_v[row, begin:end], scales_v[row, begin:end])
            out[row] += weights[:, begin:end] @ values
    return out.reshape(*q.shape[:-1], value_quantizer.d).to(q.dtype)
