"""Data sets, exact answers and recall, for the benchmarks in Python."""

import os
import pathlib
import platform
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "datasets"))
import loaders  # pylint: disable=wrong-import-position

SAMPLE = ROOT / "datasets" / "sample"

# Scores this close to the k-th best count as tied with it: float32 rounding.
TIE = 1e-6


class Dataset:
    """Base vectors and queries, with the exact answers once asked for.

    base     [n, dim] float32
    queries  [nq, dim] float32
    metric   "cosine" (both scaled to unit length, so that inner product is
             the same order) or "l2"
    """

    def __init__(self, name, base, queries, metric):
        if base.shape[1] != queries.shape[1]:
            raise ValueError(f"{name}: vectors have dimension {base.shape[1]}, "
                             f"queries {queries.shape[1]}")
        self.name, self.metric = name, metric
        self.base, self.queries = (np.ascontiguousarray(x, np.float32) for x in (base, queries))
        if metric == "cosine":
            self.base, self.queries = normalized(self.base), normalized(self.queries)

    @property
    def dim(self):
        return self.base.shape[1]

    def scores(self, queries):
        """[nq, n] exact scores, higher is better: cosine or -|q - x|^2."""
        products = queries @ self.base.T
        if self.metric == "cosine":
            return products
        return 2 * products - (self.base ** 2).sum(1) - (queries ** 2).sum(1)[:, None]

    def exact(self, k, block=256):
        """The k-th best exact score per query, [nq], and the best k rows [nq, k]."""
        ids = np.empty((len(self.queries), k), np.int64)
        kth = np.empty(len(self.queries), np.float32)
        for first in range(0, len(self.queries), block):
            scores = self.scores(self.queries[first:first + block])
            top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
            top = np.take_along_axis(top, order, 1)
            ids[first:first + block] = top
            kth[first:first + block] = np.take_along_axis(scores, top[:, -1:], 1)[:, 0]
        return kth, ids

    def recall(self, found, kth, queries=None):
        """Mean share of the exact top k that is in `found`.

        found: [nq, k] row numbers, -1 where missing. A row counts if its exact
        score is at least the k-th best, so ties count for either row.
        kth: of exact(k). queries: rows of self.queries that were asked; None: all.
        """
        asked = self.queries if queries is None else self.queries[queries]
        threshold = kth if queries is None else kth[queries]
        good = 0
        for query, rows, lowest in zip(asked, found, threshold):
            rows = np.unique(rows[(rows >= 0) & (rows < len(self.base))])
            vectors = self.base[rows]
            scores = (vectors @ query if self.metric == "cosine"
                      else -((vectors - query) ** 2).sum(1))
            tie = TIE if self.metric == "cosine" else TIE * max(1.0, abs(float(lowest)))
            good += int((scores >= lowest - tie).sum())
        return good / found.size


def normalized(vectors):
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)


def load(path, rows=None):
    """A folder with base.npy (or vectors.npy) and queries.npy, or an HDF5 file of
    ann-benchmarks (train, test, attribute distance: angular or euclidean). rows:
    of the vectors, only the first so many."""
    path = pathlib.Path(path)
    if path.is_dir():
        names = [name for name in ("base.npy", "vectors.npy") if (path / name).exists()]
        if not names:
            raise ValueError(f"{path}: neither base.npy nor vectors.npy")
        return Dataset(path.name, loaders.read_npy(path / names[0])[:rows],
                       loaders.read_npy(path / "queries.npy"), "cosine")
    import h5py  # pylint: disable=import-outside-toplevel
    with h5py.File(path, "r") as file:
        distance = file.attrs.get("distance", "angular")
    metrics = {"angular": "cosine", "euclidean": "l2"}
    if distance not in metrics:
        raise ValueError(f"{path}: distance {distance!r}, expected one of {sorted(metrics)}")
    return Dataset(path.stem, loaders.read_hdf5(path, "train")[:rows],
                   loaders.read_hdf5(path, "test"), metrics[distance])


def machine():
    """What ran the benchmark: {"cpu", "cores", "system", "python"}."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    cpu = line.split(":", 1)[1].strip()
                    break
    except OSError:
        pass
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(),
            "python": platform.python_version()}


def pin(threads):
    """Keeps this process on its first `threads` cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def import_quashdb():
    """The installed package; or, with QUASHDB_LIBRARY naming a built
    libquashdb.so, the package of this checkout over that library."""
    if "QUASHDB_LIBRARY" in os.environ:
        sys.path.insert(0, str(ROOT / "bindings" / "python"))
    try:
        import quashdb  # pylint: disable=import-outside-toplevel
    except ImportError as error:
        raise SystemExit(f"Error: {error}. Install the quashdb package, or name the built "
                         "libquashdb.so in QUASHDB_LIBRARY.") from error
    return quashdb
