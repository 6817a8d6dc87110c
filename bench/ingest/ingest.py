"""Runs ingest_bench over durabilities, batch sizes, row counts and budgets.

    python3 bench/ingest/ingest.py --build build --data datasets/sample/vectors.npy \\
        --rows 5000 50000 --out /tmp/ingest

Each measurement is a process of its own, on a database made for it in --out and
removed after. Writes ingest.md and ingest.json. Give --out a folder on the disk
that is to be measured: on tmpfs an fsync costs nothing.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import bench_data  # pylint: disable=wrong-import-position

DURABILITIES = ("full", "normal")
BATCHES = (1, 100, 10000)
OPENS = 5


class Runner:
    """Runs the binaries of a build folder."""

    def __init__(self, build, data, work):
        self._ingest = build / "bench" / "ingest" / "ingest_bench"
        self._encode = build / "bench" / "kernels" / "encode_bench"
        self._data, self._work = data, work
        if not self._ingest.exists():
            sys.exit(f"Error: no {self._ingest}; build the target ingest_bench")

    def database(self, name):
        return self._work / name

    def run(self, command, name, *options):
        """The JSON answer of one ingest_bench process."""
        arguments = [self._ingest, command, "--db", self.database(name), "--vectors", self._data]
        run = subprocess.run([*arguments, *map(str, options)], stdout=subprocess.PIPE, text=True,
                             check=False)
        if run.returncode != 0:
            sys.exit(f"Error: {command} of {name} failed, see above")
        return json.loads(run.stdout)

    def remove(self, name):
        shutil.rmtree(self.database(name), ignore_errors=True)

    def encode_rate(self, dim, bits):
        """Rows per second of the encoder alone on one core, or None if
        encode_bench is not built or lacks that dimension."""
        if not self._encode.exists():
            return None
        run = subprocess.run([self._encode, "--benchmark_format=json", "--benchmark_min_time=0.5",
                              f"--benchmark_filter=^BM_Encode/hadamard/{dim}/{bits}$"],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                             check=False)
        found = json.loads(run.stdout)["benchmarks"] if run.stdout.strip() else []
        return found[0]["items_per_second"] if found else None


def measure_writes(runner, arguments):
    results = []
    for durability in DURABILITIES:
        for batch in BATCHES:
            result = runner.run("write", "write", "--durability", durability, "--batch", batch,
                                "--seconds", arguments.seconds, "--threads", arguments.threads)
            runner.remove("write")
            results.append(dict(result, durability=durability))
            print(f"{durability}, batches of {batch}: {result['rows_per_second']:,.0f} rows/s",
                  file=sys.stderr)
    return results


def measure_database(runner, rows, arguments):
    """Loads `rows` rows, then opens and searches them."""
    loaded = runner.run("write", "load", "--durability", "normal", "--rows", rows, "--batch",
                        10000, "--threads", arguments.threads)
    opens = [runner.run("open", "load", "--threads", arguments.threads) for _ in range(OPENS)]
    searches = [runner.run("search", "load", "--budget-mib", budget, "--queries",
                           arguments.queries, "--threads", arguments.threads)
                for budget in [0] + arguments.budgets]
    runner.remove("load")
    print(f"{rows:,} rows: loaded, opened and searched", file=sys.stderr)
    return {"rows": rows, "load": loaded, "open": opens, "search": searches}


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def write_table(writes):
    lines = [row("durability", "rows per batch", "rows added", "rows/s", "rows/s with close",
                 "batch median µs", "batch p99 µs"), "|" + "---|" * 7]
    for result in writes:
        latency = result["batch_latency"]
        lines.append(row(result["durability"], f"{result['batch']:,}", f"{result['rows']:,}",
                         f"{result['rows_per_second']:,.0f}",
                         f"{result['rows_per_second_with_close']:,.0f}",
                         f"{latency['median_us']:,.0f}", f"{latency['p99_us']:,.0f}"))
    return lines


def size_table(databases):
    lines = [row("rows", "load rows/s", "disk B/row", "codes B/row", "rerank B/row", "open ms",
                 "first search ms", "second search ms", "RSS after opening MiB"), "|" + "---|" * 9]
    for database in databases:
        load = database["load"]
        median = lambda field: statistics.median(result[field] for result in database["open"])
        memory = statistics.median(result["memory_after"]["rss_mib"] for result in database["open"])
        lines.append(row(f"{database['rows']:,}", f"{load['rows_per_second']:,.0f}",
                         f"{load['disk_bytes_per_row']:,.0f}",
                         f"{load['code_bytes_per_row']:,.1f}",
                         f"{load['rerank_bytes_per_row']:,.1f}",
                         f"{median('open_with_collection_ms'):,.1f}",
                         f"{median('first_search_ms'):,.2f}", f"{median('second_search_ms'):,.2f}",
                         f"{memory:,.0f}"))
    return lines


def budget_table(databases):
    lines = [row("rows", "stored MiB", "budget MiB", "RSS growth MiB", "peak growth MiB",
                 "by the library MiB", "median µs", "p99 µs"), "|" + "---|" * 8]
    for database in databases:
        for result in database["search"]:
            budget = f"{result['budget_mib']:,}" if result["budget_mib"] else "none"
            lines.append(row(f"{result['rows']:,}", f"{result['stored_mib']:,.0f}", budget,
                             f"{result['rss_growth_mib']:,.0f}",
                             f"{result['peak_growth_mib']:,.0f}",
                             f"{result['resident_mib_by_library']:,.0f}",
                             f"{result['search']['median_us']:,.0f}",
                             f"{result['search']['p99_us']:,.0f}"))
    return lines


def report(result):
    about = result["about"]
    text = [f"# Ingest, {about['data']}", "",
            f"Dimension {about['dim']}, 4-bit codes with float16 rerank, {about['threads']} "
            f"thread(s), {about['machine']['cpu']} ({about['isa']}).", ""]
    if result["encode_rows_per_second"]:
        text += [f"Encoder alone, one core: {result['encode_rows_per_second']:,.0f} rows/s.", ""]
    text += ["## Adding rows", "", *write_table(result["writes"]), "",
             "## Loading and opening", "", *size_table(result["databases"]), "",
             "## Searching within a memory budget", "",
             "One query at a time, page cache warm. RSS growth: over the process before it "
             "opened the database.", "", *budget_table(result["databases"])]
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"),
                        help="CMake build folder")
    parser.add_argument("--data", type=pathlib.Path, default=bench_data.SAMPLE / "vectors.npy",
                        help=".npy, .fvecs or .bvecs of base vectors")
    parser.add_argument("--rows", type=int, nargs="+", default=[50000, 1000000],
                        help="database sizes; rows beyond the file's are noisy copies of them")
    parser.add_argument("--budgets", type=int, nargs="*", default=[64, 128], help="MiB")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10, help="longest time of one write run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out) as work:
        runner = Runner(arguments.build, arguments.data, pathlib.Path(work))
        writes = measure_writes(runner, arguments)
        databases = [measure_database(runner, rows, arguments) for rows in arguments.rows]
        result = {
            "about": {"data": str(arguments.data), "dim": writes[0]["dim"],
                      "threads": arguments.threads, "machine": bench_data.machine(),
                      "isa": writes[0]["isa"]},
            "encode_rows_per_second": runner.encode_rate(writes[0]["dim"], 4),
            "writes": writes, "databases": databases}
    (arguments.out / "ingest.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    text = report(result)
    (arguments.out / "ingest.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
