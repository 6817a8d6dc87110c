"""Names of the types that the package takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

OpenMode: TypeAlias = Literal["create", "readwrite", "readonly", "follower"]
Durability: TypeAlias = Literal["full", "normal"]
Metric: TypeAlias = Literal["ip", "cosine", "l2"]
IdType: TypeAlias = Literal["int64", "string"]
Rerank: TypeAlias = Literal["none", "int8", "f16", "f32"]
Rotation: TypeAlias = Literal["hadamard", "dense"]

FieldType: TypeAlias = Literal["bool", "int", "float", "string", "int[]", "string[]"] | type[Any]
"""A metadata field's type by name, or bool, int, float, str, list[int], list[str]."""

Id: TypeAlias = int | str
Ids: TypeAlias = Sequence[int] | Sequence[str] | npt.NDArray[Any]
IdArray: TypeAlias = npt.NDArray[np.int64] | list[str]
Metadata: TypeAlias = dict[str, Any]
Where: TypeAlias = str | Mapping[str, Any]
Progress: TypeAlias = Callable[[int, int], object]
"""progress(done, total), total 0 while unknown; returning False cancels."""


class Cursor(NamedTuple):
    """A place in the order of results: pass the last row's to `after` for the
    page behind it."""

    score: float
    id: Id


class CollectionStats(NamedTuple):
    """Sizes of a collection (quash_collection_info)."""

    rows: int
    """Live rows."""
    dead_rows: int
    """Deleted rows whose space is not yet reclaimed."""
    segments: int
    """Sealed segments."""
    tail_rows: int
    """Rows not yet sealed into a segment."""
    code_bytes: int
    """Stored codes and scales."""
    rerank_bytes: int
    """Stored rerank tier."""
    resident_bytes: int
    """Codes, rerank tier, columns and ids that are in memory now."""
    hot_bytes: int
    """The first bit plane and the scales: what a search of every row reads."""
    generation: int
    """Rises with every committed change."""
    lists: int
    """Lists of the partition index; 0: there is none yet."""
    indexed_rows: int
    """Rows in lists, deleted ones included; every search scans the others."""
    list_bytes: int
    """Stored lists and centroids."""


class Measurement(NamedTuple):
    """What Collection.measure() found (quash_measure_report)."""

    recall: float
    """Mean share of the exact top k found."""
    recall_low: float
    """Lower end of the 95 % interval of recall over the queries."""
    exact_us: float
    """Median microseconds of an exact search."""
    search_us: float
    """Median microseconds of a search."""
    candidates: int
    """Rows kept by the plane scan."""
    rerank_candidates: int
    """Rows scored from the rerank tier."""
    planes: int
    """Bit planes scanned over all rows."""
    queries: int
    """Queries measured."""
    nprobe: int
    """Lists probed, mean; 0: every row was looked at."""
