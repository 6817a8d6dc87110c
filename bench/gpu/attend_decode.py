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
from device_time import graph_of
from torch.nn.attention import SDPBackend, sdpa_kernel

PAGE = 64
LEVELS = {2: [-107, -33, 33, 107], 3: [-107, -67, -37, -11, 11, 37, 67, 107],
          4: [-107, -81, -63, -49, -37, -25, -15, -5, 5, 15, 25, 37, 49, 63, 81, 107]}


class PageLayout(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in (
        "page_bytes", "head_page_bytes", "k_codes", "k_scales", "k_mean", "v_codes", "v_scales",
        "v_mean", "mean_scales")]


class RotationTables(ctypes.Structure):
    _fields_ = [("permutation", ctypes.c_void_p), ("factors", ctypes.c_void_p),
                ("is_halved", ctypes.c_bool)]


class SecondBand(ctypes.Structure):
    """None here."""

    _fields_ = [("bits", ctypes.c_uint32), ("codes", ctypes.c_uint32),
                ("scales", ctypes.c_uint32), ("levels", ctypes.c_int8 * 16)]


class DecodeArgs(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_uint32) for name in (
            "num_seqs", "num_q_heads", "num_kv_heads", "head_dim", "k_bits", "v_bits",
            "query_tokens", "window")]
        + [("scale", ctypes.c_float), ("softcap", ctypes.c_float), ("is_half", ctypes.c_bool),
           ("layout", PageLayout), ("k_rotation", RotationTables), ("v_rotation", RotationTables),
           ("k_levels", ctypes.c_int8 * 16), ("v_levels", ctypes.c_int8 * 16),
           ("k_second", SecondBand), ("v_second", SecondBand), ("is_sketched", ctypes.c_bool),
           ("sketch", RotationTables)]
        + [(name, ctypes.c_void_p) for name in ("pages", "block_table", "num_pages")]
        + [("max_pages", ctypes.c_uint32)]
        + [(name, ctypes.c_void_p) for name in ("open_k", "open_v", "open_tokens")]
        + [(name, ctypes.c_uint32) for name in ("open_capacity", "sink_tokens")]
        + [(name, ctypes.c_void_p) for name in ("q", "out", "lse", "workspace")]
        + [(name, ctypes.c_uint32) for name in ("blocks", "warps")])


def make_layout(bits_k, bits_v, heads, d, means=True):
    layout, at = PageLayout(), 0

    def take(name, size):
        nonlocal at
        setattr(layout, name, at)
        at += size

    take("k_codes", PAGE * d * bits_k // 8)
    take("k_scales", 2 * PAGE)
    if means:
        take("k_mean", d)
    take("v_codes", PAGE * d * bits_v // 8)
    take("v_scales", 2 * PAGE)
    if means:
        take("v_mean", d)
    layout.head_page_bytes = at
    layout.mean_scales = at * heads
    layout.page_bytes = (at * heads + 4 * heads + 15) // 16 * 16
    return layout


class Cache:
    """Random pages and open tokens on the device. `tokens` are those of the longest
    sequence in pages; with `varied` the others are shorter."""

    def __init__(self, library, seqs, tokens, bits, open_tokens=40, hq=32, hkv=8, d=128, seed=0, *,
                 query_tokens=1, window=0, softcap=0.0, dtype=torch.bfloat16, sinks=0,
                 means=True, varied=False, blocks=0, warps=0):
        generator = torch.Generator("cuda").manual_seed(seed)
        self.library, self.d, self.hq, self.hkv = library, d, hq, hkv
        self.bits = k_bits, v_bits = (bits, bits) if isinstance(bits, int) else bits
        self.seqs, self.pages_per_seq = seqs, tokens // PAGE
        self.window, self.softcap, self.query_tokens, self.sinks = (
            window, softcap, query_tokens, sinks)
        layout = make_layout(k_bits, v_bits, hkv, d, means)
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
        self.capacity = max(open_tokens, 1)

        def counts(most):
            full = torch.full((seqs,), most, dtype=torch.int32, device="cuda")
            if varied and seqs > 1:
                full[1:] = torch.randint(0, most + 1, (seqs - 1,), dtype=torch.int32, device="cuda",
                                         generator=generator)
            return full
        self.num_pages, self.open_tokens = counts(self.pages_per_seq), counts(open_tokens)
        if query_tokens > 1 or tokens == 0:
            self.open_tokens.clamp_(min=query_tokens)
        shape = (seqs, self.capacity, hkv, d)
        self.open_k = torch.randn(shape, device="cuda", generator=generator).to(dtype)
        self.open_v = torch.randn(shape, device="cuda", generator=generator).to(dtype)
        self.rotations = []
        for _ in range(2):
            perm = torch.stack([torch.randperm(d, device="cuda", generator=generator)
                                for _ in range(3)]).to(torch.int16)
            signs = torch.randint(0, 2, (3, d), device="cuda", generator=generator) * 2.0 - 1
            self.rotations.append((perm, (signs / math.sqrt(d)).float().contiguous()))
        shape = (seqs, query_tokens, hq, d)
        self.q = torch.randn(shape, device="cuda", generator=generator).to(dtype)
        self.out = torch.full_like(self.q, float("nan"))
        self.lse = torch.empty(shape[:3], device="cuda")
        self.workspace = torch.zeros(
            library.quash_bench_decode_workspace(seqs, hq, d, query_tokens), dtype=torch.uint8,
            device="cuda")
        args = DecodeArgs(
            num_seqs=seqs, num_q_heads=hq, num_kv_heads=hkv, head_dim=d, k_bits=k_bits,
            v_bits=v_bits, query_tokens=query_tokens, window=window, scale=1 / math.sqrt(d),
            softcap=softcap, is_half=dtype == torch.float16, layout=layout, blocks=blocks,
            warps=warps)
        for i, name in enumerate(("k_rotation", "v_rotation")):
            perm, factors = self.rotations[i]
            setattr(args, name, RotationTables(perm.data_ptr(), factors.data_ptr()))
        for name, b in zip(("k_levels", "v_levels"), self.bits):
            for i, level in enumerate(LEVELS[b]):
                getattr(args, name)[i] = level
        args.pages, args.block_table = self.pool.data_ptr(), self.table.data_ptr()
        args.num_pages, args.max_pages = self.num_pages.data_ptr(), self.pages_per_seq
        args.open_k, args.open_v = self.open_k.data_ptr(), self.open_v.data_ptr()
        args.open_tokens, args.open_capacity = self.open_tokens.data_ptr(), self.capacity
        args.sink_tokens = sinks
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

    @staticmethod
    def unpack(b, codes, n):
        """[..., row bytes] to sign-magnitude levels [..., n]."""
        codes = codes.long()
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
        """float64 K and V [tokens, hkv, d] of a sequence, in the original space: sinks,
        pages, open tokens."""
        layout, d = self.layout, self.d
        n = int(self.num_pages[seq])
        pages = self.pool[self.table[seq, :n].long()]
        heads = pages[:, :layout.head_page_bytes * self.hkv].view(
            n, self.hkv, layout.head_page_bytes)
        at = layout.mean_scales
        mean_scales = pages[:, at:at + 4 * self.hkv].contiguous().view(torch.float16).view(
            n, self.hkv, 2).double()
        m = int(self.open_tokens[seq])
        sinks = min(self.sinks, m)
        parts = []
        for i, name in enumerate("kv"):
            b = self.bits[i]
            at = getattr(layout, name + "_codes")
            codes = heads[:, :, at:at + PAGE * d * b // 8]
            rows, width = (PAGE, d) if name == "k" else (d, PAGE)
            levels = self.unpack(b, codes.reshape(n, self.hkv, rows, codes.shape[2] // rows), width)
            if name == "v":
                levels = levels.transpose(2, 3)
            at = getattr(layout, name + "_scales")
            scales = heads[:, :, at:at + 2 * PAGE].contiguous().view(torch.float16).double()
            x = levels * scales[..., None]
            at = getattr(layout, name + "_mean")
            if at:
                mean = heads[:, :, at:at + d].contiguous().view(torch.int8).double()
                x = x + (mean * mean_scales[:, :, i, None])[:, :, None]
            x = x @ self.rotation(i)  # rows of R^T y
            x = x.transpose(1, 2).reshape(n * PAGE, self.hkv, d)
            given = (self.open_k if name == "k" else self.open_v)[seq, :m].double()
            parts.append(torch.cat([given[:sinks], x, given[sinks:]]))
        return parts

    def expected(self, seq):
        """float64 output [query_tokens, hq, d] and lse [query_tokens, hq] of a sequence."""
        k, v = (x.repeat_interleave(self.hq // self.hkv, 1) for x in self.dense(seq))
        scores = torch.einsum("qhd,thd->qht", self.q[seq].double(), k) / math.sqrt(self.d)
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        last = torch.arange(k.shape[0] - self.query_tokens, k.shape[0], device="cuda")[:, None]
        at = torch.arange(k.shape[0], device="cuda")[None]
        seen = at <= last
        if self.window:
            seen &= at > last - self.window
        scores = scores.masked_fill(~seen[:, None], float("-inf"))
        return torch.einsum("qht,thd->qhd", scores.softmax(-1), v), scores.logsumexp(-1)

    def errors(self):
        """Largest relative error of an output and absolute one of an lse, of all sequences."""
        self.out.fill_(float("nan"))
        self.run()
        worst = 0.0, 0.0
        for seq in range(self.seqs):
            if int(self.num_pages[seq] + self.open_tokens[seq]) == 0:
                if self.out[seq].any() or not self.lse[seq].isinf().all():
                    return math.inf, math.inf
                continue
            want, want_lse = self.expected(seq)
            error = (self.out[seq].double() - want).norm(dim=-1) / want.norm(dim=-1)
            lse = (self.lse[seq].double() - want_lse).abs()
            worst = max(worst[0], error.max().item()), max(worst[1], lse.max().item())
            if error.isnan().any() or lse.isnan().any():
                return math.nan, math.nan
        return worst


def check(library, quick):
    """Against float64: every (bits, head_dim, GQA ratio) and length around page edges,
    then query tokens, windows, caps, dtypes, mixed bits and splits of the work."""
    heads = ((32, 8), (16, 2)) if quick else ((32, 8), (8, 8), (16, 2), (24, 2), (6, 3))
    lengths = ((1, 64, 0), (3, 640, 37), (2, 0, 5))
    if not quick:
        lengths += ((1, 8192, 64), (5, 1984, 79), (70, 192, 20))
    cases = [dict(bits=bits, d=d, hq=hq, hkv=hkv, seqs=seqs, tokens=tokens, open_tokens=m)
             for bits in (2, 3, 4) for d in (64, 128, 256) for hq, hkv in heads
             for seqs, tokens, m in lengths]
    base = dict(bits=4, d=128, hq=32, hkv=8, seqs=3, tokens=640, open_tokens=90)
    for bits in (2, 3, 4):
        for d in (64, 128, 256):
            for more in (
                    dict(query_tokens=2), dict(query_tokens=8, sinks=64), dict(query_tokens=5, hq=8),
                    dict(window=1), dict(window=100), dict(window=300, query_tokens=3, sinks=16),
                    dict(window=70, query_tokens=8, open_tokens=12), dict(softcap=3.0),
                    dict(softcap=20.0, window=200, query_tokens=4, dtype=torch.float16),
                    dict(dtype=torch.float16), dict(means=False), dict(varied=True, seqs=40),
                    dict(varied=True, seqs=40, hq=16, hkv=2, query_tokens=2),
                    dict(open_tokens=0), dict(seqs=1, open_tokens=200, tokens=64),
                    dict(blocks=1, seqs=9, varied=True), dict(blocks=7, warps=3),
                    dict(blocks=300, tokens=1920)):
                if not quick or bits == 4 or d == 128:
                    cases.append({**base, "bits": bits, "d": d, **more})
    cases += [{**base, "bits": (4, 2)}, {**base, "bits": (2, 3), "query_tokens": 2}]
    worst, wrong = (0.0, 0.0), 0
    for case in cases:
        error, lse = Cache(library, seed=case["tokens"], **case).errors()
        bound = 8e-3 if case.get("window", 0) == 1 else 6e-3
        if not (error < bound and lse < 2e-3):
            wrong += 1
            print(f"wrong: {case}: {error} {lse}", flush=True)
        worst = max(worst[0], error), max(worst[1], lse)
    if wrong:
        raise SystemExit(f"{wrong} of {len(cases)} cases are wrong")
    print(f"checked {len(cases)} cases: worst relative error {worst[0]:.2e} (16-bit output), lse "
          f"{worst[1]:.2e}")


def check_determinism(library):
    """The same bits, however often it runs."""
    for bits in (2, 4):
        cache = Cache(library, 5, 8192, bits, varied=True)
        results = []
        for _ in range(20):
            cache.run()
            results.append((cache.out.clone(), cache.lse.clone()))
        for out, lse in results[1:]:
            if not torch.equal(out, results[0][0]) or not torch.equal(lse, results[0][1]):
                raise SystemExit("results differ between runs")
    print("20 runs gave the same bits")


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
    library.quash_bench_decode_workspace.argtypes = [ctypes.c_uint32] * 4
    arguments.out.mkdir(parents=True, exist_ok=True)
    check(library, arguments.quick)
    check_determinism(library)
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
