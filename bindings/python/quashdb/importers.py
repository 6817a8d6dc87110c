"""Collections from the files of other vector databases.

    python3 -m quashdb.importers faiss index.faiss notes.qdb notes
    python3 -m quashdb.importers hnswlib index.bin notes.qdb notes --space cosine
    python3 -m quashdb.importers chroma chroma_directory notes.qdb
    python3 -m quashdb.importers sqlite-vec data.sqlite notes.qdb items

Each reads with the library that wrote the file, which must be installed (faiss-cpu,
hnswlib, chromadb, sqlite-vec), and leaves the file as it is. A collection is made
for what is imported; if that fails half way it is dropped again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pathlib
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import quashdb
from quashdb._types import Metric
from quashdb.collection import Collection
from quashdb.database import Database
from quashdb.errors import CorruptError, InvalidError, NotFoundError, QuashError, UnsupportedError
from quashdb.integrations._metadata import Fields

Path = str | os.PathLike[str]
_ROWS = 8192  # read at a time
_HNSWLIB = struct.Struct("<6Q")


class Batch(NamedTuple):
    """Rows on their way. metadatas may be of any shape."""

    ids: Sequence[Any] | npt.NDArray[Any]
    vectors: npt.NDArray[np.float32]
    metadatas: Sequence[dict[str, Any] | None] | None = None
    documents: Sequence[str | None] | None = None


def import_faiss(
    database: Database, path: Path, name: str, *, metric: Metric | None = None, **options: Any
) -> Collection:
    """An index file of FAISS: flat, scalar and product quantizers, HNSW, IVF, with or
    without IDMap. Vectors are those that it can reconstruct, exact for flat ones.

    metric: None: that of the index, "ip" or "l2".
    options: of Database.create_collection().
    """
    faiss = _library("faiss", "faiss-cpu")
    index = _read("FAISS index", path, lambda: faiss.read_index(os.fspath(path)))
    if metric is None:
        metrics: dict[int, Metric] = {faiss.METRIC_INNER_PRODUCT: "ip", faiss.METRIC_L2: "l2"}
        if index.metric_type not in metrics:
            raise UnsupportedError(f"{path}: metric {index.metric_type}, expected ip or l2")
        metric = metrics[index.metric_type]
    ids = np.arange(index.ntotal)
    inner = faiss.downcast_index(index)
    while isinstance(inner, (faiss.IndexIDMap, faiss.IndexIDMap2, faiss.IndexPreTransform)):
        if isinstance(inner, faiss.IndexPreTransform):
            break  # reconstructs through its transforms
        ids = faiss.vector_to_array(inner.id_map)
        inner = faiss.downcast_index(inner.index)
    with contextlib.suppress(RuntimeError):
        faiss.extract_index_ivf(inner).make_direct_map()

    def batches() -> Iterator[Batch]:
        for begin in range(0, index.ntotal, _ROWS):
            count = min(_ROWS, index.ntotal - begin)
            try:
                vectors = inner.reconstruct_n(begin, count)
            except RuntimeError as error:
                raise UnsupportedError(
                    f"{path}: {type(inner).__name__} gives no vectors back: {error}"
                ) from error
            yield Batch(ids[begin : begin + count], vectors)

    return _make(database, name, index.d, metric, "int64", batches(), options)


def import_hnswlib(
    database: Database,
    path: Path,
    name: str,
    *,
    space: Metric,
    dim: int | None = None,
    **options: Any,
) -> Collection:
    """An index file of hnswlib. The file does not say its space: "l2", "ip" or "cosine".
    With "cosine" it holds normalised vectors.

    dim: None: as in the file; another raises InvalidError.
    """
    hnswlib = _library("hnswlib", "hnswlib")
    stored = _read("hnswlib index", path, lambda: _hnswlib_dim(pathlib.Path(path)))
    if dim is not None and dim != stored:
        raise InvalidError(f"{path} has vectors of {stored} numbers, expected {dim}")
    dim = stored
    index = hnswlib.Index(space=space, dim=dim)
    _read("hnswlib index", path, lambda: index.load_index(os.fspath(path)))
    ids = np.sort(np.asarray(index.get_ids_list(), np.int64))

    def batches() -> Iterator[Batch]:
        for begin in range(0, len(ids), _ROWS):
            some = ids[begin : begin + _ROWS]
            yield Batch(some, np.asarray(index.get_items(some), np.float32))

    return _make(database, name, dim, space, "int64", batches(), options)


def _hnswlib_dim(path: pathlib.Path) -> int:
    """From the header, which hnswlib itself does not hold against its argument: offsets and
    sizes of the fields of an element, 64 bits each."""
    with path.open("rb") as file:
        header = file.read(_HNSWLIB.size)
    if len(header) < _HNSWLIB.size:
        raise ValueError(f"{len(header)} bytes, expected a header of {_HNSWLIB.size}")
    _, capacity, count, element, label_at, data_at = _HNSWLIB.unpack(header)
    links, vector = data_at, label_at - data_at
    if not (count <= capacity and element == label_at + 8 and links > 0 and vector > 0):
        raise ValueError("its header is none of hnswlib")
    if vector % 4 or path.stat().st_size < _HNSWLIB.size + count * element:
        raise ValueError("its size is not that of its header, or its numbers are not float32")
    return int(vector // 4)


def import_chroma(
    database: Database, path: Path, collections: Iterable[str] | None = None, **options: Any
) -> list[Collection]:
    """Collections of a directory that chromadb's PersistentClient wrote, under their
    names, with metadata and documents. None: all of them. A value of another kind than
    those of its key before comes along, but filters do not see it."""
    chromadb = _library("chromadb", "chromadb")
    if not (pathlib.Path(path) / "chroma.sqlite3").is_file():
        raise NotFoundError(f"{path} is no directory of Chroma: it has no chroma.sqlite3")
    client = _read("Chroma", path, lambda: chromadb.PersistentClient(os.fspath(path)))
    names = [one.name for one in client.list_collections()]
    made = []
    for name in names if collections is None else collections:
        if name not in names:
            raise NotFoundError(f"{path} has no collection {name!r}, only {', '.join(names)}")
        source = client.get_collection(name)
        space = (source.metadata or {}).get("hnsw:space")
        space = space or (source.configuration or {}).get("hnsw", {}).get("space", "l2")
        first = source.get(limit=1, include=["embeddings"])["embeddings"]
        if first is None or len(first) == 0:
            continue  # no rows, so no dimension either

        def batches(source: Any = source) -> Iterator[Batch]:
            for begin in range(0, source.count(), _ROWS):
                found = source.get(
                    limit=_ROWS, offset=begin, include=["embeddings", "metadatas", "documents"]
                )
                vectors = np.asarray(found["embeddings"], np.float32)
                yield Batch(found["ids"], vectors, found["metadatas"], found["documents"])

        made.append(_make(database, name, len(first[0]), space, "string", batches(), dict(options)))
    return made


def import_sqlite_vec(
    database: Database,
    path: Path,
    table: str,
    name: str | None = None,
    *,
    vector: str | None = None,
    document: str | None = None,
    metric: Metric = "l2",
    **options: Any,
) -> Collection:
    """A vec0 table of sqlite-vec, or an ordinary table with vectors as float32 blobs;
    other columns are metadata.

    name: of the collection; None: the table's.
    vector: its column; None: the first that holds vectors.
    document: the column of texts, if one is to be the document.
    metric: "l2", as sqlite-vec measures unless told otherwise, "cosine" or "ip".
    """
    extension = _library("sqlite_vec", "sqlite-vec")
    if not pathlib.Path(path).is_file():
        raise NotFoundError(f"{path} is no file")
    connection = sqlite3.connect(f"{pathlib.Path(path).absolute().as_uri()}?mode=ro", uri=True)
    with contextlib.closing(connection):
        try:
            connection.enable_load_extension(True)
            extension.load(connection)
        except AttributeError as error:
            raise UnsupportedError(
                "this Python's sqlite3 cannot load extensions, which sqlite-vec is"
            ) from error
        quoted = '"' + table.replace('"', '""') + '"'

        def columns() -> list[str]:
            rows = connection.execute(f"PRAGMA table_xinfo({quoted})").fetchall()
            return [row[1] for row in rows if row[6] in (0, 2, 3)]

        found = _read("SQLite database", path, columns)
        if not found:
            raise NotFoundError(f"{path} has no table {table!r}")
        cursor = connection.execute(f"SELECT rowid, * FROM {quoted} ORDER BY rowid")
        names = [one[0] for one in cursor.description]
        first = cursor.fetchmany(_ROWS)
        if not first:
            raise InvalidError(f"{path}: table {table!r} has no rows, so no dimension either")
        if vector is None:
            blobs = [n for n, v in zip(names, first[0], strict=True) if isinstance(v, bytes)]
            if not blobs:
                raise InvalidError(f"{path}: table {table!r} has no column of vectors")
            vector = blobs[0]
        for column in (vector, document):
            if column is not None and column not in names:
                raise NotFoundError(f"{path}: no column {column!r}, only {', '.join(names)}")
        at = names.index(vector)
        is_key = [i for i, n in enumerate(names) if i and isinstance(first[0][0], str)]
        others = [i for i in range(1, len(names)) if i != at and names[i] != document]
        if is_key:  # a text primary key is the rowid, and a column of its own as well
            others = [i for i in others if first[0][i] != first[0][0]]
        dim = len(first[0][at]) // 4

        def batches() -> Iterator[Batch]:
            rows = first
            while rows:
                if any(not isinstance(r[at], bytes) or len(r[at]) != 4 * dim for r in rows):
                    raise InvalidError(
                        f"{path}: column {vector!r} has values that are not {dim} float32 numbers"
                    )
                yield Batch(
                    [row[0] for row in rows],
                    np.frombuffer(b"".join(row[at] for row in rows), np.float32).reshape(-1, dim),
                    [{names[i]: row[i] for i in others if row[i] is not None} for row in rows],
                    [row[names.index(document)] for row in rows] if document else None,
                )
                rows = cursor.fetchmany(_ROWS)

        id_type = "string" if isinstance(first[0][0], str) else "int64"
        return _make(database, name or table, dim, metric, id_type, batches(), options)


# ---- Internal


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(f"this needs {module}: pip install {package}") from error


def _read(what: str, path: Path, read: Callable[[], Any]) -> Any:
    if not os.path.exists(path):
        raise NotFoundError(f"{path} does not exist")
    try:
        return read()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorruptError(f"{path} is no {what}, or damaged: {reason}") from error


def _make(
    database: Database,
    name: str,
    dim: int,
    metric: Metric,
    id_type: Any,
    batches: Iterable[Batch],
    options: dict[str, Any],
) -> Collection:
    collection = database.create_collection(name, dim, metric, id_type, **options)
    try:
        fields: Fields | None = None
        for batch in batches:
            metadatas = None
            if batch.metadatas is not None and any(batch.metadatas):
                fields = fields or Fields(collection)
                metadatas = [fields.encode(one, strict=False) for one in batch.metadatas]
            collection.add(batch.ids, batch.vectors, metadatas, batch.documents)
    except BaseException:
        database.drop_collection(name)
        raise
    return collection


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m quashdb.importers",
        description="Makes a collection from a file of another vector database.",
    )
    parser.add_argument("kind", choices=["faiss", "hnswlib", "chroma", "sqlite-vec"])
    parser.add_argument("source", help="the file, or Chroma's directory")
    parser.add_argument("database", help="made if missing")
    parser.add_argument("name", nargs="?", help="of the collection; sqlite-vec: of the table")
    parser.add_argument("--metric", choices=["ip", "cosine", "l2"], help="unless the file says it")
    parser.add_argument("--space", choices=["ip", "cosine", "l2"], help="of hnswlib")
    parser.add_argument("--dim", type=int, help="of hnswlib, to be checked")
    given = parser.parse_args(arguments)
    if given.name is None and given.kind != "chroma":
        parser.error("name is missing")
    if given.kind == "hnswlib" and given.space is None:
        parser.error("hnswlib needs --space: its file does not say it")
    metric = {} if given.metric is None else {"metric": given.metric}
    try:
        if not os.path.exists(given.source):  # before a database is made
            raise NotFoundError(f"{given.source} does not exist")
        with quashdb.open(given.database) as database:
            if given.kind == "faiss":
                made = [import_faiss(database, given.source, given.name, **metric)]
            elif given.kind == "hnswlib":
                made = [
                    import_hnswlib(
                        database, given.source, given.name, space=given.space, dim=given.dim
                    )
                ]
            elif given.kind == "chroma":
                names = None if given.name is None else [given.name]
                made = import_chroma(database, given.source, names)
            else:
                made = [import_sqlite_vec(database, given.source, given.name, **metric)]
            for collection in made:
                print(f"{collection.name}: {len(collection):,} rows of {collection.dim}")
    except QuashError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
