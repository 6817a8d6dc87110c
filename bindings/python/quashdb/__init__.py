"""QuashDB, an embedded vector database.

    import quashdb

    with quashdb.open("notes.qdb") as db:
        notes = db.get_or_create_collection(
            "notes", dim=384, fields={"lang": "string", "year": "int"})
        notes.add(ids=[1, 2], vectors=vectors,
                  metadatas=[{"lang": "en", "year": 2021}, {"lang": "de"}],
                  documents=["first note", "second note"])
        for hit in notes.query(query, k=10, where="lang = 'en' AND year >= 2020")[0]:
            print(hit.id, hit.score, hit.document)

Errors are QuashError and what is natural besides: ValueError, KeyError,
TypeError, OSError, MemoryError, RuntimeError (see quashdb.errors). Calls
release the GIL. A process that has opened a database must not fork to use
databases in the child: use multiprocessing's "spawn".
"""

from typing import TYPE_CHECKING

from quashdb import errors
from quashdb._ffi import lib as _lib
from quashdb._iterate import RowIterator
from quashdb._search import PreparedQuery
from quashdb._types import CollectionStats, Cursor, Measurement
from quashdb.collection import Collection
from quashdb.database import Database, open, restore
from quashdb.errors import (
    BusyError,
    CancelledError,
    CorruptError,
    ExistsError,
    FieldTypeError,
    FilterSyntaxError,
    FullError,
    InternalError,
    InvalidError,
    LimitError,
    MisuseError,
    NotFoundError,
    OutOfMemoryError,
    QuashError,
    ReadOnlyError,
    Status,
    StorageError,
    UnsupportedError,
    VersionError,
)
from quashdb.index import QuashIndex
from quashdb.results import GetResult, Hit, Hits, QueryResult, Row

if TYPE_CHECKING:
    __version__: str


def __getattr__(name: str) -> str:
    # The library's; importing the package does not load it.
    if name == "__version__":
        version: str = _lib.quash_version().decode()
        globals()[name] = version
        return version
    raise AttributeError(f"module 'quashdb' has no attribute {name!r}")


def isa() -> str:
    """The instruction set in use: "scalar", "avx2", "avx512", "avx512vbmi" or
    "neon"; the environment variable QUASH_ISA lowers it."""
    name: str = _lib.quash_isa().decode()
    return name


__all__ = [
    "BusyError",
    "CancelledError",
    "Collection",
    "CollectionStats",
    "CorruptError",
    "Cursor",
    "Database",
    "ExistsError",
    "FieldTypeError",
    "FilterSyntaxError",
    "FullError",
    "GetResult",
    "Hit",
    "Hits",
    "InternalError",
    "InvalidError",
    "LimitError",
    "Measurement",
    "MisuseError",
    "NotFoundError",
    "OutOfMemoryError",
    "PreparedQuery",
    "QuashError",
    "QuashIndex",
    "QueryResult",
    "ReadOnlyError",
    "Row",
    "RowIterator",
    "Status",
    "StorageError",
    "UnsupportedError",
    "VersionError",
    "errors",
    "isa",
    "open",
    "restore",
]
