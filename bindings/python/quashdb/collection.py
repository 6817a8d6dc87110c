"""Collections: writing, reading and searching."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from quashdb import _calls, _convert, _ffi
from quashdb._ffi import lib
from quashdb._filters import filter_text
from quashdb._gpu import Devices, gpu_options
from quashdb._iterate import RowIterator
from quashdb._search import PreparedQuery, call_search, check_k, search_options
from quashdb._types import (
    CollectionStats,
    Cursor,
    FieldType,
    Id,
    IdArray,
    Ids,
    IdType,
    Measurement,
    Metric,
    Progress,
    Rerank,
    Rotation,
    Where,
)
from quashdb._write import Input
from quashdb.errors import InvalidError, check
from quashdb.results import GetResult, QueryResult, _Rows

_SIZE_MAX = (1 << 63) - 1
_ROW_INCLUDE = ("metadatas", "documents")


class Collection:
    """Vectors of one dimension with ids, metadata and documents.

    Made by Database.create_collection() and the like; not called directly. Any
    number of threads may use one. It keeps its database open while it is
    referenced, unless the database is closed: then every call raises
    MisuseError. After the collection is dropped calls raise NotFoundError.

    In every method `where` filters rows: SQL text (quashdb.h, Filters), as
    "lang = 'en' AND year >= 2020", or a dict, as {"lang": "en", "year":
    {"$gte": 2020}}. A filter that cannot be parsed raises FilterSyntaxError or
    FieldTypeError with its offset. `include` names what comes with each row:
    "metadatas", "documents", "vectors". Vectors are those of the rerank tier
    ("f32": as given), or decoded codes without one.
    """

    def __init__(self, database: object, pointer: int, get_progress: Any) -> None:
        self._handle = _calls.CollectionHandle(pointer)
        self._database = database
        self._get_progress = get_progress
        described = self.describe()
        self._name: str = described["name"]
        self._dim: int = described["dim"]
        self._metric: Metric = described["metric"]
        self._id_type: IdType = described["id_type"]
        self._bits: int = described["bits"]
        self._rerank: Rerank = described["rerank"]
        self._rotation: Rotation = described["rotation"]
        self._seed: int = described["seed"]

    @property
    def name(self) -> str:
        return self._name

    @property
    def dim(self) -> int:
        """Coordinates per vector."""
        return self._dim

    @property
    def metric(self) -> Metric:
        """ "ip", "cosine" or "l2"."""
        return self._metric

    @property
    def id_type(self) -> IdType:
        """ "int64" or "string"."""
        return self._id_type

    @property
    def bits(self) -> int:
        """Bits per coordinate of the codes."""
        return self._bits

    @property
    def rerank(self) -> Rerank:
        """ "none", "int8", "f16" or "f32"."""
        return self._rerank

    @property
    def rotation(self) -> Rotation:
        """ "hadamard" or "dense"."""
        return self._rotation

    @property
    def seed(self) -> int:
        """Seed of the rotation."""
        return self._seed

    # ---- Writing

    def add(
        self,
        ids: Ids | Id | None = None,
        vectors: npt.ArrayLike | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | Mapping[str, Any] | None = None,
        documents: Sequence[str | None] | str | None = None,
    ) -> IdArray:
        """Adds rows as one atomic batch and returns their ids.

        ids: [n] integers or strings, by the collection's id type. None, for
            int64: assigned upward from the highest so far.
        vectors: [n, dim] floats or integers, finite; float32 in C order is
            read without a copy. [dim] is one row, whose other arguments may
            then stand alone as well.
        metadatas: [n] dicts of declared fields; None entries have none.
        documents: [n] texts; None entries have none.

        Input beyond 256 MiB of vectors, metadata and documents, or beyond 2^24
        rows, cannot be one batch and is written in several, in order, each of
        them atomic; an error's rows_written then says how many rows are in.

        Raises ExistsError for an id that is stored, InvalidError for NaN, a
        wrong dimension, an id twice or a zero vector with cosine,
        FieldTypeError for a metadata value of the wrong type, NotFoundError
        for an undeclared field, ReadOnlyError, FullError, StorageError.
        """
        if ids is None and self._id_type == "string":
            raise InvalidError(f"ids is missing: collection {self._name!r} has string ids")
        given = Input(self._id_type, self._dim, ids, vectors, metadatas, documents)
        if given.string_ids is not None:
            given.write(lambda rows, part: self._call(lib.quash_add, ctypes.byref(rows), None))
            return [value.decode() for value in given.string_ids]
        out_ids = np.empty(given.n, np.int64)
        given.write(
            lambda rows, part: self._call(
                lib.quash_add, ctypes.byref(rows), _convert.address(out_ids[part])
            )
        )
        return out_ids

    def upsert(
        self,
        ids: Ids | Id,
        vectors: npt.ArrayLike,
        metadatas: Sequence[Mapping[str, Any] | None] | Mapping[str, Any] | None = None,
        documents: Sequence[str | None] | str | None = None,
    ) -> None:
        """Adds rows as add() does, replacing those whose id is stored; a
        replaced row keeps nothing of what it was."""
        if ids is None:
            raise InvalidError("ids is missing: upsert() needs the id of every row")
        given = Input(self._id_type, self._dim, ids, vectors, metadatas, documents)
        given.write(lambda rows, part: self._call(lib.quash_upsert, ctypes.byref(rows)))

    def delete(self, ids: Ids | Id | None = None, where: Where | None = None) -> int:
        """Deletes rows by id, or every row that matches, atomically; returns
        how many. Unknown ids are skipped. One of the two must be given."""
        text = filter_text(where)
        if (ids is None) == (text is None):
            raise InvalidError(
                "delete() takes either ids or where; to delete every row: where='TRUE'"
            )
        deleted = ctypes.c_uint64()
        if ids is None:
            status = self._call(lib.quash_delete_where, text, ctypes.byref(deleted))
        else:
            listed = _convert.IdList(ids, self._id_type)
            status = self._call(
                lib.quash_delete, ctypes.byref(listed.struct), ctypes.byref(deleted)
            )
        check(status)
        return deleted.value

    def add_field(self, name: str, type: FieldType) -> None:
        """Declares a metadata field, null in existing rows. ExistsError or
        InvalidError if the name is taken or not allowed."""
        encoded = _convert.text(name, "field name")
        field = _ffi.Field(encoded, _convert.field_type(type, name))
        check(lib.quash_collection_add_field(self._handle.pointer, ctypes.byref(field)))

    # ---- Reading

    def get(
        self,
        ids: Ids | Id | None = None,
        where: Where | None = None,
        limit: int | None = None,
        include: str | Iterable[str] | None = _ROW_INCLUDE,
    ) -> GetResult:
        """Rows by id, in the order asked, unknown ids left out; or rows that
        match, in insertion order; or all rows. limit: at most so many."""
        if ids is not None and where is not None:
            raise InvalidError("get() takes either ids or where")
        flags = _convert.include_flags(include)
        count = _SIZE_MAX if limit is None else _convert.uint(limit, "limit", _SIZE_MAX)
        if ids is None and count > 0:
            with self._iterate(where, flags, count) as rows:
                for found in rows:
                    return found
        listed = _convert.IdList([] if ids is None else ids, self._id_type)
        listed.struct.n = min(len(listed), count)
        pointer = ctypes.c_void_p()
        check(
            lib.quash_get(
                self._handle.pointer, ctypes.byref(listed.struct), flags, ctypes.byref(pointer)
            )
        )
        return GetResult(self._make_rows(_calls.pointer_of(pointer), flags))

    def peek(self, n: int = 10, include: str | Iterable[str] | None = _ROW_INCLUDE) -> GetResult:
        """The first n rows in insertion order."""
        return self.get(limit=n, include=include)

    def iterate(
        self,
        where: Where | None = None,
        batch_size: int = 1024,
        include: str | Iterable[str] | None = _ROW_INCLUDE,
    ) -> RowIterator:
        """Batches of at most batch_size rows, in insertion order, of one
        snapshot taken now: later writes do not show.

            for batch in collection.iterate("lang = 'en'"):
                for row in batch:
                    print(row.id, row.metadata)
        """
        size = _convert.uint(batch_size, "batch_size", _SIZE_MAX, 1)
        return self._iterate(where, _convert.include_flags(include), size)

    def count(self, where: Where | None = None) -> int:
        """Live rows that match."""
        number = ctypes.c_uint64()
        check(lib.quash_count(self._handle.pointer, filter_text(where), ctypes.byref(number)))
        return number.value

    def contains(self, ids: Ids | Id) -> npt.NDArray[np.bool_]:
        """bool [n]: whether each id is stored."""
        listed = _convert.IdList(ids, self._id_type)
        found = np.zeros(len(listed), np.uint8)
        check(
            lib.quash_contains(
                self._handle.pointer,
                ctypes.byref(listed.struct),
                found.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)),
            )
        )
        return found.view(np.bool_)

    def __len__(self) -> int:
        return self.count()

    def __contains__(self, id: object) -> bool:
        if not _convert.is_one_id(id):
            raise TypeError(f"id is a {type(id).__name__}, expected int or str")
        return bool(self.contains(cast(Id, id))[0])

    def __bool__(self) -> bool:  # an empty collection is not false
        return True

    # ---- Searching

    def query(
        self,
        vectors: npt.ArrayLike,
        k: int = 10,
        where: Where | None = None,
        *,
        min_score: float | None = None,
        include: str | Iterable[str] | None = _ROW_INCLUDE,
        exact: bool = False,
        recall: float = 0,
        nprobe: int = 0,
        candidates: int = 0,
        rerank_candidates: int = 0,
        planes: int = 0,
        threads: int = 0,
        after: Cursor | tuple[float, Id] | None = None,
    ) -> QueryResult:
        """The k best rows for each query, best first, ties by ascending id.
        With a filter min(k, matching rows) come back at every selectivity.

        vectors: [nq, dim] or [dim] floats or integers, finite; float32 in C
            order is read without a copy.
        k: 1 to 16,384.
        min_score: only rows with a score at least this (range search).
        exact: score every matching row from the rerank tier.
        recall: share of the true best k to find, above 0 to 1, where the
            collection is partitioned; 1: look at every row; 0: the target of
            the last measure(apply=True), else 0.99.
        nprobe: lists to probe there, instead of recall; 0: by recall.
        candidates, rerank_candidates, planes: widths of the stages, for
            experiments; 0: chosen from k, or as measure(apply=True) found.
            planes is 1, 2, or 4 to rank all rows by their whole codes.
        threads: 0: as at open.
        after: a result's cursor, or (score, id): the page behind it.

        Scores are higher for better rows: the inner product, the cosine, or
        the negative squared distance.
        Raises InvalidError for NaN, a wrong dimension or k, LimitError.
        """
        options = search_options(
            self._id_type, where, min_score, include, exact, recall, nprobe,
            candidates, rerank_candidates, planes, threads, after,
        )  # fmt: skip
        queries = _convert.float32(_convert.matrix(vectors, self._dim, "vectors"))
        nq, address = len(queries), _convert.address(queries)
        return QueryResult(self._find(lib.quash_search, nq, options, address, nq, check_k(k)))

    def query_by_id(
        self,
        ids: Ids | Id,
        k: int = 10,
        where: Where | None = None,
        *,
        min_score: float | None = None,
        include: str | Iterable[str] | None = _ROW_INCLUDE,
        exact: bool = False,
        recall: float = 0,
        nprobe: int = 0,
        candidates: int = 0,
        rerank_candidates: int = 0,
        planes: int = 0,
        threads: int = 0,
        after: Cursor | tuple[float, Id] | None = None,
    ) -> QueryResult:
        """As query(), by stored rows, one query for each id. The rows
        themselves are among the results. NotFoundError for an unknown id."""
        options = search_options(
            self._id_type, where, min_score, include, exact, recall, nprobe,
            candidates, rerank_candidates, planes, threads, after,
        )  # fmt: skip
        listed = _convert.IdList(ids, self._id_type)
        arguments = ctypes.byref(listed.struct), check_k(k)
        return QueryResult(self._find(lib.quash_search_by_id, len(listed), options, *arguments))

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        where: Where | None = None,
        *,
        min_score: float | None = None,
        exact: bool = False,
        recall: float = 0,
        nprobe: int = 0,
        candidates: int = 0,
        rerank_candidates: int = 0,
        planes: int = 0,
        threads: int = 0,
        out: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = None,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """As query(), into arrays: (ids [nq, k], scores [nq, k] float32), best
        first. Where fewer than k rows are found the rest is id -1 (None with
        string ids, whose array holds objects) and score NaN.

        out: arrays to write into and return, C order, for int64 ids.
        """
        options = search_options(
            self._id_type, where, min_score, None, exact, recall, nprobe,
            candidates, rerank_candidates, planes, threads, None,
        )  # fmt: skip
        matrix = _convert.float32(_convert.matrix(queries, self._dim, "queries"))
        shape = (len(matrix), check_k(k))
        if self._id_type == "string":
            if out is not None:
                raise InvalidError(f"out needs int64 ids: collection {self._name!r} has string ids")
            return self._search_strings(matrix, shape, options)
        if out is None:
            ids, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
        else:
            ids, scores = out
            _check_out("ids", ids, shape, np.int64)
            _check_out("scores", scores, shape, np.float32)
        check(
            self._search(
                lib.quash_search_into,
                len(matrix),
                exact,
                _convert.address(matrix),
                *shape,
                ctypes.byref(options),
                _convert.address(ids),
                _convert.address(scores),
                None,
            )
        )
        return ids, scores

    def prepare(
        self,
        where: Where | None = None,
        *,
        min_score: float | None = None,
        include: str | Iterable[str] | None = _ROW_INCLUDE,
        exact: bool = False,
        recall: float = 0,
        nprobe: int = 0,
        candidates: int = 0,
        rerank_candidates: int = 0,
        planes: int = 0,
        threads: int = 0,
        after: Cursor | tuple[float, Id] | None = None,
    ) -> PreparedQuery:
        """A search with these options of query(), checked once and run often."""
        options = search_options(
            self._id_type, where, min_score, include, exact, recall, nprobe,
            candidates, rerank_candidates, planes, threads, after,
        )  # fmt: skip
        return PreparedQuery(self._handle, options, self._dim, self._make_rows, self._get_progress)

    def explain(
        self,
        vectors: npt.ArrayLike,
        k: int = 10,
        where: Where | None = None,
        *,
        min_score: float | None = None,
        exact: bool = False,
        recall: float = 0,
        nprobe: int = 0,
        candidates: int = 0,
        rerank_candidates: int = 0,
        planes: int = 0,
        threads: int = 0,
    ) -> dict[str, Any]:
        """Runs the query and tells what it did: kernel, mode, selectivity, lists
        probed and their measured recall, rows and bytes of each stage,
        elapsed_us, measured_recall."""
        with self.prepare(
            where, min_score=min_score, include=None, exact=exact, recall=recall, nprobe=nprobe,
            candidates=candidates, rerank_candidates=rerank_candidates, planes=planes,
            threads=threads,
        ) as prepared:  # fmt: skip
            prepared.run(vectors, k)
            return prepared.explain()

    def measure(
        self,
        k: int = 10,
        *,
        sample: int = 200,
        queries: npt.ArrayLike | None = None,
        target_recall: float | None = None,
        apply: bool = False,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Measurement:
        """Compares the search with the exact one on your own vectors.

        queries: [nq, dim]; None: a seeded sample of stored rows, each left out
            of its own results.
        target_recall: finds the smallest widths, and of a partitioned
            collection the fewest lists, that reach it, in (0, 1].
        apply: keeps what was found as the collection's default.
        progress: as Database.set_progress(), for this call.
        Raises InvalidError with rerank "none" or an empty collection.
        """
        options = _ffi.MeasureOptions()
        lib.quash_measure_options_init(ctypes.byref(options))
        options.k = check_k(k)
        options.sample = _convert.uint(sample, "sample", _SIZE_MAX, 1)
        options.seed = _convert.uint(seed, "seed", (1 << 64) - 1)
        options.apply = bool(apply)
        if target_recall is not None:
            options.target_recall = float(target_recall)
            if not 0 < options.target_recall <= 1:
                raise InvalidError(f"target_recall is {target_recall}, expected above 0, at most 1")
        if queries is not None:
            matrix = _convert.float32(_convert.matrix(queries, self._dim, "queries"))
            options.queries, options.nq = _convert.address(matrix), len(matrix)
        report = _ffi.MeasureReport(struct_size=ctypes.sizeof(_ffi.MeasureReport))
        check(
            _calls.call(
                progress or self._get_progress(),
                lib.quash_measure,
                self._handle.pointer,
                ctypes.byref(options),
                ctypes.byref(report),
            )
        )
        return Measurement(*(getattr(report, name) for name in Measurement._fields))

    # ---- About the collection

    def stats(self) -> CollectionStats:
        """Sizes in rows and bytes."""
        info = _ffi.CollectionInfo(struct_size=ctypes.sizeof(_ffi.CollectionInfo))
        check(lib.quash_collection_stats(self._handle.pointer, ctypes.byref(info)))
        return CollectionStats(*(getattr(info, name) for name in CollectionStats._fields))

    def attach_gpu(self, device: Devices = 0, budget_bytes: int = 0) -> None:
        """Searches scan on GPUs from now on, with the same ids and scores.

        device: CUDA ordinal, several that the segments are divided between, or "all".
        budget_bytes: of each device's memory; 0: nine tenths of what is free now.
            What does not fit is searched on the CPU, as is what is not sealed yet.

        Raises UnsupportedError where the library or the machine has no GPU.
        explain() says what ran where.
        """
        options = gpu_options(device, budget_bytes)
        check(self._call(lib.quash_collection_attach_gpu, ctypes.byref(options)))

    def detach_gpu(self) -> None:
        """Back to the CPU; does nothing if no GPU is attached."""
        check(self._call(lib.quash_collection_detach_gpu))

    def describe(self) -> dict[str, Any]:
        """{"name", "dim", "metric", "id_type", "bits", "rerank", "rotation",
        "seed", "partition_rows", "rows", "fields": [{"name", "type"}]}, and
        "gpu": [{"device", "name", "budget_bytes", "used_bytes"}] if any is
        attached. partition_rows is None for never."""
        described: dict[str, Any] = _calls.out_json(
            lib.quash_collection_describe, self._handle.pointer
        )
        return described

    def __repr__(self) -> str:
        return f"<Collection {self._name!r}: dim {self._dim}, {self._metric}, {self._bits} bits>"

    # ---- Internal

    def _call(self, function: Any, *arguments: object) -> int:
        return _calls.call(self._get_progress(), function, self._handle.pointer, *arguments)

    def _search(self, function: Any, nq: int, exact: bool, *arguments: object) -> int:
        return call_search(
            self._get_progress, nq, exact, function, self._handle.pointer, *arguments
        )

    def _find(
        self, function: Any, nq: int, options: _ffi.SearchOptions, *arguments: object
    ) -> _Rows:
        pointer = ctypes.c_void_p()
        ends = ctypes.byref(options), ctypes.byref(pointer)
        check(self._search(function, nq, bool(options.exact), *arguments, *ends))
        return self._make_rows(_calls.pointer_of(pointer), options.include)

    def _make_rows(self, pointer: int, include: int) -> _Rows:
        return _Rows(pointer, self._dim, self._id_type, self._metric, include)

    def _iterate(self, where: Where | None, include: int, batch_size: int) -> RowIterator:
        pointer = ctypes.c_void_p()
        check(
            lib.quash_iterate(
                self._handle.pointer, filter_text(where), include, ctypes.byref(pointer)
            )
        )
        handle = _calls.IteratorHandle(_calls.pointer_of(pointer))
        return RowIterator(handle, batch_size, include, self._make_rows)

    def _search_strings(
        self,
        queries: npt.NDArray[np.float32],
        shape: tuple[int, int],
        options: _ffi.SearchOptions,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        address = _convert.address(queries)
        rows = self._find(lib.quash_search, len(queries), options, address, *shape)
        ids, scores = np.full(shape, None, object), np.full(shape, np.nan, np.float32)
        for query, (begin, end) in enumerate(itertools.pairwise(rows.offsets)):
            ids[query, : end - begin] = rows.ids[begin:end]
            scores[query, : end - begin] = rows.scores[begin:end]
        return ids, scores


def _check_out(what: str, array: Any, shape: tuple[int, int], dtype: npt.DTypeLike) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{what} of out is a {type(array).__name__}, expected a NumPy array")
    if array.shape != shape or array.dtype != dtype or not array.flags.carray:
        raise InvalidError(
            f"{what} of out is {array.dtype} {array.shape}, expected writable {np.dtype(dtype)} "
            f"{shape} in C order"
        )
