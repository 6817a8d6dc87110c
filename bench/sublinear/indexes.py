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

NPROBES = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
TRAINING_ROWS_PER_LIST = 64


class QuashDB(contenders.QuashDB):
    """Its defaults: 4-bit codes, float16 rerank tier, lists once there are
    partition_rows rows. settings: nprobe, and None for its own choice of lists
    for its default recall target. build() ends when the index is whole."""

    settings = (*NPROBES, 768, 1024, None)

    def __init__(self, dim, metric, threads):
        super().__init__(dim, metric, threads, bits=4, rerank="f16")
        self.name = "QuashDB"
        self._widths = {}

    def build(self, vectors, path):
        with self._quashdb.open(path, durability="normal", threads=self.threads) as db:
            collection = db.create_collection("bench", dim=self.dim, metric=self.metric,
                                              bits=self._bits, rerank=self._rerank)
            for first in range(0, len(vectors), 10000):
                part = vectors[first:first + 10000]
                collection.add(ids=np.arange(first, first + len(part)), vectors=part)
            db.compact()

    def use(self, setting):
        self._widths = {} if setting is None else {"nprobe": setting}

    def search(self, queries, k):
        return self._collection.search(queries, k, threads=self.threads, **self._widths)[0]

    def describe(self, setting):
        return "default" if setting is None else f"nprobe {setting}"


class FaissIvf(contenders.Contender):
    """Lists of codes, and the vectors in float16 for the k * k_factor best. lists:
    4 sqrt(n). settings: (nprobe, k_factor)."""

    family = "lists"

    def __init__(self, dim, metric, threads, name, codes, k_factors):
        super().__init__(dim, metric, threads)
        import faiss  # pylint: disable=import-outside-toplevel
        self._faiss, self._codes, self._index, self._parameters = faiss, codes, None, None
        self.name = f"FAISS {name} + float16 refine"
        self.settings = tuple((nprobe, k_factor) for k_factor in k_factors for nprobe in NPROBES)

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
        nprobe, k_factor = setting
        self._parameters = self._faiss.IndexRefineSearchParameters(
            k_factor=k_factor,
            base_index_params=self._faiss.IVFSearchParameters(nprobe=nprobe))

    def search(self, queries, k):
        return self._index.search(queries, k, params=self._parameters)[1]

    def close(self):
        self._index = None

    def describe(self, setting):
        return f"nprobe {setting[0]}, k_factor {setting[1]}"


class HnswLib(contenders.HnswLib):
    settings = (10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480)


class USearch(contenders.USearch):
    settings = (10, 20, 32, 48, 64, 96, 128, 192, 256, 384, 512)


# Key -> maker(dim, metric, threads), in the order of the tables.
INDEXES = {
    "quashdb": QuashDB,
    "hnswlib": HnswLib,
    "usearch": lambda *a: USearch(*a, dtype="f32"),
    "faiss-ivf-rabitq": lambda *a: FaissIvf(*a, name="IVF-RaBitQ FastScan 1-bit",
                                            codes="RaBitQfs", k_factors=(4, 10)),
    "faiss-ivf-pq": lambda *a: FaissIvf(*a, name="IVFPQFastScan 2-bit",
                                        codes="PQ{}x4fs".format(a[0] // 2), k_factors=(2, 4)),
}


def versions():
    found = {}
    for package in ("faiss-cpu", "hnswlib", "usearch", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
