"""An in-memory index with the interface of QuashKV's QuashIndex."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quashdb import _convert, _ffi
from quashdb._types import Metric, Rerank
from quashdb.database import open as open_database
from quashdb.errors import InvalidError


class QuashIndex:
    """Vectors in memory under the indices 0, 1, ..., found by their codes.

        index = QuashIndex(384, bits=4)
        index.add(vectors)
        scores, indices = index.search(queries, k=10)

    dim: coordinates per vector.
    bits: per coordinate, 1 to 4.
    seed: of the rotation.
    device: None or "cpu".
    pack_storage: accepted for compatibility; codes are always packed.
    metric: "ip" (default), "cosine" or "l2"; scores are higher for better rows.
    rerank: "none" (default): codes only; "f16" keeps half-precision vectors
        besides and finds nearly what brute force finds.
    """

    def __init__(
        self,
        dim: int,
        bits: int = 3,
        seed: int = 42,
        device: object = None,
        pack_storage: bool = True,
        *,
        metric: Metric = "ip",
        rerank: Rerank = "none",
    ) -> None:
        if device is not None and str(device) != "cpu":
            raise InvalidError(f"device is {str(device)!r}, expected None or 'cpu'")
        del pack_storage
        self.dim = _convert.uint(dim, "dim", _ffi.DIM_MAX, 1)
        self.bits = _convert.uint(bits, "bits", 4, 1)
        self.seed = seed
        self._database = open_database(":memory:")
        self._options: dict[str, Any] = {"metric": metric, "rerank": rerank}
        self.reset()

    def reset(self) -> None:
        """Removes every vector."""
        if "index" in self._database:
            self._database.drop_collection("index")
        self._collection = self._database.create_collection(
            "index", self.dim, bits=self.bits, seed=self.seed, **self._options
        )
        self._next = 0

    def add(self, vectors: npt.ArrayLike) -> None:
        """Appends [n, dim] or [dim] floats or integers, finite."""
        matrix = _convert.matrix(vectors, self.dim, "vectors")
        self._collection.add(np.arange(self._next, self._next + len(matrix)), matrix)
        self._next += len(matrix)

    def search(
        self, queries: npt.ArrayLike, k: int = 10
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """(scores, indices), each [nq, min(k, len)], or [min(k, len)] for one
        query [dim]; scores descend. InvalidError, a ValueError, if empty."""
        k = _convert.uint(k, "k", (1 << 63) - 1, 1)
        if len(self) == 0:
            raise InvalidError("the index is empty: add() vectors before search()")
        ids, scores = self._collection.search(queries, min(k, len(self), _ffi.K_MAX))
        if np.ndim(queries) == 1:
            return scores[0], ids[0]
        return scores, ids

    @staticmethod
    def brute_force(
        queries: npt.ArrayLike, database: npt.ArrayLike, k: int = 10
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """(scores, indices), each [nq, min(k, n)]: the largest inner products of
        float32 [nq, dim] with [n, dim], ties by index."""
        base = np.atleast_2d(np.asarray(database, np.float32))
        products = np.atleast_2d(np.asarray(queries, np.float32)) @ base.T
        indices = np.argsort(-products, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(products, indices, axis=1), indices.astype(np.int64)

    def recall_at_k(self, queries: npt.ArrayLike, database: npt.ArrayLike, k: int = 10) -> float:
        """Mean share of brute_force(queries, database, k) that search() finds;
        database: the vectors that were added, in order."""
        _, exact = self.brute_force(queries, database, k)
        _, found = self.search(np.atleast_2d(np.asarray(queries)), k)
        shares = [
            len(np.intersect1d(of_query, expected)) / len(expected)
            for of_query, expected in zip(found, exact, strict=True)
        ]
        return float(np.mean(shares))

    @property
    def memory_bytes(self) -> int:
        """Bytes of the codes, scales and rerank tier."""
        stats = self._collection.stats()
        return stats.code_bytes + stats.rerank_bytes

    @property
    def compression_ratio(self) -> float:
        """Bytes as float32 over memory_bytes; 0 if empty."""
        used = self.memory_bytes
        return len(self) * self.dim * 4 / used if used else 0.0

    def __len__(self) -> int:
        return self._next

    def __bool__(self) -> bool:
        return True
