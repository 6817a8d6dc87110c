"""A chunk of a prompt over packed tokens on a GPU: time and memory of one layer.

    QUASHKV_LIBRARY=build-cuda/kvcache/libquashkv.so PYTHONPATH=bindings/python \\
        python3 bench/gpu/prefill.py

2,048 new tokens, 32 query and 8 KV heads of 128, bf16, 4 bits: stored tokens in parts,
merged by their log-sum-exp, against all of them decompressed and SDPA with a mask, and
against SDPA over bf16 keys and values without a mask, which costs what attention does.
Medians, and the most memory that a call takes.
"""

import argparse
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from device_time import median_ms
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from quashdb.kv import QuashKVCache, QuashKVCacheConfig, hf_attention

NEW, HEADS, KV_HEADS, DIM = 2048, 32, 8, 128


def measured(call, rounds=5):
    """(ms, MB)"""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    milliseconds = median_ms(call, rounds)
    return milliseconds, (torch.cuda.max_memory_allocated() - before) / 1e6


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", default="16,64,128", help="thousands of tokens, of 1,024")
    for kilo in parser.parse_args().stored.split(","):
        stored = 1024 * int(kilo)
        make = lambda heads, n: torch.randn(1, heads, n, DIM, device="cuda").bfloat16()
        cache = QuashKVCache(1, DIM, QuashKVCacheConfig(), "cuda")
        store, layer = cache._batch, cache._kv_layers[0]
        keys, values = make(KV_HEADS, stored), make(KV_HEADS, stored)
        store.prepare(keys, values)
        store.append(0, 0, keys, values, None)
        store.lengths[0] = stored + NEW
        query, key, value = make(HEADS, NEW), make(KV_HEADS, NEW), make(KV_HEADS, NEW)
        layer.commit = lambda valid: None  # the same chunk each time
        module = SimpleNamespace(num_key_value_groups=HEADS // KV_HEADS, is_causal=True,
                                 training=False)
        causal = torch.ones(NEW, stored + NEW, dtype=torch.bool, device="cuda").tril(stored)
        causal = causal[None, None]

        def in_parts():
            hf_attention._on_gpu(layer, module, query, key, value, causal, None, None, None, None)

        def at_once():
            whole = [torch.cat(pair, 2) for pair in
                     zip(store.read(0, torch.bfloat16, stored), (key, value), strict=True)]
            sdpa_attention_forward(module, query, *whole, causal)

        def exact():
            F.scaled_dot_product_attention(query, whole_k, whole_v, enable_gqa=True)

        whole_k, whole_v = torch.cat((keys, key), 2), torch.cat((values, value), 2)
        for name, call in (("in parts", in_parts), ("decompressed, masked", at_once),
                           ("bf16 SDPA, no mask", exact)):
            milliseconds, megabytes = measured(call)
            print(f"{kilo:>4}K stored, {name:<22} {milliseconds:8.2f} ms {megabytes:9.0f} MB")


if __name__ == "__main__":
    main()
