"""Recall-qps curves of sublinear indexes on one machine, in one run.

    QUASHDB_LIBRARY=build/libquashdb/libquashdb.so python3 bench/sublinear/curves.py \\
        --data DIR --cache CACHE --out OUT

DIR: base.npy and queries.npy, as datasets/mixture.py writes. Writes curves.json,
curves.md and curves.png to OUT. How it measures:

- Each index is built on one core in a process of its own and kept in CACHE with
  its build time, so that a second run only searches. Another process loads it,
  asks every query once at the widest setting and reports the growth of resident
  memory.
- Then one process, pinned to --threads cores, loads all of them. A round takes
  --queries-per-round queries through every setting of every index, one call per
  query and then all in one call, and begins with another index each time.
- A figure at a recall is read off the front of an index's points, the logarithm of
  the time interpolated in recall between the two points around it; ratios are
  taken within a round and the median is reported.
- --clock cpu takes processor time instead of wall clock, for a machine that others
  use too.
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys

import indexes
import contenders  # of bench/peers, which indexes puts on the path
from contenders import bench_data

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
RECALLS = (0.9, 0.95, 0.99)


def run_measurement(what, job):
    """The answer of one measure_index.py process, or None with its error printed."""
    environment = dict(os.environ, **{name: str(job["threads"]) for name in THREAD_VARIABLES})
    script = pathlib.Path(__file__).with_name("measure_index.py")
    run = subprocess.run([sys.executable, script, what, json.dumps(job)], env=environment,
                         stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        print(f"{what} {job.get('key', '')} failed, see above", file=sys.stderr)
        return None
    return json.loads(run.stdout.splitlines()[-1])


def build_all(arguments, job, folder):
    """{key: figures of building and loading}, built or from the cache."""
    built = {}
    for key in arguments.only or indexes.INDEXES:
        one = dict(job, key=key, path=str(folder / key))
        notes = folder / f"{key}.json"
        if notes.exists():
            result = json.loads(notes.read_text(encoding="utf-8"))
        else:
            contenders.remove(one["path"])  # of a run that was stopped
            for threads in arguments.build_threads:  # the last one stays
                contenders.remove(one["path"])
                timing = run_measurement("build", dict(one, threads=threads))
                if timing is None:
                    break
                result = timing if threads == arguments.build_threads[0] else result
                result.setdefault("seconds", {})[str(threads)] = [
                    timing["wall_seconds"], timing["cpu_seconds"]]
                print(f"built {timing['name']}, {threads} threads, in "
                      f"{timing['wall_seconds']:.0f} s ({timing['cpu_seconds']:.0f} s of "
                      "processor time)", file=sys.stderr)
            if timing is None:
                continue
            notes.write_text(json.dumps(result), encoding="utf-8")
        loaded = run_measurement("load", one)
        if loaded:
            built[key] = result | loaded
    return built


def front(points, field, number):
    """[(recall, us)] of the points that no other beats in both, by recall; us of
    round `number`."""
    best = []
    for recall, us in sorted(((p["recall"], p["rounds"][number][field]) for p in points),
                             key=lambda point: (-point[0], point[1])):
        if not best or us < best[-1][1]:
            best.append((recall, us))
    return best[::-1]


def time_at(points, recall, field, number):
    """Microseconds at a recall, or None if no setting reaches it."""
    curve = front(points, field, number)
    above = next((i for i, point in enumerate(curve) if point[0] >= recall), None)
    if above is None:
        return None
    if above == 0:
        return curve[0][1]
    (low, low_us), (high, high_us) = curve[above - 1], curve[above]
    share = (recall - low) / (high - low)
    return math.exp(math.log(low_us) * (1 - share) + math.log(high_us) * share)


def times_at(points, recall, field):
    """Of every round; None if no setting reaches the recall."""
    times = [time_at(points, recall, field, number) for number in range(len(points[0]["rounds"]))]
    return None if None in times else times


def qps_cells(key, searched, recall, field):
    """The median qps, and the median of this index's qps over hnswlib's."""
    times = times_at(searched[key]["points"], recall, field)
    if times is None:
        return ["-", "-"]
    cells = [f"{1e6 / statistics.median(times):,.0f}"]
    if "hnswlib" not in searched:
        return [*cells, "-"]
    other = times_at(searched["hnswlib"]["points"], recall, field)
    if other is None:
        return [*cells, "-"]
    return [*cells, f"{statistics.median(b / a for a, b in zip(times, other)):.2f}"]


def rate(figures, threads, clock):
    seconds = figures["seconds"].get(str(threads))
    if seconds is None:
        return "-"
    # Processor time of two threads is no measure of how long they took.
    return f"{figures['rows'] / seconds[1 if clock == 'cpu' and threads == 1 else 0]:,.0f}"


def tables(result):
    about, built, searched = (result[name] for name in ("about", "built", "searched"))
    clock = about["clock"]
    text = []
    for how, title in (("single", "One query at a time"), ("batch", "All in one call")):
        header = ["qps (× hnswlib) at recall"] + [
            cell for recall in RECALLS for cell in (f"{recall:g}", "×")]
        text += ["", f"{title}:", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        for key, row in searched.items():
            cells = [cell for recall in RECALLS
                     for cell in qps_cells(key, searched, recall, f"{how}_{clock}_us")]
            text.append("| " + " | ".join([row["name"], *cells]) + " |")
    header = ["index", "memory B/vector", "disk B/vector", *(
        f"build vectors/s, {threads} thread{'s' * (threads > 1)}"
        for threads in about["build_threads"])]
    text += ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for figures in built.values():
        cells = [figures["name"], f"{figures['memory_bytes'] / figures['rows']:,.0f}",
                 f"{figures['disk_bytes'] / figures['rows']:,.0f}",
                 *(rate(figures, threads, clock) for threads in about["build_threads"])]
        text.append("| " + " | ".join(cells) + " |")
    header = ["index", "setting", "recall", "one query µs", "in a batch µs"]
    text += ["", "Every setting:", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in searched.values():
        for point in row["points"]:
            times = [statistics.median(r[f"{how}_{clock}_us"] for r in point["rounds"])
                     for how in ("single", "batch")]
            text.append(f"| {row['name']} | {point['setting']} | {point['recall']:.4f} | "
                        f"{times[0]:.0f} | {times[1]:.0f} |")
    return text


def report(result):
    about = result["about"]
    clock = {"wall": "wall clock", "cpu": "processor time"}[about["clock"]]
    return "\n".join([
        f"# Sublinear search on {about['data']}", "",
        f"{about['rows']:,} × {about['dim']}, {about['queries']} queries, k = {about['k']}, "
        f"metric {about['metric']}; {about['machine']['cpu']}, {about['threads']} thread(s), QuashDB "
        f"{about['quashdb']} ({about['isa']}); {about['rounds']} rounds, {clock}; {about['date']}.",
        "", "Versions: " + ", ".join(f"{name} {version}" for name, version in
                                    about["versions"].items() if version) + ".",
        *tables(result)]) + "\n"


def plot(result, path):
    import matplotlib  # pylint: disable=import-outside-toplevel
    matplotlib.use("Agg")
    from matplotlib import pyplot  # pylint: disable=import-outside-toplevel
    about = result["about"]
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for row in result["searched"].values():
        merged = [dict(point, rounds=[{"us": statistics.median(
            r[f"single_{about['clock']}_us"] for r in point["rounds"])}])
            for point in row["points"]]
        curve = front(merged, "us", 0)
        # On a scale of the share missed, so that 0.9, 0.99 and 0.999 are apart.
        axes.plot([max(1 - recall, 5e-4) for recall, _ in curve],
                  [1e6 / us for _, us in curve], marker="o", markersize=4, label=row["name"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    ticks = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
    axes.set_xticks([1 - recall for recall in ticks], [f"{recall:g}" for recall in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"recall@{about['k']}")
    axes.set_ylabel("queries per second, one at a time")
    axes.set_title(f"{about['rows']:,} × {about['dim']}, {about['threads']} thread(s)")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=bench_data.SAMPLE,
                        help="folder with base.npy and queries.npy, or an ann-benchmarks HDF5")
    parser.add_argument("--rows", type=int, default=0, help="use only the first so many vectors")
    parser.add_argument("--queries", type=int, default=0, help="only the first so many queries")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of searches")
    parser.add_argument("--build-threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries-per-round", type=int, default=100)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--only", nargs="+", choices=list(indexes.INDEXES), metavar="KEY",
                        help="indexes: " + ", ".join(indexes.INDEXES))
    parser.add_argument("--cache", type=pathlib.Path, required=True,
                        help="folder of built indexes, by data, rows and key")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    return parser.parse_args()


def main():
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    quashdb = bench_data.import_quashdb()
    dataset = bench_data.load(arguments.data, arguments.rows or None)
    rows = len(dataset.base)
    queries = min(arguments.queries or len(dataset.queries), len(dataset.queries))
    about = {
        "data": dataset.name, "rows": rows, "dim": dataset.dim, "queries": queries,
        "k": arguments.k, "metric": dataset.metric, "threads": arguments.threads,
        "build_threads": arguments.build_threads, "rounds": arguments.rounds,
        "clock": arguments.clock, "date": datetime.date.today().isoformat(),
        "machine": bench_data.machine(), "quashdb": quashdb.__version__, "isa": quashdb.isa(),
        "versions": indexes.versions()}
    dataset = None
    folder = arguments.cache / f"{about['data']}-{rows}x{about['dim']}"
    folder.mkdir(parents=True, exist_ok=True)
    job = {"data": str(arguments.data), "rows": rows, "queries": queries, "k": arguments.k,
           "threads": arguments.threads, "rounds": arguments.rounds,
           "queries_per_round": arguments.queries_per_round}
    built = build_all(arguments, job, folder)
    if not built:
        sys.exit("Error: no index could be built")
    if arguments.build_only:
        return
    searched = run_measurement("search", dict(
        job, paths={key: str(folder / key) for key in built}))
    if searched is None:
        sys.exit("Error: the search run failed, see above")
    result = {"about": about, "built": built, "searched": searched}
    (arguments.out / "curves.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = report(result)
    (arguments.out / "curves.md").write_text(text, encoding="utf-8")
    plot(result, arguments.out / "curves.png")
    print(text)


if __name__ == "__main__":
    main()
