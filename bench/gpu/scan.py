"""Scans on a GPU next to a bf16 matrix product with torch's top-k.

    python3 bench/gpu/scan.py --library build/bench/gpu/libquash_gpu_scan_bench.so \\
        --rows 1000000 10000000 --dim 384 --out /tmp/scan

A scan is what a search does on the device: limits from a sample, planes of every row
against the queries, and for what may matter final scores from a float16 tier; from
eight queries on the device orders them too. Stages: plane 1, planes 1 and 2, or whole
4-bit codes. Rows are unit vectors around random centres (--centres, --spread), so
neighbours stand out as those of embeddings do; with one centre and no spread to speak
of everything competes, and --width rows are scored. Times are those of the device,
medians of rounds that alternate with torch; caches hold no part of 10 million rows. A
copy of the stage's bytes is timed as the bound. Recall is against scores of the tier.
"""

import argparse
import ctypes
import json
import pathlib
import statistics

import torch

STAGES = {"plane1": 1, "planes12": 2, "codes": 4}  # planes that are read


class Bench(ctypes.Structure):
    """The struct of scan_library.cu."""

    _fields_ = (
        ("rows", ctypes.c_uint64), ("dim", ctypes.c_uint32), ("stage", ctypes.c_uint32),
        ("nq", ctypes.c_uint32), ("k", ctypes.c_uint32), ("width", ctypes.c_uint32),
        ("rounds", ctypes.c_uint32), ("ranks", ctypes.c_uint32), ("planes", ctypes.c_void_p * 4),
        ("scales", ctypes.c_void_p * 3), ("tier", ctypes.c_void_p), ("queries", ctypes.c_void_p),
        ("microseconds", ctypes.c_void_p), ("scan_microseconds", ctypes.c_void_p),
        ("kept", ctypes.c_void_p), ("result_rows", ctypes.c_void_p),
    )


class Rows:
    """Codes and tier of so many rows, in device memory."""

    def __init__(self, library, rows, dim, centres, spread):
        words = (dim + 127) // 128 * 4
        self.library, self.count, self.dim = library, rows, dim
        self.planes = [torch.zeros(rows * words, dtype=torch.int32, device="cuda")
                       for _ in range(4)]
        self.scales = [torch.empty(rows, dtype=torch.float32, device="cuda") for _ in range(3)]
        self.tier = torch.empty(rows, dim, dtype=torch.float16, device="cuda")
        self.fill(rows, centres, spread, 1 << 30, self.planes, self.scales, self.tier)

    def fill(self, rows, centres, spread, seed, planes, scales, tier):
        pointers = lambda tensors: (ctypes.c_void_p * len(tensors))(
            *(one.data_ptr() for one in tensors))
        error = self.library.quash_gpu_scan_fill(
            ctypes.c_uint64(rows), self.dim, centres, ctypes.c_float(spread),
            ctypes.c_uint64(seed), pointers(planes), pointers(scales),
            ctypes.c_void_p(tier.data_ptr()))
        if error:
            raise SystemExit(f"Error: {error.decode()}")

    def queries(self, nq, centres, spread, seed):
        """[nq, dim] float32 around the same centres."""
        rows = (nq + 31) // 32 * 32
        words = (self.dim + 127) // 128 * 4
        planes = [torch.zeros(4096 * words, dtype=torch.int32, device="cuda") for _ in range(4)]
        scales = [torch.empty(rows, dtype=torch.float32, device="cuda") for _ in range(3)]
        tier = torch.empty(rows, self.dim, dtype=torch.float16, device="cuda")
        self.fill(rows, centres, spread, seed, planes, scales, tier)
        return torch.nn.functional.normalize(tier[:nq].float(), dim=1).contiguous()

    def scan(self, queries, stage, k, width, rounds):
        nq = len(queries)
        host = queries.cpu().contiguous()
        times = [(ctypes.c_float * rounds)() for _ in range(2)]
        kept = (ctypes.c_uint32 * nq)()
        found = torch.empty(nq, k, dtype=torch.int32)
        bench = Bench(
            rows=self.count, dim=self.dim, stage=list(STAGES).index(stage), nq=nq, k=k,
            width=width, rounds=rounds, ranks=nq >= 8,
            planes=(ctypes.c_void_p * 4)(*(one.data_ptr() for one in self.planes)),
            scales=(ctypes.c_void_p * 3)(*(one.data_ptr() for one in self.scales)),
            tier=self.tier.data_ptr(), queries=host.data_ptr(),
            microseconds=ctypes.addressof(times[0]),
            scan_microseconds=ctypes.addressof(times[1]), kept=ctypes.addressof(kept),
            result_rows=found.data_ptr())
        error = self.library.quash_gpu_scan_bench(ctypes.byref(bench))
        if error:
            raise SystemExit(f"Error: {error.decode()}")
        whole, listed = (statistics.median(list_[1:] or list_) for list_ in times)
        return whole, listed, statistics.mean(kept), found


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
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timed(lambda: target.copy_(source), 10)


def torch_search(base, queries, k):
    """In slices of queries, so that the scores fit."""
    step = max(1, min(len(queries), (1 << 33) // len(base)))
    return torch.cat([(queries[first:first + step] @ base.T).topk(k).indices
                      for first in range(0, len(queries), step)])


def exact(tier, queries, k):
    """Of float32 products, in slices of rows."""
    best = None
    step = 1 << 20
    for first in range(0, len(tier), step):
        scores, rows = (queries @ tier[first:first + step].float().T).topk(k)
        rows += first
        if best is not None:
            scores, rows = torch.cat([best[0], scores], 1), torch.cat([best[1], rows], 1)
            scores, order = scores.topk(k)
            rows = rows.gather(1, order)
        best = scores, rows
    return best[1].cpu()


def recall(found, expected):
    k = expected.shape[1]
    return statistics.mean(
        len(set(a) & set(b)) / k for a, b in zip(found.tolist(), expected.tolist(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000000, 10000000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64, 256, 1024])
    parser.add_argument("--code-batches", type=int, nargs="+", default=[1, 2, 4, 8, 16],
                        help="batches of the stages planes12 and codes")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--centres", type=int, default=0, help="0: one for 500 rows")
    parser.add_argument("--spread", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    library = ctypes.CDLL(arguments.library)
    library.quash_gpu_scan_fill.restype = library.quash_gpu_scan_bench.restype = ctypes.c_char_p
    bandwidth = copy_bandwidth()
    k = arguments.k
    results = []
    for count in arguments.rows:
        count = count // 4096 * 4096
        centres = arguments.centres or count // 500
        rows = Rows(library, count, arguments.dim, centres, arguments.spread)
        base = rows.tier.bfloat16()
        for batch in arguments.batches:
            queries = rows.queries(batch, centres, arguments.spread, 1 << 35)
            wide = queries.bfloat16()
            theirs = timed(lambda: torch_search(base, wide, k),
                           3 if batch > 32 else arguments.rounds)
            checked = min(batch, 16)
            expected = exact(rows.tier, queries[:checked], k)
            for stage, planes in STAGES.items():
                if stage != "plane1" and batch not in arguments.code_batches:
                    continue
                passes = -(-batch // 128)
                ours, scanned, kept, found = rows.scan(queries[:128], stage, k, arguments.width,
                                                       arguments.rounds)
                stage_bytes = count * (planes * ((arguments.dim + 127) // 128 * 16) + 4)
                results.append({
                    "rows": count, "batch": batch, "stage": stage, "scan_us": ours * passes,
                    "listed_us": scanned * passes, "torch_us": theirs,
                    "ratio": theirs / (ours * passes), "scored": kept,
                    "recall": recall(found[:checked], expected),
                    "share_of_copy": stage_bytes / bandwidth / ours})
                print(json.dumps(results[-1]), flush=True)
        del base, rows
        torch.cuda.empty_cache()
    lines = ["| rows | batch | stage | torch bf16 µs | scan µs | × | of copy speed | scored "
             "| recall |", "|---|---|---|---|---|---|---|---|---|"]
    for one in results:
        lines.append(f"| {one['rows']:,} | {one['batch']} | {one['stage']} "
                     f"| {one['torch_us']:,.0f} | {one['scan_us']:,.0f} | {one['ratio']:.1f} "
                     f"| {one['share_of_copy']:.0%} | {one['scored']:,.0f} "
                     f"| {one['recall']:.4f} |")
    about = f"{torch.cuda.get_device_name()}, copies {bandwidth / 1e6:.2f} TB/s, k {k}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "scan.json").write_text(json.dumps({"about": about, "results": results}))
    (arguments.out / "scan.md").write_text("\n".join(lines) + f"\n\n{about}\n")
    print("\n".join(lines), about, sep="\n\n")


if __name__ == "__main__":
    main()
