"""Sublinear indexes behind the interface of bench/peers/contenders.py.

Each has a ladder of settings, widest last, that spans recall from about 0.8 to
0.995; curves.py measures all of them.
"""

import contextlib
import importlib.metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import contenders  # pylint: disable=wrong-import-position
import numpy as np

NPROBES = (8, 16, 32, 64, 96, 128, 192, 256)
TRAINING_ROWS_PER_LIST = 64


class QuashDB(contenders.QuashDB):
    """Its defaults: 4-bit codes, float16 rerank tier, lists once there are
    partition_rows rows. settings: the recall asked for, from which it chooses the
    lists to probe. build() ends when the index is whole and its recall measured."""

    settings = (0.8, 0.9, 0.92, 0.94, 0.95, 0.97, 0.98, 0.99, 0.992, 0.995)

    def __init__(self, dim, metric, threads):
        super().__init__(dim, metric, threads, bits=4, rerank="f16")
        self.name = "QuashDB"
        self._recall = 0

    def build(self, vectors, path):
        with self._quashdb.open(path, durability="normal", threads=self.threads) as db:
            collection = db.create_collection("bench", dim=self.dim, metric=self.metric,
                                              bits=self._bits, rerank=self._rerank)
            for first in range(0, len(vectors), 10000):
                part = vectors[first:first + 10000]
                collection.add(ids=np.arange(first, first + len(part)), vectors=part)
            db.compact()

    def use(self, setting):
        self._recall = setting

    def search(self, queries, k):
        return self._collection.search(queries, k, threads=self.threads, recall=self._recall)[0]

    def describe(self, setting):
        return f"recall {setting:g}"


class FaissIvf(contenders.Contender):
    """4 sqrt(n) lists of codes, and the vectors in float16 for the k * k_factor
    best. settings: nprobe."""

    family = "lists"
    settings = NPROBES

    def __init__(self, dim, metric, threads, name, codes, k_factor):
        super().__init__(dim, metric, threads)
        import faiss  # pylint: disable=import-outside-toplevel
        self._faiss, self._codes, self._k_factor = faiss, codes, k_factor
        self._index = self._parameters = None
        self.name = f"FAISS {name} + float16 refine"

    def build(self, vectors, path):
        faiss = self._faiss
        faiss.omp_set_num_threads(self.threads)
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        lists = round(4 * len(vectors) ** 0.5)
        index = faiss.index_factory(self.dim, f"IVF{lists},{self._codes},Refine(SQfp16)", metric)
        clustering = faiss.extract_index_ivf(index).cp
        clustering.min_points_per_centroid = 1  # below, only a warning
        clustering.max_points_per_centroid = TRAINING_ROWS_PER_LIST
        index.train(vectors[:lists * TRAINING_ROWS_PER_LIST])
        index.add(vectors)
        faiss.write_index(index, path)

    def load(self, path):
        self._faiss.omp_set_num_threads(self.threads)
        self._index = self._faiss.read_index(path)

    def use(self, setting):
        self._parameters = self._faiss.IndexRefineSearchParameters(
            k_factor=self._k_factor,
            base_index_params=self._faiss.IVFSearchParameters(nprobe=setting))

    def search(self, queries, k):
        return self._index.search(queries, k, params=self._parameters)[1]

    def close(self):
        self._index = None

    def describe(self, setting):
        return f"nprobe {setting}"


class HnswLib(contenders.HnswLib):
    settings = (10, 20, 40, 60, 80, 120, 160, 240, 480)


class USearch(contenders.USearch):
    settings = (10, 20, 32, 64, 96, 128, 192, 256)


# Key -> maker(dim, metric, threads), in the order of the tables.
INDEXES = {
    "quashdb": QuashDB,
    "hnswlib": HnswLib,
    "usearch": lambda *a: USearch(*a, dtype="f32"),
    "faiss-ivf-rabitq": lambda *a: FaissIvf(*a, name="IVF-RaBitQ FastScan 1-bit",
                                            codes="RaBitQfs", k_factor=10),
    "faiss-ivf-pq": lambda *a: FaissIvf(*a, name="IVFPQFastScan 2-bit",
                                        codes="PQ{}x4fs".format(a[0] // 2), k_factor=4),
}


def versions():
    found = {}
    for package in ("faiss-cpu", "hnswlib", "usearch", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
