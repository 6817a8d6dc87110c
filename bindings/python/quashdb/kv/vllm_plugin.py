"""Entry point of vLLM (group vllm.general_plugins): packed pages on the CPU.

Nothing happens unless the environment variable QUASHKV_VLLM asks for it:

    QUASHKV_VLLM=4   vllm serve MODEL --no-enable-prefix-caching    # 4 bits
    QUASHKV_VLLM=4,3 vllm serve MODEL --no-enable-prefix-caching    # keys, values

Then QuashAttentionBackend (vllm_backend.py, which lists its limits) takes the
place of vLLM's CPU attention.
"""

from __future__ import annotations

import os

from quashdb.kv.errors import InvalidError

VARIABLE = "QUASHKV_VLLM"
BACKEND = "quashdb.kv.vllm_backend.QuashAttentionBackend"


def bits() -> tuple[float, float] | None:
    """(key_bits, value_bits) of the environment variable; None if it is not set.
    InvalidError, a ValueError, if it is neither one number nor two."""
    text = os.environ.get(VARIABLE, "").strip()
    if text in ("", "0"):
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        if len(numbers) not in (1, 2):
            raise ValueError
    except ValueError:
        raise InvalidError(f"{VARIABLE} is {text!r}, expected bits as '4' or '4,3'") from None
    return numbers[0], numbers[-1]


def register() -> None:
    """Called by vLLM in each of its processes; registers if VARIABLE is set.
    ImportError, saying so, where vLLM is not installed."""
    if bits() is None:
        return
    try:
        from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
    except ImportError as error:
        raise ImportError(
            f"{VARIABLE} is set, but vLLM's attention registry cannot be imported: {error}. "
            "Install vllm 0.33 or later for the CPU"
        ) from error
    register_backend(AttentionBackendEnum.CPU_ATTN, BACKEND)
