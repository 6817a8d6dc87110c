"""Generation with and without a packed cache, side by side.

    python -m quashdb.kv --model DIR [--prompt TEXT] [--bits 4 2] [--tokens 100]

DIR: a folder (or the name on the Hub) of a causal language model of transformers.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

PROMPT = (
    "Description: This package contains a small library to compress data in memory. It is used by"
)


class _Run:
    """One generation: its text, speed and memory."""

    def __init__(self, name: str, text: str, tokens_per_second: float, cache_bytes: int) -> None:
        self.name = name
        self.text = text
        self.tokens_per_second = tokens_per_second
        self.cache_bytes = cache_bytes


def _load(folder: str) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError as error:
        raise SystemExit(f"Error: the demo needs transformers: {error}") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError):
            tokenizer = transformers.PreTrainedTokenizerFast(
                tokenizer_file=str(pathlib.Path(folder) / "tokenizer.json")
            )
    except Exception as error:  # of many kinds, by what is wrong with the folder
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise SystemExit(f"Error: no model could be loaded from '{folder}': {first[0]}") from None
    return model, tokenizer


def _held_bytes(cache: Any) -> int:
    from quashdb.kv import QuashKVCache

    if isinstance(cache, QuashKVCache):
        return cache.total_bytes
    return sum(
        x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values)
    )


def _generate(model: Any, ids: Any, tokens: int, cache: Any) -> tuple[list[int], float]:
    """Greedy: the new tokens, and how many a second after the first."""
    import torch

    from quashdb.kv.hf_cache import with_cache

    given = {**with_cache(cache), "use_cache": True}
    out = model(ids, logits_to_keep=1, **given)
    new = [int(out.logits[0, -1].argmax())]
    begin = time.perf_counter()
    while len(new) < tokens:
        step = model(torch.tensor([[new[-1]]]), **given)
        new.append(int(step.logits[0, -1].argmax()))
    return new, (len(new) - 1) / max(time.perf_counter() - begin, 1e-9)


def _columns(runs: Sequence[_Run], width: int) -> str:
    """Texts side by side, as wide as the terminal allows."""
    column = max((width - 3 * (len(runs) - 1)) // len(runs), 20)
    cells = [
        [run.name, "-" * column, *textwrap.wrap(" ".join(run.text.split()), column)] for run in runs
    ]
    height = max(map(len, cells))
    lines = []
    for i in range(height):
        row = [cell[i] if i < len(cell) else "" for cell in cells]
        lines.append(" | ".join(text.ljust(column) for text in row).rstrip())
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m quashdb.kv",
        description="Generates with an uncompressed and with packed caches, side by side.",
    )
    parser.add_argument("--model", required=True, help="folder or Hub name of a causal LM")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument(
        "--bits", type=float, nargs="+", default=[4.0, 2.0], choices=[2, 2.5, 3, 3.5, 4]
    )
    parser.add_argument("--tokens", type=int, default=100, help="to generate, 2 or more")
    parser.add_argument("--repeat", type=int, default=1, help="of the prompt, for long contexts")
    given = parser.parse_args(arguments)
    if given.tokens < 2 or given.repeat < 1:
        parser.error("--tokens must be at least 2 and --repeat at least 1")
    model, tokenizer = _load(given.model)
    import torch
    from transformers import Cache, DynamicCache

    from quashdb.kv import QuashKVCache, QuashKVCacheConfig

    ids = tokenizer(given.prompt, return_tensors="pt").input_ids.repeat(1, given.repeat)
    runs = []
    packs_nothing = False
    attention = model.config._attn_implementation  # from_model() changes it
    with torch.inference_mode():
        for bits in (None, *given.bits):
            if bits is None:
                name = "uncompressed"
                cache: Cache = DynamicCache(config=model.config)
            else:
                config = QuashKVCacheConfig(key_bits=bits, value_bits=bits)
                name = f"{bits:g} bits"
                cache = QuashKVCache.from_model(model, config)
            new, speed = _generate(model, ids, given.tokens, cache)
            if isinstance(cache, QuashKVCache) and cache.compression_stats()["pages"] == 0:
                packs_nothing = True
            runs.append(_Run(name, tokenizer.decode(new), speed, _held_bytes(cache)))
        model.set_attn_implementation(attention)
    exact = runs[0]
    print(_columns(runs, shutil.get_terminal_size((100, 24)).columns))
    print(f"\n{ids.shape[1]} tokens of prompt, {given.tokens} generated")
    print(f"{'cache':<14}{'tokens/s':>10}{'KiB held':>12}{'smaller by':>12}")
    for run in runs:
        print(
            f"{run.name:<14}{run.tokens_per_second:>10.1f}{run.cache_bytes / 1024:>12,.0f}"
            f"{exact.cache_bytes / run.cache_bytes:>11.2f}x"
        )
    if packs_nothing:
        print(
            "Too few tokens for a packed page: the first 64 and the newest ones stay as given. "
            "A longer prompt (--repeat) or more --tokens show what packing saves."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
