"""Decode attention on a GPU: packed pages against bf16 SDPA, in one run.

    cmake -B build-cuda -DQUASHDB_BUILD_CUDA=ON && cmake --build build-cuda --target quash_gpu_bench
    python3 bench/gpu/attend_decode.py --library build-cuda/bench/gpu/libquash_gpu_bench.so --out out/

First checks the kernel against float64 on random pages; then times it and the
fastest SDPA backend of each shape by CUDA graphs, alternating, over copies of
the cache that together exceed the L2, pages shuffled. Hq 32, Hkv 8, head_dim 128.
"""

import argparse
import ctypes
import json
import math
import pathlib
import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

PAGE = 64
LEVELS = {2: [-107, -33, 33, 107], 3: [-107, -67, -37, -11, 11, 37, 67, 107],
          4: [-107, -81, -63, -49, -37, -25, -15, -5, 5, 15, 25, 37, 49, 63, 81, 107]}


class PageLayout(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in (
        "page_bytes", "head_page_bytes", "k_codes", "k_scales", "k_mean", "v_codes", "v_scales",
        "v_mean", "mean_scales")]


class RotationTables(ctypes.Structure):
    _fields_ = [("permutation", ctypes.c_void_p), ("factors", ctypes.c_void_p)]


class DecodeArgs(ctypes.Structure):
    _fields_ = ([(name, ctypes.c_uint32) for name in (
        "num_seqs", "num_q_heads", "num_kv_heads", "head_dim", "k_bits", "v_bits")]
        + [("scale", ctypes.c_float), ("layout", PageLayout), ("k_rotation", RotationTables),
           ("v_rotation", RotationTables), ("k_levels", ctypes.c_int8 * 16),
           ("v_levels", ctypes.c_int8 * 16), ("pages", ctypes.c_void_p),
           ("block_table", ctypes.c_void_p), ("num_pages", ctypes.c_void_p),
           ("max_pages", ctypes.c_uint32), ("open_k", ctypes.c_void_p),
           ("open_v", ctypes.c_void_p), ("open_tokens", ctypes.c_void_p),
           ("open_capacity", ctypes.c_uint32), ("q", ctypes.c_void_p), ("out", ctypes.c_void_p),
           ("lse", ctypes.c_void_p), ("workspace", ctypes.c_void_p)])


def make_layout(bits_k, bits_v, heads, d):
    layout, at = PageLayout(), 0

    def take(name, size):
        nonlocal at
        setattr(layout, name, at)
        at += size

    take("k_codes", PAGE * d * bits_k // 8)
    take("k_scales", 2 * PAGE)
    take("k_mean", d)
    take("v_codes", PAGE * d * bits_v // 8)
    take("v_scales", 2 * PAGE)
    take("v_mean", d)
    layout.head_page_bytes = at
    layout.mean_scales = at * heads
    layout.page_bytes = (at * heads + 4 * heads + 15) // 16 * 16
    return layout


class Cache:
    """Random pages and open tokens on the device."""

    def __init__(self, library, seqs, tokens, bits, open_tokens=40, hq=32, hkv=8, d=128, seed=0):
        generator = torch.Generator("cuda").manual_seed(seed)
        self.library, self.bits, self.d, self.hq, self.hkv = library, bits, d, hq, hkv
        self.seqs, self.pages_per_seq = seqs, tokens // PAGE
        layout = make_layout(bits, bits, hkv, d)
        self.layout = layout
        n = seqs * max(1, self.pages_per_seq)
        self.pool = torch.randint(0, 256, (n, layout.page_bytes), dtype=torch.uint8, device="cuda",
                                  generator=generator)
        heads = self.pool[:, :layout.head_page_bytes * hkv].view(n, hkv, layout.head_page_bytes)

        def floats(*shape, scale=1.0):
            x = torch.rand(*shape, device="cuda", generator=generator) * 0.5 + 0.75
            return (x * scale).half()
        for name in ("k_scales", "v_scales"):
            at = getattr(layout, name)
            heads[:, :, at:at + 2 * PAGE] = floats(n, hkv, PAGE, scale=0.02).view(torch.uint8)
        at = layout.mean_scales
        self.pool[:, at:at + 4 * hkv] = floats(n, hkv * 2, scale=0.005).view(torch.uint8)
        self.table = torch.randperm(n, device="cuda", generator=generator).to(torch.int32).view(
            seqs, -1).contiguous()
        self.num_pages = torch.full((seqs,), self.pages_per_seq, dtype=torch.int32, device="cuda")
        self.capacity = max(open_tokens, 1)
        shape = (seqs, self.capacity, hkv, d)
        self.open_k = torch.randn(shape, device="cuda", generator=generator).bfloat16()
        self.open_v = torch.randn(shape, device="cuda", generator=generator).bfloat16()
        self.open_tokens = torch.full((seqs,), open_tokens, dtype=torch.int32, device="cuda")
        self.rotations = []
        for _ in range(2):
            perm = torch.stack([torch.randperm(d, device="cuda", generator=generator)
                                for _ in range(3)]).to(torch.int16)
            signs = torch.randint(0, 2, (3, d), device="cuda", generator=generator) * 2.0 - 1
            self.rotations.append((perm, (signs / math.sqrt(d)).float().contiguous()))
        self.q = torch.randn(seqs, hq, d, device="cuda", generator=generator).bfloat16()
        self.out = torch.full_like(self.q, float("nan"))
        self.lse = torch.empty(seqs, hq, device="cuda")
        self.workspace = torch.zeros(library.quash_bench_decode_workspace(seqs, hq, d),
                                     dtype=torch.uint8, device="cuda")
        args = DecodeArgs(seqs, hq, hkv, d, bits, bits, 1 / math.sqrt(d), layout)
        for i, name in enumerate(("k_rotation", "v_rotation")):
            perm, factors = self.rotations[i]
            setattr(args, name, RotationTables(perm.data_ptr(), factors.data_ptr()))
        for i, level in enumerate(LEVELS[bits]):
            args.k_levels[i] = args.v_levels[i] = level
        args.pages, args.block_table = self.pool.data_ptr(), self.table.data_ptr()
        args.num_pages, args.max_pages = self.num_pages.data_ptr(), self.pages_per_seq
        args.open_k, args.open_v = self.open_k.data_ptr(), self.open_v.data_ptr()
        args.open_tokens, args.open_capacity = self.open_tokens.data_ptr(), self.capacity
        args.q, args.out, args.lse = self.q.data_ptr(), self.out.data_ptr(), self.lse.data_ptr()
        args.workspace = self.workspace.data_ptr()
        self.args = args

    def run(self):
        error = self.library.quash_bench_decode(ctypes.byref(self.args),
                                                torch.cuda.current_stream().cuda_stream)
        if error:
            raise RuntimeError(error.decode())

    def rotation(self, i):
        """[d, d] float64: rows are images of unit vectors' coordinates, y = R x."""
        perm, factors = self.rotations[i]
        h = torch.ones(1, 1, dtype=torch.float64, device="cuda")
        while h.shape[0] < self.d:
            h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
        r = torch.eye(self.d, dtype=torch.float64, device="cuda")
        for p, f in zip(perm.long(), factors.double()):
            r = h @ (f[:, None] * r[p])
        return r

    def unpack(self, codes, n):
        """[..., row bytes] to sign-magnitude levels [..., n]."""
        b, codes = self.bits, codes.long()
        if b == 4:
            code = torch.cat([codes & 15, codes >> 4], -1)
        else:
            crumbs = codes[..., :n // 4]
            code = torch.cat([crumbs >> 2 * i & 3 for i in range(4)], -1)
            if b == 3:
                sign = codes[..., n // 4:]
                code = code | torch.cat([sign >> i & 1 for i in range(8)], -1) << 2
        half = 1 << (b - 1)
        levels = torch.tensor(LEVELS[b], device="cuda", dtype=torch.float64)
        index = torch.where(code >= half, half - 1 - (code - half), code + half)
        return levels[index]

    def dense(self, seq):
        """float64 K and V [tokens, hkv, d] of a sequence, in the original space."""
        layout, d = self.layout, self.d
        pages = self.pool[self.table[seq].long()]
        n = pages.shape[0]
        heads = pages[:, :layout.head_page_bytes * self.hkv].view(n, self.hkv, -1)
        at = layout.mean_scales
        mean_scales = pages[:, at:at + 4 * self.hkv].contiguous().view(torch.float16).view(
            n, self.hkv, 2).double()
        parts = []
        for i, name in enumerate("kv"):
            at = getattr(layout, name + "_codes")
            codes = heads[:, :, at:at + PAGE * d * self.bits // 8]
            rows, width = (PAGE, d) if name == "k" else (d, PAGE)
            levels = self.unpack(codes.reshape(n, self.hkv, rows, -1), width)
            if name == "v":
                levels = levels.transpose(2, 3)
            at = getattr(layout, name + "_scales")
            scales = heads[:, :, at:at + 2 * PAGE].contiguous().view(torch.float16).double()
            at = getattr(layout, name + "_mean")
            mean = heads[:, :, at:at + d].contiguous().view(torch.int8).double()
            x = levels * scales[..., None] + (mean * mean_scales[:, :, i, None])[:, :, None]
            x = x @ self.rotation(i)  # rows of R^T y
            parts.append(x.transpose(1, 2).reshape(n * PAGE, self.hkv, d))
        m = int(self.open_tokens[seq])
        return (torch.cat([parts[0], self.open_k[seq, :m].double()]),
                torch.cat([parts[1], self.open_v[seq, :m].double()]))


def check(library, quick):
    heads = ((32, 8), (16, 2)) if quick else ((32, 8), (8, 8), (16, 2), (24, 2), (6, 3))
    lengths = ((1, 64, 0), (3, 640, 37), (2, 0, 5))
    if not quick:
        lengths += ((1, 8192, 64), (5, 1984, 79))
    worst = 0.0
    for bits in (2, 3, 4):
        for d in (64, 128):
            for hq, hkv in heads:
                for seqs, tokens, open_tokens in lengths:
                    cache = Cache(library, seqs, tokens, bits, open_tokens, hq, hkv, d, seed=tokens)
                    for _ in range(2):
                        cache.out.fill_(float("nan"))
                        cache.run()
                    torch.cuda.synchronize()
                    for seq in range(seqs):
                        if tokens:
                            k, v = cache.dense(seq)
                        else:
                            k = cache.open_k[seq, :open_tokens].double()
                            v = cache.open_v[seq, :open_tokens].double()
                        k, v = (x.repeat_interleave(hq // hkv, 1) for x in (k, v))
                        scores = torch.einsum("hd,thd->ht", cache.q[seq].double(), k) / math.sqrt(d)
                        want = torch.einsum("ht,thd->hd", scores.softmax(-1), v)
                        error = ((cache.out[seq].double() - want).norm() / want.norm()).item()
                        lse = (cache.lse[seq].double() - scores.logsumexp(-1)).abs().max().item()
                        if not (error < 4e-3 and lse < 2e-3):
                            raise SystemExit(f"wrong: bits {bits} d {d} hq {hq} hkv {hkv} "
                                             f"seqs {seqs} tokens {tokens}: {error} {lse}")
                        worst = max(worst, error)
    print(f"checked: worst relative error {worst:.2e} (bf16 output)")


def graph_of(calls):
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def time_graph(graph, calls):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000 / calls


def compare(library, seqs, tokens, bits_list, rounds):
    """Times of one shape: {"bf16": us, bits: us}, medians of alternating rounds."""
    dense_bytes = seqs * tokens * 8 * 128 * 4
    copies = max(1, min(8, math.ceil(3e8 / dense_bytes)))
    graphs, calls = {}, {}
    q = torch.randn(seqs, 32, 1, 128, device="cuda").bfloat16()
    kv = [[torch.randn(seqs, 8, tokens, 128, device="cuda", dtype=torch.bfloat16)
           for _ in range(2)] for _ in range(copies)]
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        try:
            with sdpa_kernel(backend):
                graphs[backend.name] = graph_of([
                    lambda k=k, v=v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
                    for k, v in kv])
            calls[backend.name] = copies
        except RuntimeError as error:
            print(backend.name, str(error).splitlines()[0])
    caches = []
    for bits in bits_list:
        count = max(1, min(24, math.ceil(3e8 / (dense_bytes * bits / 16))))
        of_bits = [Cache(library, seqs, tokens, bits, seed=i) for i in range(count)]
        caches.append(of_bits)
        graphs[bits] = graph_of([cache.run for cache in of_bits])
        calls[bits] = count
    times = {key: [] for key in graphs}
    for _ in range(rounds):
        for key, graph in graphs.items():
            times[key].append(time_graph(graph, calls[key]))
    medians = {key: statistics.median(value) for key, value in times.items()}
    result = {"seqs": seqs, "tokens": tokens}
    result["bf16"] = min(medians[key] for key in medians if isinstance(key, str))
    for bits, of_bits in zip(bits_list, caches):
        result[bits] = medians[bits]
        packed = of_bits[0].pool.numel()
        result[f"{bits} TB/s"] = packed / medians[bits] / 1e6
    return result


def copy_bandwidth():
    a, b = (torch.ones(1 << 29, dtype=torch.int32, device="cuda") for _ in range(2))
    graph = graph_of([lambda: torch.neg(a, out=b)] * 4)
    return 8 * a.numel() / statistics.median(time_graph(graph, 4) for _ in range(10)) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--shapes", default="1x128K,8x32K,32x8K", help="or all, or none")
    parser.add_argument("--quick", action="store_true", help="check fewer shapes")
    arguments = parser.parse_args()
    library = ctypes.CDLL(str(arguments.library.resolve()))
    library.quash_bench_decode.restype = ctypes.c_char_p
    library.quash_bench_decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.quash_bench_decode_workspace.restype = ctypes.c_size_t
    arguments.out.mkdir(parents=True, exist_ok=True)
    check(library, arguments.quick)
    if arguments.shapes == "none":
        return
    bandwidth = copy_bandwidth()
    print(f"copy {bandwidth:.2f} TB/s")
    if arguments.shapes == "all":
        shapes = [(b, k) for b in (1, 8, 32) for k in (1, 4, 16, 64, 128) if b * k <= 1024]
    else:
        shapes = [tuple(int(x.strip("K")) for x in shape.split("x"))
                  for shape in arguments.shapes.split(",")]
    rows = []
    print("shape      bf16 us  " + "  ".join(f"{b}-bit us     x  ceiling" for b in (4, 3, 2)))
    for seqs, kilo in shapes:
        row = compare(library, seqs, 1024 * kilo, (4, 3, 2), arguments.rounds)
        rows.append(row)
        cells = [f"{row[b]:8.1f} {row['bf16'] / row[b]:5.2f}  {row[f'{b} TB/s'] / bandwidth:6.1%}"
                 for b in (4, 3, 2)]
        print(f"{seqs:2}x{kilo:<4}K {row['bf16']:9.1f}  " + "  ".join(cells), flush=True)
    (arguments.out / "attend_decode.json").write_text(
        json.dumps({"copy_tb_per_s": bandwidth, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
