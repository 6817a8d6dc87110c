"""QuashDB in ann-benchmarks (github.com/erikbern/ann-benchmarks).

The harness makes one object per combination of build arguments, calls fit()
once, then set_query_arguments() and query() for each group of query arguments
on one core.
"""

import numpy as np
import quashdb

from ..base.module import BaseANN


class QuashDB(BaseANN):
    """One in-memory collection.

    metric: "angular" or "euclidean".
    method_param: {"bits": 1..4, "rerank": "none", "int8", "f16" or "f32",
        "partition_rows": rows from which it is partitioned, None: never}.
    """

    METRICS = {"angular": "cosine", "euclidean": "l2"}
    BATCH_ROWS = 10000

    def __init__(self, metric, method_param):
        if metric not in self.METRICS:
            raise ValueError(f"metric is {metric!r}, expected one of {sorted(self.METRICS)}")
        self._metric = self.METRICS[metric]
        self._method_param = dict(method_param)
        self._query_arguments = {}
        self._db = self._collection = self._results = None
        self.name = f"QuashDB({self._method_param})"

    def fit(self, X):
        """Adds the rows of X, with their row numbers as ids."""
        vectors = np.ascontiguousarray(X, dtype=np.float32)
        self._db = quashdb.open(":memory:", threads=1)
        self._collection = self._db.create_collection(
            "train", dim=vectors.shape[1], metric=self._metric, **self._method_param)
        for first in range(0, len(vectors), self.BATCH_ROWS):
            part = vectors[first:first + self.BATCH_ROWS]
            self._collection.add(ids=np.arange(first, first + len(part)), vectors=part)
        self._db.compact()

    def set_query_arguments(self, planes, candidates, rerank_candidates, recall=0, nprobe=0):
        """Bit planes scanned (1 or 2), rows kept of that scan and rows scored by
        the rerank tier; of a partitioned collection the recall to aim at, or the
        lists to probe. 0 leaves the choice to QuashDB."""
        self._query_arguments = {"planes": planes, "candidates": candidates,
                                 "rerank_candidates": rerank_candidates, "recall": recall,
                                 "nprobe": nprobe}
        self.name = f"QuashDB({self._method_param}, {self._query_arguments})"

    def query(self, q, n):
        """[n] row numbers, best first."""
        ids, _ = self._collection.search(q[None], n, threads=1, **self._query_arguments)
        return ids[0][ids[0] >= 0]

    def batch_query(self, X, n):
        """All queries in one call, on every core."""
        self._results, _ = self._collection.search(
            np.ascontiguousarray(X, dtype=np.float32), n, threads=0, **self._query_arguments)

    def get_batch_results(self):
        return [ids[ids >= 0] for ids in self._results]

    def get_additional(self):
        if self._collection is None:
            return {}
        stats = self._collection.stats()
        return {"hot_bytes": stats.hot_bytes, "resident_bytes": stats.resident_bytes}

    def done(self):
        if self._db is not None:
            self._db.close()
        self._db = self._collection = None

    def __str__(self):
        return self.name
