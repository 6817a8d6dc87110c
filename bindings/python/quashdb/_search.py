"""Search options and prepared queries."""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from quashdb import _calls, _convert, _ffi
from quashdb._ffi import lib
from quashdb._filters import filter_text
from quashdb._types import Cursor, Id, Progress, Where
from quashdb.errors import InvalidError, MisuseError, check
from quashdb.results import QueryResult, _Rows

_UINT32_MAX = (1 << 32) - 1


@functools.cache
def _defaults() -> bytes:
    options = _ffi.SearchOptions()
    lib.quash_search_options_init(ctypes.byref(options))
    return bytes(options)


def search_options(
    id_type: str,
    where: Where | None,
    min_score: float | None,
    include: str | Iterable[str] | None,
    exact: bool,
    recall: float,
    nprobe: int,
    candidates: int,
    rerank_candidates: int,
    planes: int,
    threads: int,
    after: Cursor | tuple[float, Id] | None,
) -> _ffi.SearchOptions:
    """quash_search_options of keyword arguments, checked."""
    options = _ffi.SearchOptions.from_buffer_copy(_defaults())
    if exact:
        options.exact = 1
    if where is not None:
        options.filter = filter_text(where)
    if min_score is not None:
        options.min_score = _number(min_score, "min_score")
    if include is not None:
        options.include = _convert.include_flags(include)
    if recall != 0:
        options.recall = _number(recall, "recall")
    if nprobe != 0:
        options.nprobe = _convert.uint(nprobe, "nprobe", _UINT32_MAX)
    if candidates != 0:
        options.candidates = _convert.uint(candidates, "candidates", _UINT32_MAX)
    if rerank_candidates != 0:
        options.rerank_candidates = _convert.uint(
            rerank_candidates, "rerank_candidates", _UINT32_MAX
        )
    if planes != 0:
        options.planes = _convert.uint(planes, "planes", _UINT32_MAX)
    if threads != 0:
        options.threads = _convert.uint(threads, "threads", _UINT32_MAX)
    if after is not None:
        try:
            score, last_id = after
        except (TypeError, ValueError):
            raise TypeError(f"after is {after!r}, expected a Cursor or (score, id)") from None
        options.has_cursor = 1
        options.cursor_score = _number(score, "score of after")
        if not isinstance(last_id, str if id_type == "string" else (int, np.integer)):
            raise TypeError(f"after is {after!r}, expected a score and an id of type {id_type}")
        if id_type == "int64":
            options.cursor_int_id = int(_convert.int_ids(last_id)[0])
        else:
            options.cursor_string_id = _convert.string_ids(last_id)[0]
    return options


def _number(value: object, what: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {value!r}, expected a number") from None
    if math.isnan(number):
        raise InvalidError(f"{what} is NaN, expected a number")
    return number


def check_k(k: int) -> int:
    """1..K_MAX"""
    return _convert.uint(k, "k", _ffi.K_MAX, 1)


def call_search(
    get_progress: Callable[[], Progress | None],
    nq: int,
    exact: bool,
    function: Callable[..., int],
    *arguments: object,
) -> int:
    """The status of a search. Only of long ones does the library report progress; for
    others, preparing for signals would take a good part of the time."""
    if exact or nq >= _ffi.PROGRESS_QUERIES_MIN:
        return _calls.call(get_progress(), function, *arguments)
    return function(*arguments)


class PreparedQuery:
    """A search whose options are checked and filter compiled once, run often;
    made by Collection.prepare(). Threads may share one: their runs take turns.
    """

    def __init__(
        self,
        handle: _calls.CollectionHandle,
        options: _ffi.SearchOptions,
        dim: int,
        make_rows: Callable[[int, int], _Rows],
        get_progress: Callable[[], Progress | None],
    ) -> None:
        pointer = ctypes.c_void_p()
        check(lib.quash_query_prepare(handle.pointer, ctypes.byref(options), ctypes.byref(pointer)))
        self._handle: _calls.QueryHandle | None = _calls.QueryHandle(_calls.pointer_of(pointer))
        self._lock = threading.RLock()  # a progress callback may search
        self._include = int(options.include)
        self._dim = dim
        self._make_rows = make_rows
        self._get_progress = get_progress
        self._exact = bool(options.exact)

    def run(self, vectors: npt.ArrayLike, k: int = 10) -> QueryResult:
        """Searches as Collection.query() with the options prepared.

        vectors: [nq, dim] or [dim], floats or integers, finite.
        k: 1 to 16,384.
        Raises as Collection.query(); MisuseError if closed.
        """
        queries = _convert.float32(_convert.matrix(vectors, self._dim, "vectors"))
        k = check_k(k)
        pointer = ctypes.c_void_p()
        with self._lock:
            check(
                call_search(
                    self._get_progress,
                    len(queries),
                    self._exact,
                    lib.quash_query_run,
                    self._open_pointer(),
                    _convert.address(queries),
                    len(queries),
                    k,
                    ctypes.byref(pointer),
                )
            )
        return QueryResult(self._make_rows(_calls.pointer_of(pointer), self._include))

    def explain(self) -> dict[str, Any]:
        """What the last run did: kernel, mode, selectivity, rows and bytes of
        each stage, elapsed_us, measured_recall. MisuseError before the first."""
        with self._lock:
            pointer = self._open_pointer()
            explained: dict[str, Any] = _calls.out_json(lib.quash_query_explain, pointer)
        return explained

    def close(self) -> None:
        """Frees the query; closing twice is allowed."""
        with self._lock:
            self._handle = None

    def _open_pointer(self) -> int:
        if self._handle is None:
            raise MisuseError("the query is closed")
        return self._handle.pointer

    def __enter__(self) -> PreparedQuery:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
