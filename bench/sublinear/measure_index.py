"""The measurements of curves.py, each in a process of its own.

    measure_index.py build  JSON    builds and saves one index: time, disk
    measure_index.py load   JSON    loads it and asks every query once: memory
    measure_index.py search JSON    loads all, alternates them over their settings

The argument is one JSON object; the answer is one on the last line of standard
output. Times are taken twice, as wall clock and as processor time of the process:
pinned to one core of an idle machine they are the same; where others run too,
processor time leaves out the time that they had the core.
"""

import contextlib
import json
import sys
import tempfile
import time

import indexes  # puts bench/peers on the path
import measure as peers
import numpy as np
from contenders import bench_data, stored_bytes

WARM_UP_ROWS = 2000


def load_dataset(job):
    dataset = bench_data.load(job["data"], job["rows"])
    dataset.queries = dataset.queries[:job["queries"] or None]
    return dataset


class Timer:
    """Seconds that a with block took: wall, cpu."""

    def __enter__(self):
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.wall = time.perf_counter() - self._start[0]
        self.cpu = time.process_time() - self._start[1]


def make(job, dataset, key):
    return indexes.INDEXES[key](dataset.dim, dataset.metric, job["threads"])


def build(job):
    dataset = load_dataset(job)
    index = make(job, dataset, job["key"])
    with tempfile.TemporaryDirectory() as folder:  # first use: libraries load, pools start
        index.build(dataset.base[:WARM_UP_ROWS], f"{folder}/warm-up")
    with Timer() as timer:
        index.build(dataset.base, job["path"])
    return {"name": index.name, "wall_seconds": timer.wall, "cpu_seconds": timer.cpu,
            "rows": len(dataset.base), "disk_bytes": stored_bytes(job["path"])}


def load(job):
    dataset = load_dataset(job)
    queries = peers.rows_of(dataset.queries.copy())
    small = np.array(dataset.base[:WARM_UP_ROWS])
    index = make(job, dataset, job["key"])
    dataset = None  # only the index is to count
    memory, _ = peers.load_and_ask(index, job["path"], small, queries, job["k"])
    return {"memory_bytes": memory}


def measure_setting(index, setting, queries, k):
    """Microseconds per query: asked one at a time, and all in one call."""
    index.use(setting)
    for query in queries[:3]:
        index.search(query, k)
    with Timer() as single:
        for query in queries:
            index.search(query, k)
    together = np.concatenate(queries)
    with Timer() as batch:
        index.search(together, k)
    return {f"{how}_{clock}_us": getattr(timer, clock) / len(queries) * 1e6
            for how, timer in (("single", single), ("batch", batch)) for clock in ("wall", "cpu")}


def search(job):
    dataset = load_dataset(job)
    k, count = job["k"], job["queries_per_round"]
    kth, _ = dataset.exact(k, block=32)
    queries = peers.rows_of(dataset.queries)
    running, results = {}, {}
    for key, path in job["paths"].items():
        index = make(job, dataset, key)
        index.load(path)
        points = []
        for setting in index.settings:
            index.use(setting)
            found = index.search(dataset.queries, k)
            points.append({"setting": index.describe(setting),
                           "recall": dataset.recall(found, kth), "rounds": []})
            print(f"{index.name}: {points[-1]['setting']}: recall {points[-1]['recall']:.4f}",
                  file=sys.stderr)
        running[key] = index
        results[key] = {"name": index.name, "points": points}
    keys = list(running)
    for number in range(job["rounds"]):
        # Another first index each round, other queries each round.
        asked = [queries[(number * count + i) % len(queries)] for i in range(count)]
        for key in keys[number % len(keys):] + keys[:number % len(keys)]:
            for setting, point in zip(running[key].settings, results[key]["points"]):
                point["rounds"].append(measure_setting(running[key], setting, asked, k))
        print(f"round {number + 1} of {job['rounds']}", file=sys.stderr)
    for index in running.values():
        index.close()
    return results


def main():
    job = json.loads(sys.argv[2])
    bench_data.pin(job["threads"])
    with contextlib.redirect_stdout(sys.stderr):
        result = {"build": build, "load": load, "search": search}[sys.argv[1]](job)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
