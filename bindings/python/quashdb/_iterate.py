"""Iteration over a snapshot."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType

from quashdb import _calls
from quashdb._ffi import lib
from quashdb.errors import check
from quashdb.results import GetResult, _Rows


class RowIterator:
    """Batches of rows of one snapshot, made by Collection.iterate(). Belongs to
    one thread at a time; close() or the context manager ends it early."""

    def __init__(
        self,
        handle: _calls.IteratorHandle,
        batch_size: int,
        include: int,
        make_rows: Callable[[int, int], _Rows],
    ) -> None:
        self._handle: _calls.IteratorHandle | None = handle
        self._batch_size = batch_size
        self._include = include
        self._make_rows = make_rows

    def __iter__(self) -> RowIterator:
        return self

    def __next__(self) -> GetResult:
        if self._handle is None:
            raise StopIteration
        pointer = ctypes.c_void_p()
        check(
            lib.quash_iterator_next(self._handle.pointer, self._batch_size, ctypes.byref(pointer))
        )
        rows = self._make_rows(_calls.pointer_of(pointer), self._include)
        if rows.n == 0:
            self._handle = None
            raise StopIteration
        return GetResult(rows)

    def close(self) -> None:
        """Lets go of the snapshot."""
        self._handle = None

    def __enter__(self) -> RowIterator:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
