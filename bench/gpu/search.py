"""Searches of a collection on a GPU next to a bf16 matrix product with torch's top-k.

    QUASHDB_LIBRARY=build/libquashdb/libquashdb.so python3 bench/gpu/search.py --out /tmp/search

Through the database: queries in host memory, ids and scores back in host memory, for
both. Rows are clustered vectors (--rows of them), or those of an .npy file with queries
of another (--vectors, --queries). Times are wall-clock medians of rounds that alternate.
Recall is against the exact search of the same collection, for as many queries as
--checked says.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bindings" / "python"))
import quashdb  # noqa: E402


def clustered(n, dim, seed, spread=0.6, centres=None):
    rng = np.random.default_rng(seed)
    if centres is None:
        centres = rng.standard_normal((n // 200, dim), dtype=np.float32)
    rows = centres[rng.integers(len(centres), size=n)]
    rows += spread * rng.standard_normal((n, dim), dtype=np.float32)
    return rows, centres


def alternated(contenders, rounds):
    """{name: median µs}"""
    times = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - begin) * 1e6)
    return {name: statistics.median(list_[1:]) for name, list_ in times.items()}


def measure(collection, base, queries, k, planes, rounds):
    def on_torch():
        rows = torch.from_numpy(queries).cuda().bfloat16()
        scores, ids = (rows @ base.T).topk(k)
        return scores.float().cpu().numpy(), ids.cpu().numpy()

    times = alternated({"quash": lambda: collection.search(queries, k, planes=planes),
                        "torch": on_torch}, rounds)
    explained = collection.explain(queries, k, planes=planes)
    return {"rows": len(base), "k": k, "planes": planes, "batch": len(queries),
            "quash_us": times["quash"], "torch_us": times["torch"],
            "ratio": times["torch"] / times["quash"], "device": explained["device"],
            "candidates": explained["candidates"], "scored": explained["rerank_candidates"],
            "note": explained["gpu_note"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--vectors")
    parser.add_argument("--queries")
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--planes", type=int, nargs="+", default=[0])
    parser.add_argument("--devices", nargs="+", default=["0"],
                        help="each ordinals with commas between, or all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--checked", type=int, default=32)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    if arguments.vectors:
        vectors = np.load(arguments.vectors).astype(np.float32)
        queries = np.load(arguments.queries).astype(np.float32)
    else:
        vectors, centres = clustered(arguments.rows, arguments.dim, 1)
        queries, _ = clustered(max(arguments.batches), arguments.dim, 2, centres=centres)
    devices = [one if one == "all" else [int(ordinal) for ordinal in one.split(",")]
               for one in arguments.devices]
    base = torch.nn.functional.normalize(torch.from_numpy(vectors).cuda(), dim=1).bfloat16()
    results = []
    with quashdb.open() as db:
        # Without lists, whose making would take a processor from what is measured.
        collection = db.create_collection("bench", vectors.shape[1], arguments.metric,
                                          partition_rows=None)
        begin = time.perf_counter()
        for first in range(0, len(vectors), 100000):
            part = vectors[first:first + 100000]
            collection.add(np.arange(first, first + len(part)), part)
        print(f"added in {time.perf_counter() - begin:.1f} s", flush=True)
        for k, device in itertools.product(arguments.k, devices):
            collection.attach_gpu(device)
            checked = queries[:arguments.checked]
            expected = collection.search(checked, k, exact=True)[0]
            for planes, batch in itertools.product(arguments.planes, arguments.batches):
                results.append(measure(collection, base, queries[:batch], k, planes,
                                       arguments.rounds))
                found = collection.search(checked, k, planes=planes)[0]
                results[-1]["recall"] = statistics.mean(
                    len(set(a) & set(b)) / k
                    for a, b in zip(found.tolist(), expected.tolist(), strict=True))
                print(json.dumps(results[-1]), flush=True)
    lines = ["| rows | k | planes | batch | torch bf16 µs | search µs | × | candidates | scored "
             "| recall | device |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for one in results:
        lines.append(f"| {one['rows']:,} | {one['k']} | {one['planes'] or 1} | {one['batch']} "
                     f"| {one['torch_us']:,.0f} | {one['quash_us']:,.0f} | {one['ratio']:.1f} "
                     f"| {one['candidates']:,} | {one['scored']:,} | {one['recall']:.4f} "
                     f"| {one['device']} |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "search.json").write_text(json.dumps(results))
    (arguments.out / "search.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
