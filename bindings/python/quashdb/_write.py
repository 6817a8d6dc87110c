"""add() and upsert(): input to batches within the library's limits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quashdb import _convert, _ffi
from quashdb.errors import InvalidError, LimitError, QuashError, check

BATCH_BYTES_MAX = _ffi.BATCH_BYTES_MAX
BATCH_ROWS_MAX = _ffi.BATCH_ROWS_MAX


class Input:
    """The rows of one add() or upsert(), checked for shape and kind. Vectors
    are converted to float32 one batch at a time, to bound memory."""

    def __init__(
        self,
        id_type: str,
        dim: int,
        ids: object,
        vectors: object,
        metadatas: object,
        documents: object,
    ) -> None:
        if vectors is None:
            raise TypeError("vectors is missing: expected [n, dim] numbers as vectors=...")
        given = _convert.array_like(vectors, "vectors")
        is_one = given.ndim == 1 and given.size > 0
        self.vectors = _convert.matrix(given, dim, "vectors")
        self.n = len(self.vectors)
        self.int_ids: npt.NDArray[np.int64] | None = None
        self.string_ids: list[bytes] | None = None
        if ids is not None and id_type == "int64":
            self.int_ids = _convert.int_ids(ids)
            _check_length("ids", len(self.int_ids), self.n)
        elif ids is not None:
            self.string_ids = _convert.string_ids(ids)
            _check_length("ids", len(self.string_ids), self.n)
        self.metadata = _texts("metadatas", metadatas, self.n, is_one, Mapping, _convert.metadata)
        self.documents = _texts("documents", documents, self.n, is_one, str, _convert.document)

    def batches(self) -> Iterator[slice]:
        """Row ranges, as few as the limits allow: one if all fit."""
        row_bytes = np.full(self.n, self.vectors.shape[1] * 4, np.int64)
        for texts in (self.metadata, self.documents):
            if texts is not None:
                row_bytes += np.fromiter((len(text or b"") for text in texts), np.int64, self.n)
        if self.n and int(row_bytes.max()) > BATCH_BYTES_MAX:
            row = int(row_bytes.argmax())
            raise LimitError(
                f"row {row} has {row_bytes[row]} bytes, expected at most {BATCH_BYTES_MAX}"
            )
        ends = np.cumsum(row_bytes)
        begin, before = 0, 0
        while begin < self.n:
            end = int(np.searchsorted(ends, before + BATCH_BYTES_MAX, side="right"))
            end = min(end, begin + BATCH_ROWS_MAX)
            yield slice(begin, end)
            begin, before = end, int(ends[end - 1])

    def write(self, write_batch: Callable[[_ffi.Rows, slice], int]) -> None:
        """Writes each batch; an error says how many rows were in before it."""
        for part in self.batches():
            vectors = _convert.float32(self.vectors[part])
            rows = _ffi.Rows(struct_size=ctypes.sizeof(_ffi.Rows), n=len(vectors))
            rows.vectors = _convert.address(vectors)
            if self.int_ids is not None:
                rows.int_ids = _convert.address(self.int_ids[part])
            if self.string_ids is not None:
                rows.string_ids = _convert.strings(self.string_ids[part])
            if self.metadata is not None:
                rows.metadata = _convert.strings(self.metadata[part])
            if self.documents is not None:
                rows.documents = _convert.strings(self.documents[part])
            try:
                check(write_batch(rows, part))
            except QuashError as error:
                error.rows_written = part.start
                raise


def _check_length(what: str, length: int, n: int) -> None:
    if length != n:
        raise InvalidError(f"{what} has {length} entries, vectors has {n} rows")


def _texts(
    what: str,
    values: Any,
    n: int,
    is_one: bool,
    kind: type,
    convert: Callable[[int, Any], bytes | None],
) -> list[bytes | None] | None:
    """One converted entry per row; a single one may stand alone for one vector."""
    if values is None:
        return None
    if isinstance(values, kind):
        if not is_one:
            raise TypeError(
                f"{what} is one {kind.__name__.lower()}, expected a list with one entry per row"
            )
        values = [values]
    if not isinstance(values, (Sequence, np.ndarray)):
        try:
            values = list(values)
        except TypeError:
            raise TypeError(f"{what} is a {type(values).__name__}, expected a list") from None
    _check_length(what, len(values), n)
    return [convert(row, value) for row, value in enumerate(values)]
