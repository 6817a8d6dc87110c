"""Plane scans on a GPU next to a bf16 matrix product with torch's top-k.

    python3 bench/gpu/scan.py --library build/bench/gpu/libquash_gpu_scan_bench.so \\
        --rows 1000000 10000000 --dim 384 --out /tmp/scan

A scan is what a search does on the device: limits from a sample, one plane of
every row against the queries, candidates narrowed to --width, each scored from a
float16 tier. Codes are random, which is the worst case: nothing stands out, so
all of --width is scored. Times are those of the device, medians of rounds that
alternate with torch; caches hold no part of 10 million rows. A copy of the plane's
bytes is timed as the bound.
"""

import argparse
import ctypes
import json
import pathlib
import statistics

import torch


def timed(function, rounds):
    times = []
    for _ in range(rounds + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000)
    return statistics.median(times[1:])


def copy_bandwidth():
    """Bytes read and written per microsecond by a large copy."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timed(lambda: target.copy_(source), 10)


def scan(library, rows, dim, nq, arguments):
    microseconds = (ctypes.c_float * arguments.rounds)()
    kept = (ctypes.c_uint32 * nq)()
    error = library.quash_gpu_scan_bench(
        ctypes.c_uint64(rows), dim, nq, arguments.k, arguments.width, arguments.rounds,
        microseconds, kept)
    if error:
        raise SystemExit(f"Error: {error.decode()}")
    return statistics.median(microseconds[1:]), statistics.mean(kept)


def torch_search(base, queries, k):
    """In slices of queries, so that the scores fit; times of all."""
    step = max(1, min(len(queries), (1 << 33) // len(base)))
    for first in range(0, len(queries), step):
        (queries[first:first + step] @ base.T).topk(k)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000000, 10000000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 256, 1024])
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    library = ctypes.CDLL(arguments.library)
    library.quash_gpu_scan_bench.restype = ctypes.c_char_p
    bandwidth = copy_bandwidth()
    results = []
    for rows in arguments.rows:
        rows = rows // 4096 * 4096
        base = torch.randn(rows, arguments.dim, device="cuda", dtype=torch.bfloat16)
        plane_bytes = rows * ((arguments.dim + 127) // 128 * 16 + 4)
        for batch in arguments.batches:
            queries = torch.randn(batch, arguments.dim, device="cuda", dtype=torch.bfloat16)
            passes = -(-batch // 128)
            ours, kept = scan(library, rows, arguments.dim, min(batch, 128), arguments)
            theirs = timed(lambda: torch_search(base, queries, arguments.k),
                           3 if batch > 32 else arguments.rounds)
            results.append({"rows": rows, "batch": batch, "scan_us": ours * passes,
                            "torch_us": theirs, "ratio": theirs / (ours * passes), "kept": kept,
                            "plane_share_of_copy": plane_bytes / bandwidth / ours})
            print(json.dumps(results[-1]), flush=True)
        del base
        torch.cuda.empty_cache()
    lines = ["| rows | batch | scan µs | torch bf16 µs | × | plane bytes, of copy speed |",
             "|---|---|---|---|---|---|"]
    for one in results:
        lines.append(f"| {one['rows']:,} | {one['batch']} | {one['scan_us']:,.0f} "
                     f"| {one['torch_us']:,.0f} | {one['ratio']:.1f} "
                     f"| {one['plane_share_of_copy']:.0%} |")
    about = f"{torch.cuda.get_device_name()}, copies {bandwidth / 1e6:.2f} TB/s, k {arguments.k}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "scan.json").write_text(json.dumps({"about": about, "results": results}))
    (arguments.out / "scan.md").write_text("\n".join(lines) + f"\n\n{about}\n")
    print("\n".join(lines), about, sep="\n\n")


if __name__ == "__main__":
    main()
