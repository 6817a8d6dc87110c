"""Every format of the KV cache on a GPU: attention, sealing and decompressing, with a
check of attention against float64 over what is stored.

    QUASHKV_LIBRARY=build-cuda/kvcache/libquashkv.so PYTHONPATH=bindings/python \\
        python3 bench/gpu/formats.py --out out/

8 sequences of 16K tokens, 32 query heads, bf16, 8 KV heads of 128 or 4 of 256. Attention
is one new token each, in a CUDA graph over four layers in turn, which together exceed the
L2; "of copy" is bytes of pages over the time, against copies. Medians.
"""

import argparse
import json
import math
import pathlib

import torch
from device_time import graph_of, median_ms

from quashdb.kv import PAGE_SIZE, QuashKVCacheConfig
from quashdb.kv._cuda import CudaLayer, CudaStore

SEQS, TOKENS, Q_HEADS, LAYERS = 8, 16384, 32, 4
FORMATS = [(4, 4, "tq_mse"), (3.5, 3.5, "tq_mse"), (3, 3, "tq_mse"), (2.5, 2.5, "tq_mse"),
           (2, 2, "tq_mse"), (3.5, 2.5, "tq_mse"), (4, 4, "tq_prod"), (3, 3, "tq_prod")]
DEVICE = torch.device("cuda", 0)


def relative_error(store, layer, queries, out, seqs=1):
    """Of the first sequences."""
    keys, values = store.read(layer, TOKENS, torch.float32)
    group = queries.shape[1] // keys.shape[1]
    keys, values = (x[:seqs].double().repeat_interleave(group, 1) for x in (keys, values))
    scores = torch.einsum("bhd,bhtd->bht", queries[:seqs].double(), keys)
    weights = (scores / math.sqrt(queries.shape[2])).softmax(-1)
    expected = torch.einsum("bht,bhtd->bhd", weights, values)
    return float((out[:seqs].double() - expected).norm() / expected.norm())


def measure(k_bits, v_bits, quantizer, heads, dim, copy):
    config = QuashKVCacheConfig(key_bits=k_bits, value_bits=v_bits, k_quantizer=quantizer)
    store = CudaStore(heads, dim, config, torch.bfloat16, DEVICE)
    keys, values = (torch.randn(SEQS, TOKENS, heads, dim, device=DEVICE).bfloat16().transpose(1, 2)
                    for _ in range(2))
    layers = [CudaLayer(store, SEQS) for _ in range(LAYERS)]
    for layer in layers:
        layer.reserve(TOKENS // PAGE_SIZE)
        store.append(layer, keys, values)
    queries = torch.randn(SEQS, Q_HEADS, dim, device=DEVICE).bfloat16()
    out, _ = store.attend(layers[0], queries)
    error = relative_error(store, layers[0], queries, out)
    graph = graph_of([lambda layer=layer: store.attend(layer, queries) for layer in layers])
    attend = median_ms(graph.replay) / LAYERS

    def seal():
        layers[0].num_pages.zero_()
        layers[0].open_tokens.zero_()
        store.append(layers[0], keys, values)

    pages = int(layers[0].num_pages.sum()) * store.page_bytes
    moved = 2 * (keys.numel() + values.numel()) + pages
    of_copy = {"attend": pages / attend, "seal": moved / median_ms(seal),
               "read": moved / median_ms(lambda: store.read(layers[0], TOKENS, torch.bfloat16))}
    row = {"k_bits": k_bits, "v_bits": v_bits, "k_quantizer": quantizer, "head_dim": dim,
           "attend_us": attend * 1e3, "relative_error": error}
    row |= {f"{name}_tb_s": rate / 1e9 for name, rate in of_copy.items()}
    row |= {f"{name}_of_copy": rate / 1e9 / copy for name, rate in of_copy.items()}
    print(f"{quantizer} {k_bits}/{v_bits} bits, head_dim {dim}: attention {attend * 1e3:.1f} us, "
          + ", ".join(f"{name} {rate / 1e9:.2f} TB/s ({rate / 1e9 / copy:.0%})"
                      for name, rate in of_copy.items()) + f", error {error:.1e}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    source, target = (torch.ones(1 << 28, device=DEVICE) for _ in range(2))
    copy = 8 * source.numel() / median_ms(lambda: target.copy_(source)) / 1e9
    del source, target
    print(f"{torch.cuda.get_device_name()}, copies {copy:.2f} TB/s", flush=True)
    rows = [measure(*one, heads, dim, copy) for heads, dim in ((8, 128), (4, 256))
            for one in FORMATS]
    out.mkdir(parents=True, exist_ok=True)
    (out / "formats.json").write_text(json.dumps({"copy_tb_s": copy, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
