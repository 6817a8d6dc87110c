"""QuashDB and its peers behind one interface.

A Contender is built once, saved, loaded again and searched at a setting of its
own accuracy knob. Each imports its library when made, so a missing one only
removes its own rows.
"""

import pathlib
import shutil
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import bench_data  # pylint: disable=wrong-import-position


class Contender:
    """One library in one configuration.

    name      shown in tables
    family    those of one family are compared with each other: "codes" (no
              original vectors kept), "rerank" (kept for the final scores),
              "graph", "exact"
    settings  values of the accuracy knob, cheapest first; their meaning is
              the class's own
    curve     further settings, measured for plots only
    """

    name = ""
    family = ""
    settings = (None,)
    curve = ()

    def __init__(self, dim, metric, threads):
        self.dim, self.metric, self.threads = dim, metric, threads

    def build(self, vectors, path):
        """Indexes vectors [n, dim], ids 0 .. n-1, and saves the index at path."""
        raise NotImplementedError

    def load(self, path):
        """Makes ready to search what build() saved."""
        raise NotImplementedError

    def use(self, setting):
        """Chooses one of `settings` for the searches that follow."""

    def search(self, queries, k):
        """[nq, k] ids, best first, for queries [nq, dim] float32."""
        raise NotImplementedError

    def close(self):
        """Frees what load() made."""

    def describe(self, setting):
        """The setting in words."""
        return "" if setting is None else str(setting)


class QuashDB(Contender):
    """At its default widths, in a directory of its own. Settings of its curve are
    (rows that the plane scan keeps, planes)."""

    def __init__(self, dim, metric, threads, bits, rerank):
        super().__init__(dim, metric, threads)
        self._quashdb = bench_data.import_quashdb()
        self._bits, self._rerank = bits, rerank
        self._db = self._collection = None
        self._widths = {}
        if rerank != "none":
            self.curve = ((10, 1), (20, 1), (35, 1), (60, 1), (100, 1), (200, 1), (20, 2), (40, 2),
                          (80, 2), (160, 2))
        self.family = "codes" if rerank == "none" else "rerank"
        self.name = f"QuashDB {bits}-bit" + ("" if rerank == "none" else f" + {rerank} rerank")

    def build(self, vectors, path):
        with self._quashdb.open(path, durability="normal", threads=self.threads) as db:
            collection = db.create_collection("bench", dim=self.dim, metric=self.metric,
                                              bits=self._bits, rerank=self._rerank)
            for first in range(0, len(vectors), 10000):
                part = vectors[first:first + 10000]
                collection.add(ids=np.arange(first, first + len(part)), vectors=part)

    def load(self, path):
        self._db = self._quashdb.open(path, threads=self.threads)
        self._collection = self._db["bench"]

    def use(self, setting):
        self._widths = {}
        if setting is not None:
            kept, planes = setting
            self._widths = {"candidates": kept, "rerank_candidates": kept, "planes": planes}

    def search(self, queries, k):
        return self._collection.search(queries, k, threads=self.threads, **self._widths)[0]

    def describe(self, setting):
        return "" if setting is None else f"{setting[0]} kept, {setting[1]} planes"

    def close(self):
        self._db.close()
        self._db = self._collection = None


class FaissPqFastScan(Contender):
    """IndexPQFastScan: groups of coordinates to 4-bit codes, trained k-means;
    `bits` per coordinate is 4 / group size. With refine, the vectors are kept in
    float32 and settings are k_factor: k * k_factor rows are scored with them.
    Without, settings are its implementations: its own choice, and the one with a
    reservoir, which is the faster for one query of a small index."""

    def __init__(self, dim, metric, threads, bits, refine):
        super().__init__(dim, metric, threads)
        import faiss  # pylint: disable=import-outside-toplevel
        self._faiss, self._bits, self._refine = faiss, bits, refine
        self._index = self._parameters = None
        self.family = "rerank" if refine else "codes"
        self.name = f"FAISS PQFastScan {bits}-bit" + (" + float32 refine" if refine else "")
        self.settings = (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20) if refine else (0, 13)

    def build(self, vectors, path):
        faiss = self._faiss
        faiss.omp_set_num_threads(self.threads)
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        codes = faiss.IndexPQFastScan(self.dim, self.dim * self._bits // 4, 4, metric)
        codes.pq.cp.min_points_per_centroid = 1  # below, only a warning per group
        index = faiss.IndexRefineFlat(codes) if self._refine else codes
        index.train(vectors)
        index.add(vectors)
        faiss.write_index(index, path)

    def load(self, path):
        self._faiss.omp_set_num_threads(self.threads)
        self._index = self._faiss.read_index(path)

    def use(self, setting):
        if self._refine:
            self._parameters = self._faiss.IndexRefineSearchParameters(k_factor=setting)
        else:
            self._index.implem = setting

    def search(self, queries, k):
        return self._index.search(queries, k, params=self._parameters)[1]

    def close(self):
        self._index = None

    def describe(self, setting):
        if self._refine:
            return f"k_factor {setting:g}"
        return f"implem {setting}" if setting else ""


class FaissFlat(Contender):
    """Exact search of float32 vectors."""

    name, family = "FAISS Flat float32", "exact"

    def __init__(self, dim, metric, threads):
        super().__init__(dim, metric, threads)
        import faiss  # pylint: disable=import-outside-toplevel
        self._faiss, self._index = faiss, None

    def build(self, vectors, path):
        faiss = self._faiss
        index = faiss.IndexFlatL2(self.dim) if self.metric == "l2" else faiss.IndexFlatIP(self.dim)
        index.add(vectors)
        faiss.write_index(index, path)

    def load(self, path):
        self._faiss.omp_set_num_threads(self.threads)
        self._index = self._faiss.read_index(path)

    def search(self, queries, k):
        return self._index.search(queries, k)[1]

    def close(self):
        self._index = None


class TurboVec(Contender):
    """TurboQuantIndex, calibrated on the vectors before adding them, as its
    documentation advises. Threads: RAYON_NUM_THREADS. Inner product only."""

    family = "codes"

    def __init__(self, dim, metric, threads, bits):
        super().__init__(dim, metric, threads)
        import turbovec  # pylint: disable=import-outside-toplevel
        if metric == "l2":
            raise ImportError("turbovec has no L2 metric")
        self._turbovec, self._bits, self._index = turbovec, bits, None
        self.name = f"turbovec {bits}-bit, calibrated"

    def build(self, vectors, path):
        index = self._turbovec.TurboQuantIndex(dim=self.dim, bit_width=self._bits)
        index.calibrate(vectors[:100000])
        index.add(vectors)
        index.write(path, durable=False)

    def load(self, path):
        self._index = self._turbovec.TurboQuantIndex.load(path)
        self._index.prepare()

    def search(self, queries, k):
        return self._index.search(queries, k)[1]

    def close(self):
        self._index = None


class HnswLib(Contender):
    """settings: ef."""

    name, family = "hnswlib M 16", "graph"
    settings = (10, 15, 20, 30, 40, 60, 80, 120, 200, 400)

    def __init__(self, dim, metric, threads):
        super().__init__(dim, metric, threads)
        import hnswlib  # pylint: disable=import-outside-toplevel
        self._hnswlib, self._index = hnswlib, None
        self._space = "l2" if metric == "l2" else "ip"

    def build(self, vectors, path):
        index = self._hnswlib.Index(space=self._space, dim=self.dim)
        index.init_index(max_elements=len(vectors), ef_construction=200, M=16, random_seed=1)
        index.add_items(vectors, np.arange(len(vectors)), num_threads=self.threads)
        index.save_index(path)

    def load(self, path):
        self._index = self._hnswlib.Index(space=self._space, dim=self.dim)
        self._index.load_index(path)
        self._index.set_num_threads(self.threads)

    def use(self, setting):
        self._index.set_ef(setting)

    def search(self, queries, k):
        return self._index.knn_query(queries, k=k)[0].astype(np.int64)

    def close(self):
        self._index = None

    def describe(self, setting):
        return f"ef {setting}"


class USearch(Contender):
    """settings: expansion_search."""

    family = "graph"
    settings = (10, 16, 24, 32, 48, 64, 96, 128, 256, 512)

    def __init__(self, dim, metric, threads, dtype):
        super().__init__(dim, metric, threads)
        import usearch.index  # pylint: disable=import-outside-toplevel
        self._usearch, self._dtype, self._index = usearch.index, dtype, None
        self.name = f"usearch {dtype}"

    def build(self, vectors, path):
        index = self._usearch.Index(ndim=self.dim, dtype=self._dtype,
                                    metric="l2sq" if self.metric == "l2" else "ip")
        index.add(np.arange(len(vectors)), vectors, threads=self.threads)
        index.save(path)

    def load(self, path):
        self._index = self._usearch.Index.restore(path)

    def use(self, setting):
        self._index.expansion_search = setting

    def search(self, queries, k):
        keys = self._index.search(queries, k, threads=self.threads).keys
        return keys.astype(np.int64).reshape(len(queries), -1)

    def close(self):
        self._index = None

    def describe(self, setting):
        return f"expansion {setting}"


class Tqdb(Contender):
    """tqdb, exhaustive; settings with rerank: rerank_factor. Threads:
    RAYON_NUM_THREADS."""

    def __init__(self, dim, metric, threads, rerank):
        super().__init__(dim, metric, threads)
        import tqdb  # pylint: disable=import-outside-toplevel
        self._tqdb, self._rerank, self._db, self._factor = tqdb, rerank, None, None
        self.family = "rerank" if rerank else "codes"
        self.name = "tqdb 4-bit" + (" + rerank" if rerank else "")
        if rerank:
            self.settings = (2, 4, 8, 16)

    def build(self, vectors, path):
        db = self._tqdb.Database.open(path, dimension=self.dim, bits=4, rerank=self._rerank,
                                      metric="l2" if self.metric == "l2" else "ip")
        for first in range(0, len(vectors), 10000):
            part = vectors[first:first + 10000]
            db.insert_batch([str(first + row) for row in range(len(part))], part)
        db.close()

    def load(self, path):
        self._db = self._tqdb.Database.open(
            path, dimension=self.dim, bits=4, rerank=self._rerank,
            metric="l2" if self.metric == "l2" else "ip")

    def use(self, setting):
        self._factor = setting

    def search(self, queries, k):
        if len(queries) == 1:
            found = [self._db.search(queries[0], k, rerank_factor=self._factor)]
        else:
            found = self._db.query(queries, k, rerank_factor=self._factor)
        ids = np.full((len(queries), k), -1, np.int64)
        for row, hits in enumerate(found):
            ids[row, :len(hits)] = [int(hit["id"]) for hit in hits]
        return ids

    def close(self):
        self._db.close()
        self._db = None

    def describe(self, setting):
        return "" if setting is None else f"rerank_factor {setting}"


class Zvec(Contender):
    """A collection with an HNSW index of M 16, of float32 or of int8 codes whose
    results are refined by float32. Without its option enable_rotate: of 0.8.0, that
    finds nothing. One query per call, which is all that it offers. settings: ef."""

    family = "graph"
    settings = (10, 20, 30, 40, 60, 80, 120, 200, 400)

    def __init__(self, dim, metric, threads, quantized):
        super().__init__(dim, metric, threads)
        import zvec  # pylint: disable=import-outside-toplevel
        self._zvec, self._collection, self._parameters = zvec, None, None
        self._quantized = quantized
        self.name = "zvec HNSW " + ("int8 + f32 refine" if quantized else "f32")
        try:  # once in a process
            zvec.init(query_threads=threads, optimize_threads=threads,
                      log_level=zvec.LogLevel.ERROR)
        except RuntimeError:
            pass

    def build(self, vectors, path):
        zvec = self._zvec
        more = {"quantize_type": zvec.QuantizeType.INT8} if self._quantized else {}
        metric = zvec.MetricType.L2 if self.metric == "l2" else zvec.MetricType.IP
        index = zvec.HnswIndexParam(metric_type=metric, m=16, ef_construction=200, **more)
        collection = zvec.create_and_open(path, zvec.CollectionSchema("bench", vectors=(
            zvec.VectorSchema("vector", zvec.DataType.VECTOR_FP32, self.dim, index))))
        for first in range(0, len(vectors), 1000):
            collection.insert([zvec.Doc(id=str(first + row), vectors={"vector": vector})
                               for row, vector in enumerate(vectors[first:first + 1000])])
        collection.optimize(zvec.OptimizeOption(concurrency=self.threads))
        collection.flush()
        collection.close()

    def load(self, path):
        self._collection = self._zvec.open(path)

    def use(self, setting):
        self._parameters = self._zvec.HnswQueryParam(
            ef=setting, is_using_refiner=self._quantized)

    def search(self, queries, k):
        ids = np.full((len(queries), k), -1, np.int64)
        for row, query in enumerate(queries):
            hits = self._collection.query(
                self._zvec.Query("vector", vector=query, param=self._parameters), topk=k,
                output_fields=[])
            ids[row, :len(hits)] = [int(hit.id) for hit in hits]
        return ids

    def close(self):
        self._collection.close()
        self._collection = None

    def describe(self, setting):
        return f"ef {setting}"


# Key -> maker(dim, metric, threads), in the order of the tables.
CONTENDERS = {
    "quashdb-default": lambda *a: QuashDB(*a, bits=4, rerank="f16"),
    "quashdb-4bit": lambda *a: QuashDB(*a, bits=4, rerank="none"),
    "quashdb-3bit": lambda *a: QuashDB(*a, bits=3, rerank="none"),
    "quashdb-2bit": lambda *a: QuashDB(*a, bits=2, rerank="none"),
    "quashdb-1bit": lambda *a: QuashDB(*a, bits=1, rerank="none"),
    "faiss-pq4": lambda *a: FaissPqFastScan(*a, bits=4, refine=False),
    "faiss-pq2": lambda *a: FaissPqFastScan(*a, bits=2, refine=False),
    "faiss-pq4-refine": lambda *a: FaissPqFastScan(*a, bits=4, refine=True),
    "faiss-pq2-refine": lambda *a: FaissPqFastScan(*a, bits=2, refine=True),
    "turbovec-4bit": lambda *a: TurboVec(*a, bits=4),
    "turbovec-2bit": lambda *a: TurboVec(*a, bits=2),
    "hnswlib": HnswLib,
    "usearch-i8": lambda *a: USearch(*a, dtype="i8"),
    "usearch-f32": lambda *a: USearch(*a, dtype="f32"),
    "tqdb": lambda *a: Tqdb(*a, rerank=False),
    "tqdb-rerank": lambda *a: Tqdb(*a, rerank=True),
    "zvec-f32": lambda *a: Zvec(*a, quantized=False),
    "zvec-int8": lambda *a: Zvec(*a, quantized=True),
    "faiss-flat": FaissFlat,
}


def stored_bytes(path):
    """Bytes of the files at path."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def remove(path):
    path = pathlib.Path(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
