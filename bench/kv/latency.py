"""Decode attention over a packed cache next to torch's SDPA on the same cores.

    python3 bench/kv/latency.py --out /tmp/kv

One token of one sequence, --q-heads and --kv-heads of --dim. torch reads float32
and bfloat16 tensors, whichever way is fastest: with enable_gqa, with keys and values
repeated beforehand, and with the heads of a group as query rows of one KV head. Every round times each contender --calls times and
begins with another one; ratios are of medians over rounds. Run it on an idle
machine: it prints the load.
"""

import statistics
import time

import torch

import kv_bench
from quashdb import kv


def packed(arguments, tokens, bits, k, v):
    store = kv.PackedStore(1, arguments.kv_heads, arguments.dim, key_bits=bits, value_bits=bits,
                           dtype=torch.bfloat16, threads=arguments.threads)
    seq = store.create()
    store.append(seq, 0, k.to(torch.bfloat16), v.to(torch.bfloat16))
    assert store.length(seq) == tokens
    q = torch.randn(1, arguments.q_heads, arguments.dim)
    return lambda: store.attend(0, [seq], q), store.stats().total_bytes


WAYS = ("enable_gqa", "repeated", "as rows")


def sdpa(arguments, dtype, way, k, v):
    group = arguments.q_heads // arguments.kv_heads
    k, v = (x.to(dtype).transpose(0, 1)[None].contiguous() for x in (k, v))
    if way == "repeated":
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
    shape = (arguments.kv_heads, group) if way == "as rows" else (arguments.q_heads, 1)
    q = torch.randn(1, *shape, arguments.dim, dtype=dtype)
    return lambda: torch.nn.functional.scaled_dot_product_attention(
        q, k, v, enable_gqa=way == "enable_gqa")


def medians(contenders, arguments):
    times = {name: [] for name in contenders}
    names = list(contenders)
    for function in contenders.values():
        function()
    for round_ in range(arguments.rounds):
        for name in names[round_ % len(names):] + names[:round_ % len(names)]:
            begin = time.perf_counter()
            for _ in range(arguments.calls):
                contenders[name]()
            times[name].append((time.perf_counter() - begin) / arguments.calls * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def main():
    parser = kv_bench.parser(__doc__, model=False)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1024, 4096, 8192, 32768])
    parser.add_argument("--q-heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--bits", type=float, nargs="+", default=[4, 3, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for tokens in arguments.contexts:
        k = torch.randn(tokens, arguments.kv_heads, arguments.dim)
        v = torch.randn(tokens, arguments.kv_heads, arguments.dim)
        contenders = {}
        for bits in arguments.bits:
            contenders[f"{bits:g}-bit"], _ = packed(arguments, tokens, bits, k, v)
        for dtype in (torch.float32, torch.bfloat16):
            for way in WAYS:
                name = f"{str(dtype).removeprefix('torch.')}, {way}"
                contenders[name] = sdpa(arguments, dtype, way, k, v)
        results[tokens] = medians(contenders, arguments)
        kv_bench.progress(f"{tokens} tokens: " + ", ".join(
            f"{name} {value:.0f}" for name, value in results[tokens].items()))
    rows = []
    for tokens, one in results.items():
        best = {dtype: min(one[f"{dtype}, {way}"] for way in WAYS)
                for dtype in ("float32", "bfloat16")}
        row = [f"{tokens:,}", f"{best['float32']:,.0f}", f"{best['bfloat16']:,.0f}"]
        for bits in arguments.bits:
            ours = one[f"{bits:g}-bit"]
            row.append(f"{ours:,.0f} ({best['float32'] / ours:.1f}×, "
                       f"{best['bfloat16'] / ours:.1f}×)")
        rows.append(row)
    about = kv_bench.about(threads=arguments.threads,
                           heads=f"{arguments.q_heads}/{arguments.kv_heads}", dim=arguments.dim)
    kv_bench.save(arguments.out, "latency", {"about": about, "results": results},
                  "# Decode attention, µs (× float32 SDPA, × bfloat16 SDPA)\n\n"
                  + kv_bench.table(["tokens", "SDPA float32", "SDPA bfloat16",
                                    *(f"{bits:g}-bit" for bits in arguments.bits)], rows))
    figure, (axis,) = kv_bench.new_plot()
    for name in next(iter(results.values())):
        axis.plot(list(results), [one[name] for one in results.values()], marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("tokens")
    axis.set_ylabel("µs a token")
    axis.legend(fontsize=7)
    kv_bench.save_plot(arguments.out, "latency", figure)


if __name__ == "__main__":
    main()
