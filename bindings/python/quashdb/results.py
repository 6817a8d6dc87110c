"""What reads and searches return.

Ids, scores and vectors are read-only NumPy views of the library's result,
which lives as long as the last view of it; texts are copied when first asked
for.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple, cast, overload

import numpy as np
import numpy.typing as npt

from quashdb import _ffi
from quashdb._calls import ResultHandle
from quashdb._ffi import lib
from quashdb._types import Cursor, Id, IdArray, Metadata


class _View:
    """Memory of a result, for numpy.asarray, which keeps this and so the result."""

    def __init__(self, handle: ResultHandle, address: int, shape: tuple[int, ...], kind: str):
        self._handle = handle
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),  # read-only
            "shape": shape,
            "typestr": kind,
        }


def _view(
    handle: ResultHandle, address: int | None, shape: tuple[int, ...], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    dtype = np.dtype(dtype)
    if address is None or 0 in shape:
        empty = np.empty(shape, dtype)
        empty.flags.writeable = False
        return empty
    return np.asarray(_View(handle, address, shape, dtype.str))


class _Rows:
    """The rows of a quash_result, and what was included of each."""

    def __init__(self, pointer: int, dim: int, id_type: str, metric: str, include: int) -> None:
        self.handle = ResultHandle(pointer)
        self.include = include
        self.metric = metric
        self._dim = dim
        self._id_type = id_type
        num_queries = lib.quash_result_num_queries(pointer)
        address = lib.quash_result_offsets(pointer)
        self.offsets: list[int] = (ctypes.c_size_t * (num_queries + 1)).from_address(address)[:]
        self.n: int = self.offsets[-1]

    @cached_property
    def ids(self) -> IdArray:
        pointer = self.handle.pointer
        if self._id_type == "int64":
            address = lib.quash_result_int_ids(pointer)
            return _view(self.handle, address, (self.n,), np.int64)
        string_id = lib.quash_result_string_id
        return [string_id(pointer, row).decode() for row in range(self.n)]

    @cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        address = lib.quash_result_scores(self.handle.pointer)
        return _view(self.handle, address, (self.n,), np.float32)

    @cached_property
    def distances(self) -> npt.NDArray[np.float32]:
        # quash_distance()
        distances = np.float32(1) - self.scores if self.metric == "cosine" else -self.scores
        distances.flags.writeable = False
        return distances

    @cached_property
    def vectors(self) -> npt.NDArray[np.float32] | None:
        if not self.include & _ffi.INCLUDE_VECTORS:
            return None
        address = lib.quash_result_vectors(self.handle.pointer)
        return _view(self.handle, address, (self.n, self._dim), np.float32)

    @cached_property
    def metadatas(self) -> list[Metadata] | None:
        if not self.include & _ffi.INCLUDE_METADATA:
            return None
        pointer, text = self.handle.pointer, lib.quash_result_metadata
        return [json.loads(text(pointer, row)) for row in range(self.n)]

    @cached_property
    def documents(self) -> list[str | None] | None:
        if not self.include & _ffi.INCLUDE_DOCUMENTS:
            return None
        pointer, text = self.handle.pointer, lib.quash_result_document
        encoded = [text(pointer, row) for row in range(self.n)]
        return [None if document is None else document.decode() for document in encoded]


class Row(NamedTuple):
    """A stored row. What was not included is None."""

    id: Id
    metadata: Metadata | None
    document: str | None
    vector: npt.NDArray[np.float32] | None


class Hit(NamedTuple):
    """A row found by a search. What was not included is None."""

    id: Id
    score: float
    distance: float
    metadata: Metadata | None
    document: str | None
    vector: npt.NDArray[np.float32] | None


def _id_at(ids: IdArray, row: int) -> Id:
    value = ids[row]
    return value if isinstance(value, str) else int(value)


class GetResult:
    """Rows by get(), peek() or iterate(), in order; len() and iteration by Row."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    @property
    def ids(self) -> IdArray:
        """int64 [n] view, or list of str."""
        return self._rows.ids

    @property
    def vectors(self) -> npt.NDArray[np.float32] | None:
        """float32 [n, dim] view; None unless included."""
        return self._rows.vectors

    @property
    def metadatas(self) -> list[Metadata] | None:
        """One dict per row, of its fields that are not null; None unless included."""
        return self._rows.metadatas

    @property
    def documents(self) -> list[str | None] | None:
        """One text per row, None where the row has none; None unless included."""
        return self._rows.documents

    def __len__(self) -> int:
        return self._rows.n

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        row = range(len(self))[index]
        return self._at(row) if isinstance(row, int) else [self._at(one) for one in row]

    def _at(self, row: int) -> Row:
        rows = self._rows
        return Row(
            _id_at(rows.ids, row),
            None if rows.metadatas is None else rows.metadatas[row],
            None if rows.documents is None else rows.documents[row],
            None if rows.vectors is None else rows.vectors[row],
        )

    def __iter__(self) -> Iterator[Row]:
        return map(self._at, range(len(self)))

    def to_dict(self) -> dict[str, Any]:
        """{"ids", "metadatas", "documents", "vectors"}: lists, or None."""
        vectors = self.vectors
        return {
            "ids": list(self.ids) if isinstance(self.ids, list) else self.ids.tolist(),
            "metadatas": self.metadatas,
            "documents": self.documents,
            "vectors": None if vectors is None else vectors.tolist(),
        }

    def __repr__(self) -> str:
        return f"<GetResult: {len(self)} rows>"


class Hits:
    """The rows found for one query, best first; len() and iteration by Hit."""

    def __init__(self, rows: _Rows, query: int) -> None:
        self._rows = rows
        self._slice = slice(rows.offsets[query], rows.offsets[query + 1])

    @property
    def ids(self) -> IdArray:
        """int64 [n] view, or list of str."""
        return self._rows.ids[self._slice]

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32 [n] view, descending: higher is better with every metric."""
        return self._rows.scores[self._slice]

    @property
    def distances(self) -> npt.NDArray[np.float32]:
        """float32 [n], ascending: -score, or 1 - score with cosine."""
        return self._rows.distances[self._slice]

    @property
    def vectors(self) -> npt.NDArray[np.float32] | None:
        """float32 [n, dim] view; None unless included."""
        vectors = self._rows.vectors
        return None if vectors is None else vectors[self._slice]

    @property
    def metadatas(self) -> list[Metadata] | None:
        """One dict per row, of its fields that are not null; None unless included."""
        metadatas = self._rows.metadatas
        return None if metadatas is None else metadatas[self._slice]

    @property
    def documents(self) -> list[str | None] | None:
        """One text per row, None where the row has none; None unless included."""
        documents = self._rows.documents
        return None if documents is None else documents[self._slice]

    @property
    def cursor(self) -> Cursor | None:
        """The last row's place, for `after`; None if nothing was found."""
        if len(self) == 0:
            return None
        last = self._slice.stop - 1
        return Cursor(float(self._rows.scores[last]), _id_at(self._rows.ids, last))

    def __len__(self) -> int:
        return len(range(self._slice.start, self._slice.stop))

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> list[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | list[Hit]:
        row = range(self._slice.start, self._slice.stop)[index]
        return self._at(row) if isinstance(row, int) else [self._at(one) for one in row]

    def _at(self, row: int) -> Hit:
        rows = self._rows
        return Hit(
            _id_at(rows.ids, row),
            float(rows.scores[row]),
            float(rows.distances[row]),
            None if rows.metadatas is None else rows.metadatas[row],
            None if rows.documents is None else rows.documents[row],
            None if rows.vectors is None else rows.vectors[row],
        )

    def __iter__(self) -> Iterator[Hit]:
        return map(self._at, range(self._slice.start, self._slice.stop))

    def __repr__(self) -> str:
        return f"<Hits: {len(self)} rows>"


class QueryResult:
    """Rows found for each query: len() is the number of queries, result[i] the
    Hits of query i, and each property a list with one entry per query."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    @property
    def ids(self) -> list[npt.NDArray[np.int64]] | list[list[str]]:
        """Per query int64 [n] views, or lists of str."""
        return cast("list[npt.NDArray[np.int64]] | list[list[str]]", [hits.ids for hits in self])

    @property
    def scores(self) -> list[npt.NDArray[np.float32]]:
        """Per query float32 [n] views, descending: higher is better."""
        return [hits.scores for hits in self]

    @property
    def distances(self) -> list[npt.NDArray[np.float32]]:
        """Per query float32 [n], ascending: -score, or 1 - score with cosine."""
        return [hits.distances for hits in self]

    @property
    def vectors(self) -> list[npt.NDArray[np.float32]] | None:
        """Per query float32 [n, dim] views; None unless included."""
        vectors = self._rows.vectors
        return None if vectors is None else [vectors[hits._slice] for hits in self]

    @property
    def metadatas(self) -> list[list[Metadata]] | None:
        """Per query a list of dicts; None unless included."""
        metadatas = self._rows.metadatas
        return None if metadatas is None else [metadatas[hits._slice] for hits in self]

    @property
    def documents(self) -> list[list[str | None]] | None:
        """Per query a list of texts; None unless included."""
        documents = self._rows.documents
        return None if documents is None else [documents[hits._slice] for hits in self]

    def __len__(self) -> int:
        return len(self._rows.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Hits: ...

    @overload
    def __getitem__(self, index: slice) -> list[Hits]: ...

    def __getitem__(self, index: int | slice) -> Hits | list[Hits]:
        queries = range(len(self))[index]
        if isinstance(queries, range):
            return [Hits(self._rows, query) for query in queries]
        return Hits(self._rows, queries)

    def __iter__(self) -> Iterator[Hits]:
        return (Hits(self._rows, query) for query in range(len(self)))

    def to_dict(self) -> dict[str, Any]:
        """{"ids", "scores", "distances", "metadatas", "documents", "vectors"}:
        one list per query, or None."""
        vectors = self.vectors
        return {
            "ids": [list(ids) if isinstance(ids, list) else ids.tolist() for ids in self.ids],
            "scores": [scores.tolist() for scores in self.scores],
            "distances": [distances.tolist() for distances in self.distances],
            "metadatas": self.metadatas,
            "documents": self.documents,
            "vectors": None if vectors is None else [of_query.tolist() for of_query in vectors],
        }

    def __repr__(self) -> str:
        return f"<QueryResult: {len(self)} queries, {self._rows.n} rows>"
