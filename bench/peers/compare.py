"""Compares QuashDB with other libraries on one machine, in one run.

    QUASHDB_LIBRARY=build/libquashdb/libquashdb.so \\
        python3 bench/peers/compare.py --data datasets/sample --out /tmp/peers

Writes compare.md and compare.json into --out. How it measures:

- Every contender is built on one core in a process of its own and saved; another
  process loads it, asks every query once at the widest setting and reports the
  growth of resident memory.
- Then one process per thread count loads all of them and alternates: a round
  times --queries-per-round single queries and one batch of each contender, and
  begins with another contender each time. The process is pinned to that many
  cores, and each library is told the count in its own way.
- A contender with an accuracy knob runs at its fastest setting that reaches
  --target-recall on these queries, or at its best.
- Ratios are medians over rounds of peer time / QuashDB time, against the fastest
  QuashDB row of at least the peer's recall; for peers that keep codes only,
  against QuashDB rows that do so too.
- "empty call" is a single query on 64 rows: what the call itself costs.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import contenders
from contenders import bench_data

THREAD_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                    "MKL_NUM_THREADS")
PACKAGES = ("faiss-cpu", "turbovec", "hnswlib", "usearch", "tqdb", "zvec", "numpy")


def run_measurement(what, job):
    """The answer of one measure.py process, or None with its error printed."""
    environment = dict(os.environ, **{name: str(job["threads"]) for name in THREAD_VARIABLES})
    script = pathlib.Path(__file__).with_name("measure.py")
    run = subprocess.run([sys.executable, script, what, json.dumps(job)], env=environment,
                         stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        print(f"{what} {job.get('key', '')} failed, see above", file=sys.stderr)
        return None
    return json.loads(run.stdout.splitlines()[-1])


def measure(arguments, work):
    """{"built": per contender, "searched": per thread count}."""
    job = {"data": str(arguments.data), "rows": arguments.rows, "k": arguments.k}
    built, paths = {}, {}
    for key in arguments.only or contenders.CONTENDERS:
        path = str(work / key)
        one = dict(job, key=key, path=path, threads=1)
        result = run_measurement("build", one)
        loaded = run_measurement("load", one) if result else None
        if loaded is None:
            continue
        built[key] = result | loaded
        paths[key] = path
        print(f"built {result['name']} in {result['build_seconds']:.1f} s", file=sys.stderr)
    if not built:
        sys.exit("Error: no contender could be built")
    searched = {}
    for threads in arguments.threads:
        result = run_measurement("search", dict(
            job, paths=paths, threads=threads, rounds=arguments.rounds,
            queries_per_round=arguments.queries_per_round,
            target_recall=arguments.target_recall))
        if result is None:
            sys.exit("Error: the search run failed, see above")
        searched[threads] = result
    return {"built": built, "searched": searched}


def is_quashdb(key):
    return key.startswith("quashdb")


def reference_key(key, rows, field):
    """The fastest QuashDB row that a peer is to be compared with, or None."""
    peer = rows[key]
    fitting = [other for other, row in rows.items()
               if is_quashdb(other) and row["recall"] >= peer["recall"]
               and (peer["family"] != "codes" or row["family"] == "codes")]
    return min(fitting, key=lambda other: statistics.median(rows[other][field]), default=None)


def ratio(key, rows, field):
    """Median over rounds of peer / QuashDB, as text."""
    if is_quashdb(key):
        return ""
    reference = reference_key(key, rows, field)
    if reference is None:
        return "-"
    ratios = [mine / theirs for mine, theirs in zip(rows[key][field], rows[reference][field])]
    return f"{statistics.median(ratios):.2f}"


def table(built, rows):
    header = ["system", "setting", "recall", "one query µs", "p99 µs", "in a batch µs",
              "× one", "× batch", "empty call µs", "memory B/vector", "disk B/vector",
              "build vectors/s", "open ms"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for key, row in rows.items():
        sizes = built[key]
        cells = [row["name"], row["setting"], f"{row['recall']:.4f}",
                 f"{statistics.median(row['one_query_us']):.0f}",
                 f"{statistics.median(row['one_query_p99_us']):.0f}",
                 f"{statistics.median(row['batch_us']):.0f}",
                 ratio(key, rows, "one_query_us"), ratio(key, rows, "batch_us"),
                 f"{row['empty_call_us']:.0f}", f"{sizes['memory_bytes_per_row']:,.0f}",
                 f"{sizes['disk_bytes_per_row']:,.0f}", f"{sizes['build_rows_per_second']:,.0f}",
                 f"{sizes['load_ms']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def versions():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def report(result):
    about = result["about"]
    text = [f"# Peers on {about['data']}", "",
            f"{about['rows']:,} × {about['dim']}, {about['queries']} queries, k = {about['k']}, "
            f"metric {about['metric']}; {about['machine']['cpu']}, QuashDB {about['quashdb']} "
            f"({about['isa']}); {about['rounds']} rounds; {about['date']}.", "",
            "Peers: " + ", ".join(f"{name} {version}" for name, version in
                                  about["versions"].items() if version) + ".", "",
            "× columns: time over that of the fastest QuashDB row of at least the same recall "
            "(for codes-only peers, a codes-only row); above 1, QuashDB is faster; -, no QuashDB "
            f"row has that recall. Rows with a knob run at the fastest setting that reaches recall "
            f"{about['target_recall']}, or at their best."]
    for threads, rows in result["searched"].items():
        text += ["", f"## {threads} thread" + ("s" if int(threads) > 1 else ""), "",
                 table(result["built"], rows)]
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=bench_data.SAMPLE,
                        help="folder with base.npy and queries.npy, or an ann-benchmarks HDF5")
    parser.add_argument("--rows", type=int, default=0, help="use only the first so many vectors")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--queries-per-round", type=int, default=100)
    parser.add_argument("--target-recall", type=float, default=0.99)
    parser.add_argument("--only", nargs="+", choices=list(contenders.CONTENDERS), metavar="KEY",
                        help="contenders: " + ", ".join(contenders.CONTENDERS))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset = bench_data.load(arguments.data)
    quashdb = bench_data.import_quashdb()
    with tempfile.TemporaryDirectory(dir=arguments.out) as work:
        result = measure(arguments, pathlib.Path(work))
    result["about"] = {
        "data": dataset.name, "rows": arguments.rows or len(dataset.base), "dim": dataset.dim,
        "queries": len(dataset.queries), "k": arguments.k, "metric": dataset.metric,
        "rounds": arguments.rounds, "target_recall": arguments.target_recall,
        "date": datetime.date.today().isoformat(), "machine": bench_data.machine(),
        "quashdb": quashdb.__version__, "isa": quashdb.isa(), "versions": versions()}
    (arguments.out / "compare.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = report(result)
    (arguments.out / "compare.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
