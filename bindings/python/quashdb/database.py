"""Opening databases, and what concerns a database as a whole."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from quashdb import _calls, _convert, _ffi
from quashdb._ffi import lib
from quashdb._types import (
    Durability,
    FieldType,
    IdType,
    Metric,
    OpenMode,
    Progress,
    Rerank,
    Rotation,
)
from quashdb.collection import Collection
from quashdb.errors import (
    CorruptError,
    ExistsError,
    NotFoundError,
    Status,
    check,
    last_error,
)


def open(
    path: str | os.PathLike[str] = ":memory:",
    mode: OpenMode = "create",
    durability: Durability = "full",
    memory_budget: int | None = None,
    threads: int = 0,
) -> Database:
    """Opens the database directory at `path`.

    path: ":memory:" makes a private one that lives as long as the Database.
    mode: "create" (read-write, made if missing), "readwrite" (must exist),
        "readonly" (shares with other readers, not with a writer) or
        "follower" (reads beside a live writer in another process, taking in
        its writes at refresh()).
    durability: "full", fsync per batch, or "normal", fsync at checkpoint()
        and close(): acknowledged rows survive a killed process.
    memory_budget: bytes of codes, rerank tier, caches and write buffers kept
        in memory, at least 64 MiB; None: no limit.
    threads: per call; 0: one per core.

    Raises NotFoundError if missing, CorruptError, BusyError if held elsewhere,
    VersionError for a newer format, InvalidError, and MisuseError in a child
    forked from a process that had opened a database.
    """
    options = _ffi.OpenOptions()
    lib.quash_open_options_init(ctypes.byref(options))
    options.mode = _convert.choice(mode, "mode", _ffi.OPEN_MODES)
    options.durability = _convert.choice(durability, "durability", _ffi.DURABILITIES)
    options.memory_budget_bytes = _convert.uint(memory_budget or 0, "memory_budget", (1 << 64) - 1)
    options.threads = _convert.uint(threads, "threads", (1 << 32) - 1)
    pointer = ctypes.c_void_p()
    check(lib.quash_open(_convert.path(path), ctypes.byref(options), ctypes.byref(pointer)))
    return Database(_calls.pointer_of(pointer), os.fsdecode(path))


def restore(backup_path: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Verifies the backup and copies it to `path`, which must not exist.
    Raises NotFoundError, CorruptError, ExistsError, StorageError, FullError."""
    check(lib.quash_restore(_convert.path(backup_path, "backup_path"), _convert.path(path)))


class Database:
    """An open database, made by open(); not called directly.

    A context manager, which closes it. Any number of threads may use one. A
    process has each database open once. A forked child may not use it, nor open
    any: start processes by "spawn", or open databases after the fork only.
    """

    def __init__(self, pointer: int, path: str) -> None:
        self._handle = _calls.DatabaseHandle(pointer)
        self._path = path
        self._progress: Progress | None = None
        # At the end of the process too, while the library is still whole.
        self._finalizer = weakref.finalize(self, self._handle.close)
        check(lib.quash_set_progress(pointer, _calls.on_progress, None))

    @property
    def path(self) -> str:
        """As given to open()."""
        return self._path

    @property
    def is_closed(self) -> bool:
        return self._handle.is_closed

    def close(self) -> None:
        """Makes every acknowledged write durable and closes. Waits for calls
        in flight on other threads; closing twice is allowed. Collections,
        iterators and queries then raise MisuseError. A forked child only
        forgets the database, which stays its parent's."""
        self._handle.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- Collections

    def create_collection(
        self,
        name: str,
        dim: int,
        metric: Metric = "cosine",
        id_type: IdType = "int64",
        bits: int = 4,
        rerank: Rerank = "f16",
        rotation: Rotation = "hadamard",
        seed: int = 42,
        fields: Mapping[str, FieldType] | None = None,
        partition_rows: int | None = 100_000,
    ) -> Collection:
        """Creates a collection.

        name: 1 to 255 bytes of UTF-8 without control characters.
        dim: coordinates per vector, 1 to 65,536.
        metric: "ip", "cosine" or "l2".
        id_type: "int64" or "string".
        bits: of a code's coordinate, 1 to 4.
        rerank: what is kept beside the codes: "none", "int8", "f16" or "f32"
            (the vectors as given).
        rotation: "hadamard", or "dense" for dim up to 4,096.
        seed: of the rotation, 0 to 2^64 - 1.
        fields: metadata fields and their types: {"year": "int", "tags":
            "string[]"}, or Python's {"year": int, "tags": list[str]}. Every
            field may be null.
        partition_rows: live rows from which the collection is partitioned, at
            least 1,000: searches then read the lists nearest to the query
            instead of every row. None: never.

        Raises ExistsError, InvalidError, LimitError, ReadOnlyError.
        """
        options = _ffi.CollectionOptions()
        lib.quash_collection_options_init(ctypes.byref(options))
        options.dim = _convert.uint(dim, "dim", _ffi.DIM_MAX, 1)
        options.metric = _convert.choice(metric, "metric", _ffi.METRICS)
        options.id_type = _convert.choice(id_type, "id_type", _ffi.ID_TYPES)
        options.bits = _convert.uint(bits, "bits", (1 << 32) - 1)
        options.rerank = _convert.choice(rerank, "rerank", _ffi.RERANKS)
        options.rotation = _convert.choice(rotation, "rotation", _ffi.ROTATIONS)
        options.seed = _convert.uint(seed, "seed", (1 << 64) - 1)
        options.partition_rows = (
            (1 << 64) - 1
            if partition_rows is None
            else _convert.uint(partition_rows, "partition_rows", (1 << 64) - 1, 1000)
        )
        declared = [
            _ffi.Field(_convert.text(field, "field name"), _convert.field_type(type_, field))
            for field, type_ in _convert.fields(fields).items()
        ]
        options.fields = (_ffi.Field * len(declared))(*declared)
        options.num_fields = len(declared)
        encoded = _convert.text(name, "name")
        pointer = ctypes.c_void_p()
        with self._handle.use() as db:
            check(
                lib.quash_collection_create(
                    db, encoded, ctypes.byref(options), ctypes.byref(pointer)
                )
            )
        return Collection(self, _calls.pointer_of(pointer), self._get_progress)

    def get_or_create_collection(
        self,
        name: str,
        dim: int | None = None,
        metric: Metric | None = None,
        id_type: IdType | None = None,
        bits: int | None = None,
        rerank: Rerank | None = None,
        rotation: Rotation | None = None,
        seed: int | None = None,
        fields: Mapping[str, FieldType] | None = None,
        partition_rows: int | None = None,
    ) -> Collection:
        """The collection, created with these options, as create_collection(),
        if there is none. Raises ExistsError if there is one that differs from
        an option given, or lacks a field given; fields it has besides do not
        matter. partition_rows None is not given. Without dim a missing collection
        raises NotFoundError."""
        given = {
            "dim": dim,
            "metric": metric,
            "id_type": id_type,
            "bits": bits,
            "rerank": rerank,
            "rotation": rotation,
            "seed": seed,
            "partition_rows": partition_rows,
        }
        given = {option: value for option, value in given.items() if value is not None}
        try:
            collection = self[name]
        except NotFoundError:
            if dim is None:
                raise
            try:
                return self.create_collection(name, **given, fields=fields)  # type: ignore[arg-type]
            except ExistsError:  # another thread was first
                collection = self[name]
        described = collection.describe()
        for option, value in given.items():
            if described[option] != value:
                raise ExistsError(
                    f"collection {name!r} exists with {option} {described[option]!r}, asked for "
                    f"{value!r}"
                )
        types = {field["name"]: field["type"] for field in described["fields"]}
        for field, type_ in _convert.fields(fields).items():
            code = _convert.field_type(type_, field)
            if field not in types or _ffi.FIELD_TYPES[types[field]] != code:
                raise ExistsError(
                    f"collection {name!r} exists with fields {types}, asked for {field!r} of type "
                    f"{type_!r}"
                )
        return collection

    def __getitem__(self, name: str) -> Collection:
        """The collection; NotFoundError, a KeyError, if there is none."""
        encoded = _convert.text(name, "name")
        pointer = ctypes.c_void_p()
        with self._handle.use() as db:
            check(lib.quash_collection_open(db, encoded, ctypes.byref(pointer)))
        return Collection(self, _calls.pointer_of(pointer), self._get_progress)

    def collection(self, name: str) -> Collection:
        """The same as db[name]."""
        return self[name]

    def drop_collection(self, name: str) -> None:
        """Removes the collection and its data; NotFoundError if there is none."""
        encoded = _convert.text(name, "name")
        with self._handle.use() as db:
            check(lib.quash_collection_drop(db, encoded))

    def collections(self) -> list[str]:
        """Names of the collections, in byte order."""
        with self._handle.use() as db:
            names: list[str] = _calls.out_json(lib.quash_collection_list, db)
        return names

    def __contains__(self, name: object) -> bool:
        return name in self.collections()

    def __iter__(self) -> Iterator[str]:
        return iter(self.collections())

    def __len__(self) -> int:
        return len(self.collections())

    def __bool__(self) -> bool:  # an empty database is not false
        return True

    # ---- The whole database

    def set_progress(self, progress: Progress | None) -> None:
        """Calls progress(done, total) during long calls (compact, backup,
        verify, measure, delete by filter, large adds, and every 50 ms or so in
        searches that are exact or of 32 queries or more, whose unit is the
        query), on the calling thread; total is 0 while unknown. Returning False
        cancels the call, which raises CancelledError having changed nothing
        (compact: having finished whole segments only); what the callback raises
        cancels it as well, and, with or without a callback, what the handler of
        SIGINT (Ctrl-C), SIGTERM or SIGALRM raises. It may read from the
        database; writing to it raises MisuseError, and so does closing it. None
        removes it."""
        if progress is not None and not callable(progress):
            raise TypeError(f"progress is a {type(progress).__name__}, expected a function")
        self._progress = progress

    def checkpoint(self) -> None:
        """Makes every acknowledged write durable (fsync)."""
        self._long_call(None, lib.quash_checkpoint)

    def compact(self, progress: Progress | None = None) -> None:
        """Reclaims the space of deleted rows, merges small segments and seals
        the tail. progress: as set_progress(), for this call."""
        self._long_call(progress, lib.quash_compact)

    def backup(self, path: str | os.PathLike[str], progress: Progress | None = None) -> None:
        """Writes a consistent copy, itself a database, to the directory
        `path`, which must not exist; readers and writers go on meanwhile."""
        self._long_call(progress, lib.quash_backup, _convert.path(path))

    def refresh(self) -> None:
        """Follower: takes in what the writer has committed since. Otherwise
        does nothing.

        Raises BusyError if the writer replaced files for 5 seconds faster than
        they could be read, CorruptError if what is there is damaged, or older
        than what was read before. After an error all stays as it was.
        """
        self._long_call(None, lib.quash_refresh)

    def verify(self, progress: Progress | None = None) -> dict[str, Any]:
        """Reads everything and checks that it is whole and agrees.

        Returns {"ok", "collections", "rows", "segments", "bytes", "problems"}.
        Raises CorruptError if there is damage, with the same as its report.
        """
        report = ctypes.c_void_p()
        with self._handle.use() as db:
            status = _calls.call(
                progress or self._progress, lib.quash_verify, db, ctypes.byref(report)
            )
            error = None if status == Status.OK else last_error(status)
        found: dict[str, Any] = _calls.take_json(report) if report.value else {}
        if error is None:
            return found
        if isinstance(error, CorruptError):
            error.report = found
        raise error

    def stats(self) -> dict[str, Any]:
        """Path, format version, durability, memory, disk bytes, and an object
        per collection."""
        with self._handle.use() as db:
            found: dict[str, Any] = _calls.out_json(lib.quash_stats, db)
        return found

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<Database {self._path!r}: {state}>"

    # ---- Internal

    def _get_progress(self) -> Progress | None:
        return self._progress

    def _long_call(self, progress: Progress | None, function: Any, *arguments: object) -> None:
        with self._handle.use() as db:
            check(_calls.call(progress or self._progress, function, db, *arguments))
