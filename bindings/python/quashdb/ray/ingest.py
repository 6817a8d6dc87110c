"""Rows of tables and of Ray Datasets into shards."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

import quashdb.arrow
from quashdb.errors import InvalidError, QuashError
from quashdb.ray.calls import Part, Shards
from quashdb.ray.shard import shard_of


class Writer:
    """Upserts tables; Ray Data runs it in tasks of its own on many nodes."""

    def __init__(self, shards: Shards, columns: dict[str, Any]) -> None:
        self._shards = shards
        self._columns = columns

    def write(self, table: Any) -> int:
        """A pyarrow Table; how many rows it has."""
        self._shards.write_all(_divide(table, len(self._shards), self._columns))
        return len(table)

    def __call__(self, table: Any) -> Any:
        """As a function of map_batches(): an error becomes a row, as Ray Data would
        hide it in one of its own."""
        rows, error = 0, None
        try:
            rows = self.write(table)
        except QuashError as raised:
            error = pickle.dumps(raised)
        return pa.table({"rows": [rows], "error": pa.array([error], pa.binary())})


def _divide(table: Any, count: int, columns: dict[str, Any]) -> dict[int, Part]:
    id = columns["id"]
    if id not in table.column_names:
        raise InvalidError(
            f"data has no column {id!r}, and sharded rows need ids; it has "
            f"{', '.join(table.column_names)}"
        )
    column = table.column(id)
    if column.null_count:
        raise InvalidError(f"column {id!r} has nulls, expected ids")
    is_int = pa.types.is_integer(column.type)
    owners = shard_of(column.to_numpy() if is_int else column.to_pylist(), count)
    return {
        int(owner): ("add_table", table.take(np.flatnonzero(owners == owner)), columns)
        for owner in np.unique(owners)
    }


def is_dataset(data: Any) -> bool:
    """Whether `data` is a Ray Dataset."""
    return type(data).__module__.startswith("ray.data")


def write_dataset(dataset: Any, writer: Writer, batch_rows: int) -> Iterator[int]:
    """Rows written, batch by batch, by tasks beside the data."""
    done = dataset.map_batches(
        writer.__call__, batch_size=batch_rows, batch_format="pyarrow", zero_copy_batch=True
    )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
        for one in batch.to_pylist():
            if one["error"] is not None:
                raise pickle.loads(one["error"])
            yield one["rows"]


def tables(data: Any, id: str | None, rows: int) -> Iterator[Any]:
    """pyarrow Tables of at most `rows` rows of whatever quashdb.arrow.add() takes."""
    for batch in quashdb.arrow._reader(data, id):
        for begin in range(0, len(batch), rows):
            yield pa.Table.from_batches([batch.slice(begin, rows)])
