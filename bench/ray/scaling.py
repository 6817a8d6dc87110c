"""Sharded search on one machine: what merging costs, and what a second shard gains.

    python3 bench/ray/scaling.py --rows 200000 --out /tmp/ray

The same vectors in one database in this process, and in 1, 2 and 4 shards of a local
Ray cluster, one thread a shard. Medians of rounds that go through all of them in turn.
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


def vectors(rows, dim, seed):
    """A mixture of 1,000 Gaussians, unit norm."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((1000, dim), dtype=np.float32)
    made = centres[rng.integers(1000, size=rows)]
    made += rng.standard_normal((rows, dim), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    base = vectors(arguments.rows, arguments.dim, 0)
    queries = vectors(256, arguments.dim, 1)
    ids = np.arange(arguments.rows)
    ray.init(logging_level="error", log_to_driver=False)
    contenders = {}
    with tempfile.TemporaryDirectory() as folder:
        database = quashdb.open(pathlib.Path(folder) / "one", durability="normal")
        contenders["one database"] = database.create_collection("c", arguments.dim)
        for shards in arguments.shards:
            root = pathlib.Path(folder) / f"sharded-{shards}"
            name = f"{shards} shard{'s' if shards > 1 else ''}"
            contenders[name] = quashdb.ray.create(root, "c", arguments.dim, shards=shards)
        ingest = {}
        for name, one in contenders.items():
            begin = time.perf_counter()
            for first in range(0, arguments.rows, 20_000):
                one.upsert(ids[first:first + 20_000], base[first:first + 20_000])
            ingest[name] = arguments.rows / (time.perf_counter() - begin)
        times = {(name, batch): [] for name in contenders for batch in (1, 16, 256)}
        for _ in range(arguments.rounds):
            for (name, batch), taken in times.items():
                begin = time.perf_counter()
                contenders[name].search(queries[:batch], 10, threads=1)
                taken.append(time.perf_counter() - begin)
        lines = ["| | ingest rows/s | 1 query ms | 16 queries ms | 256 queries ms |",
                 "|---|---|---|---|---|"]
        for name in contenders:
            medians = [statistics.median(times[name, batch]) * 1000 for batch in (1, 16, 256)]
            lines.append(f"| {name} | {ingest[name]:,.0f} | "
                         + " | ".join(f"{one:,.2f}" for one in medians) + " |")
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
