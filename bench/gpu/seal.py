"""Sealing and decompressing pages on a GPU, in bytes read and written.

    QUASHKV_LIBRARY=build-cuda/kvcache/libquashkv.so PYTHONPATH=bindings/python \\
        python3 bench/gpu/seal.py

4 sequences of 64K tokens, 8 KV heads, head_dim 128, bf16. Medians, in CUDA graphs, so that the
host's time does not count. With another seed, rotations of three rounds are tables instead of
instructions.
"""


import torch
from device_time import graph_of, median_ms

from quashdb.kv import PAGE_SIZE, QuashKVCacheConfig
from quashdb.kv._cuda import CudaLayer, CudaStore

SEQS, TOKENS, HEADS, DIM = 4, 65536, 8, 128


def main():
    device = torch.device("cuda", 0)
    keys, values = (torch.randn(SEQS, TOKENS, HEADS, DIM, device=device).bfloat16().transpose(1, 2)
                    for _ in range(2))
    source, target = (torch.ones(1 << 28, device=device) for _ in range(2))
    copy = 8 * source.numel() / median_ms(lambda: target.copy_(source)) / 1e9
    print(f"copy {copy:.2f} TB/s")
    for rotation, seed, bits in ((rotation, seed, bits) for rotation, seed in (
            ("rht", 42), ("hadamard", 42), ("hadamard", 7)) for bits in (4, 3, 2)):
        config = QuashKVCacheConfig(key_bits=bits, value_bits=bits, seed=seed, rotation=rotation)
        store = CudaStore(HEADS, DIM, config, torch.bfloat16, device)
        layer = CudaLayer(store, SEQS)
        layer.reserve(TOKENS // PAGE_SIZE)

        def empty(layer=layer):
            layer.num_pages.zero_()
            layer.open_tokens.zero_()

        def seal(store=store, layer=layer):
            store.append(layer, keys, values)

        def read(store=store, layer=layer):
            store.read(layer, TOKENS, torch.bfloat16)

        size = 4 * keys.numel() + SEQS * TOKENS // PAGE_SIZE * store.page_bytes
        for name, call, before in (("seal", seal, empty), ("read", read, None)):
            if before is not None:
                before()
            milliseconds = median_ms(graph_of([call]).replay, before=before)
            rate = size / milliseconds / 1e9
            print(f"{rotation}, {bits}-bit, seed {seed}, {name}: {milliseconds:.3f} ms, "
                  f"{rate:.2f} TB/s, {rate / copy:.1%}")


if __name__ == "__main__":
    main()
