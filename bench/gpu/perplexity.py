"""Perplexity of a small model through the packed cache on a GPU and on the CPU.

    QUASHKV_LIBRARY=build-cuda/kvcache/libquashkv.so PYTHONPATH=bindings/python \\
        python3 bench/gpu/perplexity.py --model DIR --texts tokens.json --device cuda

Windows of 512 tokens in chunks of one page, bf16. tokens.json: {name: [token, ...]}.
--rotations and --seeds compare rotations: means over the seeds.
"""

import argparse
import itertools
import json
import math
import pathlib
import statistics

import torch
import transformers

from quashdb.kv import QuashKVCache, QuashKVCacheConfig
from quashdb.kv.hf_cache import with_cache

WINDOW, CHUNK = 512, 64


@torch.inference_mode()
def perplexity(model, windows, make_cache):
    loss = 0.0
    for window in windows:
        cache = make_cache()
        logits = torch.cat([
            model(window[None, first:first + CHUNK], **with_cache(cache)).logits[0].float()
            for first in range(0, WINDOW, CHUNK)])
        loss += torch.nn.functional.cross_entropy(logits[:-1], window[1:]).item()
    return math.exp(loss / len(windows))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--texts", type=pathlib.Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--rotations", nargs="+", default=[None], choices=["hadamard", "rht"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[QuashKVCacheConfig.seed])
    arguments = parser.parse_args()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=torch.bfloat16).to(arguments.device).eval()
    for name, tokens in json.loads(arguments.texts.read_text()).items():
        windows = [torch.tensor(tokens[i * WINDOW:(i + 1) * WINDOW], device=arguments.device)
                   for i in range(arguments.windows)]
        model.set_attn_implementation("sdpa")
        exact = perplexity(model, windows, lambda: transformers.DynamicCache(config=model.config))
        print(f"{arguments.device}, {name}: exact {exact:.3f}", end="")
        for bits, rotation in itertools.product((4, 3, 2), arguments.rotations):
            values = []
            for seed in arguments.seeds:
                config = QuashKVCacheConfig(key_bits=bits, value_bits=bits, seed=seed,
                                            rotation=rotation, uncompressed_tokens=0)
                values.append(perplexity(
                    model, windows, lambda config=config: QuashKVCache.from_model(model, config)))
            value = statistics.mean(values)
            print(f", {bits}-bit {rotation or ''} {value:.3f} ({value / exact - 1:+.2%}, "
                  f"{min(values):.3f} to {max(values):.3f})", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
