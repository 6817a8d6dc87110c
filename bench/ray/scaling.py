"""Sharded search on one machine: what merging costs, and what a second shard gains.

    python3 bench/ray/scaling.py --rows 200000 --out /tmp/ray

The same vectors in one database in this process, and in 1, 2 and 4 shards of a local
Ray cluster, one thread a shard, all with lists. Rounds go through all contenders in
turn; ratios are taken within a round. Times are medians.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np
import ray

import quashdb
import quashdb.ray

BATCHES = (1, 16, 256)


def vectors(rows, dim, seed):
    """A mixture of 1,000 Gaussians, unit norm."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((1000, dim), dtype=np.float32)
    made = centres[rng.integers(1000, size=rows)]
    made += rng.standard_normal((rows, dim), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def timed(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def ingest(contenders, ids, base):
    """{name: rows/s}"""
    rates = {}
    for name, one in contenders.items():
        begin = time.perf_counter()
        for first in range(0, len(ids), 20_000):
            one.upsert(ids[first : first + 20_000], base[first : first + 20_000])
        rates[name] = len(ids) / (time.perf_counter() - begin)
    return rates


def measure(contenders, queries, rounds):
    """{(name, batch): seconds of each round}, (name, 0) for a call that does nothing."""
    times = {(name, batch): [] for name in contenders for batch in (0, *BATCHES)}
    for _ in range(rounds):
        for name, one in contenders.items():
            if isinstance(one, quashdb.ray.ShardedCollection):
                times[name, 0].append(timed(one.processes))
            for batch in BATCHES:
                times[name, batch].append(
                    timed(lambda one=one, batch=batch: one.search(queries[:batch], 10, threads=1))
                )
    return times


def table(names, rates, times):
    lines = [
        "| | ingest rows/s | empty call ms | " + " | ".join(f"{b} queries ms | ×" for b in BATCHES)
        + " |",
        "|---|---|---|" + "---|---|" * len(BATCHES),
    ]  # fmt: skip
    first = names[0]
    for name in names:
        empty = f"{statistics.median(times[name, 0]) * 1000:.2f}" if times[name, 0] else ""
        cells = [name, f"{rates[name]:,.0f}", empty]
        for batch in BATCHES:
            ratios = [a / b for a, b in zip(times[name, batch], times[first, batch], strict=True)]
            cells.append(f"{statistics.median(times[name, batch]) * 1000:,.2f}")
            cells.append(f"{statistics.median(ratios):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--partition-rows", type=int, default=20_000,
                        help="rows of a shard from which on it has lists")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    base = vectors(arguments.rows, arguments.dim, 0)
    queries = vectors(max(BATCHES), arguments.dim, 1)
    ids = np.arange(arguments.rows)
    quashdb.ray.connect("local", logging_level="error", log_to_driver=False)
    contenders = {}
    with tempfile.TemporaryDirectory() as folder:
        database = quashdb.open(pathlib.Path(folder) / "one", durability="normal")
        contenders["one database"] = database.create_collection(
            "c", arguments.dim, partition_rows=arguments.partition_rows
        )
        for shards in arguments.shards:
            root = pathlib.Path(folder) / f"sharded-{shards}"
            name = f"{shards} shard{'s' if shards > 1 else ''}"
            contenders[name] = quashdb.ray.create(
                root, "c", arguments.dim, shards=shards, partition_rows=arguments.partition_rows
            )
        rates = ingest(contenders, ids, base)
        for one in (database, *list(contenders.values())[1:]):
            one.compact()  # makes the lists
        exact, _ = contenders["one database"].search(queries, 10, exact=True)
        for name, one in contenders.items():  # also a warm-up
            same = np.array_equal(one.search(queries, 10, exact=True)[0], exact)
            found, _ = one.search(queries, 10)
            recall = np.mean([
                len(np.intersect1d(a, b)) / 10 for a, b in zip(found, exact, strict=True)
            ])  # fmt: skip
            print(f"{name}: recall@10 {recall:.4f}, exact search {'' if same else 'NOT '}the same")
        lines = table(list(contenders), rates, measure(contenders, queries, arguments.rounds))
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "scaling.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))
        for name, one in contenders.items():
            if name != "one database":
                one.close()
        database.close()
    ray.shutdown()


if __name__ == "__main__":
    main()
