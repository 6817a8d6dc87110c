"""Runs module.py as ann-benchmarks would, without its containers.

    python3 bench/ann_benchmarks/run.py sample-384-angular.hdf5 --out /tmp/ann
    python3 bench/ann_benchmarks/run.py sample-384-angular.hdf5 --out /tmp/ann --peers

For every entry of config.yml: makes the class, calls fit() on train, and for
each group of query arguments asks the test queries one at a time, on one core,
--runs times. Writes results.json, results.csv and recall_qps.png into --out.

qps is that of the best run, as in ann-benchmarks. recall counts rows whose exact
distance is at most that of the k-th neighbour; recall_epsilon allows 0.001 more,
as ann-benchmarks does. Peers (FAISS PQFastScan with and without refine, hnswlib)
are optional and use the settings of bench/peers. Needs h5py, PyYAML, matplotlib.
"""

import argparse
import csv
import gc
import importlib.util
import itertools
import json
import os
import pathlib
import sys
import tempfile
import time
import types

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "peers")]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # read when the libraries load

import h5py  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position
import yaml  # pylint: disable=wrong-import-position

import bench_data  # pylint: disable=wrong-import-position
import contenders  # pylint: disable=wrong-import-position

EPSILON = 1e-3  # of ann-benchmarks' recall
ROUNDING = 1e-6
PEERS = ("faiss-pq4", "faiss-pq4-refine", "hnswlib")
RESULT_FIELDS = ("algorithm", "name", "recall", "recall_epsilon", "qps", "p50_us", "p99_us",
                 "build_seconds", "index_kib")


class BaseANN:
    """The interface that the harness gives to its algorithms."""

    name = ""

    def done(self):
        pass

    def get_memory_usage(self):
        """Resident KiB of the process."""
        with open("/proc/self/status", encoding="ascii") as file:
            return next(float(line.split()[1]) for line in file if line.startswith("VmRSS:"))

    def get_additional(self):
        return {}

    def __str__(self):
        return self.name


def load_algorithm(constructor):
    """module.py's class, imported as ann_benchmarks.algorithms.quashdb.module."""
    base = types.ModuleType("ann_benchmarks.algorithms.base.module")
    base.BaseANN = BaseANN
    name = "ann_benchmarks.algorithms.quashdb"
    for package in ("ann_benchmarks", "ann_benchmarks.algorithms",
                    "ann_benchmarks.algorithms.base", name):
        sys.modules.setdefault(package, types.ModuleType(package)).__path__ = []
    sys.modules[base.__name__] = base
    spec = importlib.util.spec_from_file_location(f"{name}.module", FOLDER / "module.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, constructor)


def combinations(arguments):
    """Every choice of one value per place, as the harness expands its lists and
    dictionaries."""
    if isinstance(arguments, dict):
        values = [value if isinstance(value, list) else [value] for value in arguments.values()]
        return [dict(zip(arguments, choice)) for choice in itertools.product(*values)]
    places = [place if isinstance(place, list) else [place] for place in arguments]
    return [list(choice) for choice in itertools.product(*places)]


def definitions(metric, config=FOLDER / "config.yml"):
    """(constructor, arguments, [query arguments]) of each entry of config.yml."""
    with open(config, encoding="utf-8") as file:
        entries = yaml.safe_load(file)["float"]
    for entry in entries.get("any") or entries.get(metric, []):
        if entry["disabled"]:
            continue
        for group in entry["run_groups"].values():
            places = [combinations(place) if isinstance(place, dict) else place
                      for place in group.get("arg_groups", [])] or group["args"]
            for arguments in combinations(places):
                base = [metric if value == "@metric" else value for value in entry["base_args"]]
                yield entry["constructor"], base + arguments, combinations(group["query_args"])


class Peer(BaseANN):
    """A contender of bench/peers, as an algorithm of the harness."""

    def __init__(self, key, dim, metric):
        self._contender = contenders.CONTENDERS[key](dim, metric, 1)
        self._folder = tempfile.TemporaryDirectory()
        self.query_groups = [[setting] for setting in self._contender.settings]

    def fit(self, vectors):
        path = f"{self._folder.name}/index"
        self._contender.build(vectors, path)
        self._contender.load(path)

    def set_query_arguments(self, setting):
        self._contender.use(setting)
        self.name = " ".join(filter(None, [self._contender.name,
                                           self._contender.describe(setting)]))

    def query(self, q, n):
        return self._contender.search(q[None], n)[0]

    def done(self):
        self._contender.close()
        self._folder.cleanup()


def distances(dataset, query, ids):
    """float32 distances of the harness's metric."""
    vectors = dataset.base[ids].astype(np.float64)
    query = query.astype(np.float64)
    if dataset.metric == "cosine":
        return 1 - vectors @ query / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
    return np.linalg.norm(vectors - query, axis=1)


def measure(algorithm, dataset, kth, k, runs):
    """One row of results for the query arguments now set."""
    best = None
    queries = list(dataset.queries)
    for query in queries[:10]:
        algorithm.query(query, k)
    for _ in range(runs):
        times, found = [], []
        for query in queries:
            start = time.perf_counter()
            ids = algorithm.query(query, k)
            times.append(time.perf_counter() - start)
            found.append(ids)
        if best is None or sum(times) < sum(best[0]):
            best = times, found
    times, found = best
    exact, near = 0, 0
    for query, ids, limit in zip(queries, found, kth):
        ids = np.asarray(ids, np.int64)
        if len(set(ids.tolist())) != len(ids):
            raise ValueError(f"{algorithm}: the same row twice in one result")
        away = distances(dataset, query, ids[ids >= 0][:k])
        exact += int((away <= limit + ROUNDING).sum())
        near += int((away <= limit + EPSILON).sum())
    total = len(queries) * k
    return {"name": str(algorithm), "recall": exact / total, "recall_epsilon": near / total,
            "qps": len(queries) / sum(times), "p50_us": float(np.percentile(times, 50) * 1e6),
            "p99_us": float(np.percentile(times, 99) * 1e6)}


def run_algorithm(label, algorithm, query_groups, dataset, kth, arguments):
    """All query groups of one built algorithm."""
    gc.collect()
    before = algorithm.get_memory_usage()
    start = time.perf_counter()
    algorithm.fit(dataset.base)
    built = {"build_seconds": time.perf_counter() - start,
             "index_kib": algorithm.get_memory_usage() - before}
    results = []
    for group in query_groups or [[]]:
        if group:
            algorithm.set_query_arguments(*group)
        row = {"algorithm": label} | measure(algorithm, dataset, kth, arguments.k, arguments.runs)
        results.append(row | built | algorithm.get_additional())
        print(f"{row['recall']:.4f}  {row['qps']:9,.0f} qps  {row['name']}", flush=True)
    algorithm.done()
    return results


def frontier(rows):
    """Rows that no other row beats in both recall and qps, by recall."""
    best, kept = 0.0, []
    for row in sorted(rows, key=lambda row: (-row["recall"], -row["qps"])):
        if row["qps"] > best:
            best = row["qps"]
            kept.append(row)
    return kept[::-1]


def plot(results, title, path):
    import matplotlib  # pylint: disable=import-outside-toplevel
    matplotlib.use("Agg")
    from matplotlib import pyplot  # pylint: disable=import-outside-toplevel
    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    for label in dict.fromkeys(row["algorithm"] for row in results):
        rows = frontier([row for row in results if row["algorithm"] == label])
        axes.plot([row["recall"] for row in rows], [row["qps"] for row in rows], marker="o",
                  markersize=4, linewidth=1.5, label=label)
    axes.set(xlabel="recall@k", ylabel="queries per second, one core", yscale="log", title=title)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def label_of(arguments):
    build = arguments[1]
    tier = "" if build["rerank"] == "none" else f" + {build['rerank']} rerank"
    lists = "" if build["partition_rows"] is None else ", partitions"
    return f"QuashDB {build['bits']}-bit{tier}{lists}"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hdf5", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="FAISS and hnswlib as well")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench_data.import_quashdb()
    bench_data.pin(1)
    with h5py.File(arguments.hdf5, "r") as file:
        metric = file.attrs["distance"]
        if file["distances"].shape[1] < arguments.k:
            sys.exit(f"Error: {arguments.hdf5} has {file['distances'].shape[1]} neighbours per "
                     f"query, k is {arguments.k}")
        kth = file["distances"][:, arguments.k - 1]
    dataset = bench_data.load(arguments.hdf5)

    results, built = [], {}
    for constructor, values, query_groups in definitions(metric):
        key = json.dumps([constructor, values])  # groups of the same build share it
        built.setdefault(key, (constructor, values, []))[2].extend(query_groups)
    for constructor, values, query_groups in built.values():
        algorithm = load_algorithm(constructor)(*values)
        results += run_algorithm(label_of(values), algorithm, query_groups, dataset, kth, arguments)
    for key in PEERS if arguments.peers else ():
        try:
            peer = Peer(key, dataset.dim, dataset.metric)
        except ImportError as error:
            print(f"{key} left out: {error}", file=sys.stderr)
            continue
        label = contenders.CONTENDERS[key](dataset.dim, dataset.metric, 1).name
        results += run_algorithm(label, peer, peer.query_groups, dataset, kth, arguments)

    about = {"data": dataset.name, "train": list(dataset.base.shape), "k": arguments.k,
             "queries": len(dataset.queries), "runs": arguments.runs,
             "machine": bench_data.machine()}
    (arguments.out / "results.json").write_text(
        json.dumps({"about": about, "results": results}, indent=1), encoding="utf-8")
    with open(arguments.out / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, RESULT_FIELDS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(results)
    title = f"{dataset.name}: {len(dataset.base):,} × {dataset.dim}, k = {arguments.k}"
    plot(results, title, arguments.out / "recall_qps.png")


if __name__ == "__main__":
    main()
