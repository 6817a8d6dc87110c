"""The measurements of compare.py, each in a process of its own.

    measure.py build  JSON    builds and saves one contender: rate, disk
    measure.py load   JSON    loads it and asks every query once: memory, time
    measure.py search JSON    loads all, alternates them: recall, times

The argument is one JSON object; the answer is one on the last line of standard
output. compare.py sets the environment that libraries read thread counts from.
"""

import ctypes
import gc
import json
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

import contenders
from contenders import bench_data

WARM_UP_QUERIES = 20
TUNING_QUERIES = 50
EMPTY_ROWS = 64  # in an "empty" index: enough to train on, nothing to scan
EMPTY_CALLS = 300
BATCH_SECONDS = 2.0  # longest batch of a slow contender


def resident_bytes():
    """VmRSS after giving freed memory back to the kernel."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def load_dataset(job):
    dataset = bench_data.load(job["data"])
    if job["rows"]:
        dataset.base = dataset.base[:job["rows"]]
    return dataset


def make(key, dataset, threads):
    return contenders.CONTENDERS[key](dataset.dim, dataset.metric, threads)


def rows_of(queries):
    """[1, dim] views, so that a timed call slices nothing."""
    return [queries[row:row + 1] for row in range(len(queries))]


def time_each(contender, queries, k):
    """Microseconds of each single-query call."""
    times = []
    clock = time.perf_counter_ns
    for query in queries:
        start = clock()
        contender.search(query, k)
        times.append((clock() - start) / 1e3)
    return times


def build(job):
    dataset = load_dataset(job)
    contender = make(job["key"], dataset, job["threads"])
    with tempfile.TemporaryDirectory() as folder:  # first use: libraries load, pools start
        contender.build(dataset.base[:1000], f"{folder}/warm-up")
    start = time.perf_counter()
    contender.build(dataset.base, job["path"])
    seconds = time.perf_counter() - start
    return {"name": contender.name, "family": contender.family, "build_seconds": seconds,
            "build_rows_per_second": len(dataset.base) / seconds,
            "disk_bytes_per_row": contenders.stored_bytes(job["path"]) / len(dataset.base)}


def load_and_ask(contender, path, small, queries, k):
    """(growth of resident memory in bytes, seconds of loading): of loading what was
    built at `path` and asking every query at the widest setting, after which what is
    read on demand has been read. The rows `small` are built, loaded and asked before,
    so that libraries are loaded and pools started."""
    with tempfile.TemporaryDirectory() as folder:
        contender.build(small, f"{folder}/warm-up")
        contender.load(f"{folder}/warm-up")
        contender.use(contender.settings[-1])
        time_each(contender, queries[:WARM_UP_QUERIES], k)
        contender.close()
    before = resident_bytes()
    start = time.perf_counter()
    contender.load(path)
    seconds = time.perf_counter() - start
    contender.use(contender.settings[-1])
    time_each(contender, queries, k)
    return resident_bytes() - before, seconds


def load(job):
    dataset = load_dataset(job)
    rows = len(dataset.base)
    queries = rows_of(dataset.queries.copy())
    small = np.array(dataset.base[:1000])
    contender = make(job["key"], dataset, job["threads"])
    dataset = None  # only the index is to count
    memory, seconds = load_and_ask(contender, job["path"], small, queries, job["k"])
    return {"load_ms": seconds * 1e3, "memory_bytes_per_row": memory / rows}


def empty_call_us(key, dataset, threads, k):
    """Median of a single-query call that has next to nothing to search: the
    Python call, argument checks and preparing the query."""
    contender = make(key, dataset, threads)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/empty"
        contender.build(dataset.base[:EMPTY_ROWS], path)
        contender.load(path)
        contender.use(contender.settings[0])
        queries = rows_of(dataset.queries)
        queries = [queries[call % len(queries)] for call in range(EMPTY_CALLS)]
        times = time_each(contender, queries, k)
        contender.close()
    return statistics.median(times[EMPTY_CALLS // 10:])


def tune(contender, dataset, kth, k, target):
    """The setting with the fastest single queries among those that reach the
    target recall, or among those of highest recall; and what each gave."""
    tried = []
    queries = rows_of(dataset.queries[:TUNING_QUERIES])
    for setting in (*contender.settings, *contender.curve):
        contender.use(setting)
        recall = dataset.recall(contender.search(dataset.queries, k), kth)
        time_each(contender, queries[:3], k)
        median_us = statistics.median(time_each(contender, queries, k))
        tried.append({"setting": setting, "description": contender.describe(setting),
                      "recall": recall, "one_query_us": median_us})
    eligible = tried[:len(contender.settings)]
    enough = min(target, max(entry["recall"] for entry in eligible))
    reaching = [entry for entry in eligible if entry["recall"] >= enough]
    return min(reaching, key=lambda entry: entry["one_query_us"]), tried


def search(job):
    dataset = load_dataset(job)
    threads, k = job["threads"], job["k"]
    kth, _ = dataset.exact(k)
    running, results = {}, {}
    for key, path in job["paths"].items():
        contender = make(key, dataset, threads)
        contender.load(path)
        chosen, tried = tune(contender, dataset, kth, k, job["target_recall"])
        estimate = chosen["one_query_us"] * 1e-6
        batch = int(min(len(dataset.queries), max(1, BATCH_SECONDS / estimate)))
        running[key] = (contender, chosen["setting"], dataset.queries[:batch])
        results[key] = {"name": contender.name, "family": contender.family,
                        "setting": chosen["description"], "recall": chosen["recall"],
                        "tried": tried, "batch_queries": batch,
                        "empty_call_us": empty_call_us(key, dataset, threads, k),
                        "one_query_us": [], "one_query_p99_us": [], "batch_us": []}
        print(f"{threads} threads: {contender.name}: recall {chosen['recall']:.4f} "
              f"{chosen['description']}", file=sys.stderr)
    queries, keys = rows_of(dataset.queries), list(running)
    for number in range(job["rounds"]):
        # Another first contender each round, other queries each round.
        for key in keys[number % len(keys):] + keys[:number % len(keys)]:
            contender, setting, batch = running[key]
            contender.use(setting)
            first = number * job["queries_per_round"]
            asked = [queries[(first + i) % len(queries)] for i in range(job["queries_per_round"])]
            time_each(contender, asked[:5], k)
            times = time_each(contender, asked, k)
            results[key]["one_query_us"].append(statistics.median(times))
            results[key]["one_query_p99_us"].append(float(np.percentile(times, 99)))
            start = time.perf_counter()
            contender.search(batch, k)
            results[key]["batch_us"].append((time.perf_counter() - start) / len(batch) * 1e6)
        print(f"{threads} threads: round {number + 1} of {job['rounds']}", file=sys.stderr)
    for contender, _, _ in running.values():
        contender.close()
    return results


def main():
    job = json.loads(sys.argv[2])
    bench_data.pin(job["threads"])
    result = {"build": build, "load": load, "search": search}[sys.argv[1]](job)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
