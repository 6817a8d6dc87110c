"""The actor that holds one shard, and how rows are divided between shards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray

import quashdb
from quashdb.errors import BusyError, ExistsError, InvalidError, MisuseError, NotFoundError
from quashdb.ray.files import DATABASE, FROZEN

_OPEN_S = 10.0


class Found(NamedTuple):
    """Rows of one shard, best first for each query."""

    ids: list[list[Any]]
    scores: list[npt.NDArray[np.float32]]
    distances: list[npt.NDArray[np.float32]]
    metadatas: list[list[Any]] | None
    documents: list[list[Any]] | None
    vectors: list[npt.NDArray[np.float32]] | None


def shard_of(ids: Sequence[Any] | npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """[n] the shard of each id: a hash that does not depend on the process."""
    if len(ids) and isinstance(ids[0], str):
        digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
        mixed = np.frombuffer(digests, "<u8").copy()
    else:
        try:
            mixed = np.asarray(ids, np.int64).astype(np.uint64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidError(f"ids are neither integers nor strings: {error}") from error
        with np.errstate(over="ignore"):  # the finalizer of SplitMix64
            mixed ^= mixed >> np.uint64(30)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(27)
            mixed *= np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(count)).astype(np.int64)


class Shard:
    """One shard: the only writer of its database, or a replica that follows it.

    Opens the directory it is given, so a restarted actor has every write that was
    acknowledged. It never makes one by itself: a directory that is lost must not
    come back empty. What goes wrong while opening is raised by every call.

    directory: of this shard, on the node of this actor.
    expected: what describe() must say.
    """

    def __init__(
        self, directory: str, name: str, expected: dict[str, Any], is_replica: bool = False
    ) -> None:
        self._directory = pathlib.Path(directory)
        self._name = name
        self._expected = expected
        self._is_replica = is_replica
        self._database: quashdb.Database | None = None
        self._writing = threading.Lock()
        self._frozen = (self._directory / FROZEN).exists()
        self._error: Exception | None = None
        self._refreshed = time.monotonic()
        try:
            if not (self._directory / DATABASE).is_dir():
                raise NotFoundError(f"shard directory {self._directory} has no database")
            self._open("follower" if is_replica else "readwrite")
        except Exception as error:
            self._error = error

    def _open(self, mode: Any, create: dict[str, Any] | None = None) -> None:
        deadline = time.monotonic() + _OPEN_S
        while True:
            try:
                database = quashdb.open(self._directory / DATABASE, mode)
                break
            except BusyError:  # a killed predecessor is still going away
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        try:
            if create is not None and self._name not in database:
                database.create_collection(self._name, **create)
            collection = database[self._name]
            described = collection.describe()
            for option, value in self._expected.items():
                if described[option] != value:
                    raise InvalidError(
                        f"shard {self._directory} has {option} {described[option]!r}, "
                        f"expected {value!r}"
                    )
        except BaseException:
            database.close()  # make() may try again
            raise
        self._database, self._collection = database, collection

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def check_absent(self) -> None:
        """ExistsError if there is a database already."""
        if not isinstance(self._error, NotFoundError):
            self._check()
            raise ExistsError(f"{self._directory} has a database already")

    def make(self, options: dict[str, Any]) -> None:
        """Makes the database and its collection, unless this has been done.

        options: of Database.create_collection().
        """
        with self._writing:
            if isinstance(self._error, NotFoundError):
                self._directory.mkdir(parents=True, exist_ok=True)
                self._open("create", options)
                self._error = None
            self._check()

    def restore(self, backup: str) -> None:
        """Fills an empty directory from a backup() and opens it, unless this has been done."""
        with self._writing:
            if isinstance(self._error, NotFoundError):
                self._directory.mkdir(parents=True, exist_ok=True)
                quashdb.restore(pathlib.Path(backup) / DATABASE, self._directory / DATABASE)
                self._open("readwrite")
                self._error = None
            self._check()

    def started(self) -> None:
        """Returns once the actor runs, whatever it found."""

    def ping(self, age_s: float = 0.0) -> int:
        """The process of this actor. age_s: of reads, has no effect."""
        self._check()
        return os.getpid()

    def describe(self) -> dict[str, Any]:
        self._check()
        return self._collection.describe()

    def close(self) -> None:
        with self._writing:
            if self._database is not None:
                self._database.close()
            self._error = self._error or MisuseError("the shard is closed")

    def discard(self) -> None:
        """Closes the database and deletes this shard's directory."""
        self.close()
        shutil.rmtree(self._directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # others may be in it
            self._directory.parent.rmdir()

    def tidy(self) -> None:
        """Deletes what interrupted reshardings left beside this shard on its node."""
        for stale in self._directory.parent.parent.glob("epoch-*"):
            if stale != self._directory.parent:
                shutil.rmtree(stale, ignore_errors=True)

    # ---- Writing

    def freeze(self, frozen: bool) -> None:
        """While frozen every write raises BusyError, after a restart as well. Returns
        when no write is under way."""
        self._check()
        with self._writing:
            if frozen:
                (self._directory / FROZEN).touch()
            else:
                (self._directory / FROZEN).unlink(missing_ok=True)
            self._frozen = frozen

    def _check_writable(self) -> None:
        self._check()
        if self._frozen:
            raise BusyError("the collection is being resharded or backed up; try again later")

    def write(self, verb: str, arguments: dict[str, Any]) -> Any:
        with self._writing:
            self._check_writable()
            return getattr(self._collection, verb)(**arguments)

    def add_table(self, table: Any, columns: dict[str, Any]) -> int:
        import quashdb.arrow

        with self._writing:
            self._check_writable()
            return quashdb.arrow.add(self._collection, table, upsert=True, **columns)

    def call_database(self, verb: str, arguments: dict[str, Any]) -> Any:
        self._check()
        return getattr(self._database, verb)(**arguments)

    def backup(self, directory: str) -> None:
        """Copies this shard to `directory`, replacing what an attempt before it left."""
        self._check()
        assert self._database is not None
        target = pathlib.Path(directory)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        self._database.backup(target / DATABASE)

    # ---- Reading

    def _refresh(self, age_s: float) -> None:
        """A replica: takes in writes unless it has within the last `age_s` seconds."""
        self._check()
        if self._is_replica and time.monotonic() - self._refreshed > age_s:
            assert self._database is not None
            self._database.refresh()
            self._refreshed = time.monotonic()

    def query(
        self, age_s: float, vectors: npt.NDArray[np.float32], k: int, options: dict[str, Any]
    ) -> Found:
        self._refresh(age_s)
        result = self._collection.query(vectors, k, **options)
        # Copies: views of the library's memory cannot leave the process.
        return Found(
            [list(ids) if isinstance(ids, list) else ids.tolist() for ids in result.ids],
            [np.array(scores) for scores in result.scores],
            [np.array(distances) for distances in result.distances],
            result.metadatas,
            result.documents,
            None if result.vectors is None else [np.array(v) for v in result.vectors],
        )

    def search(
        self, age_s: float, vectors: npt.NDArray[np.float32], k: int, options: dict[str, Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        self._refresh(age_s)
        return self._collection.search(vectors, k, **options)

    def get(self, age_s: float, arguments: dict[str, Any]) -> list[quashdb.Row]:
        self._refresh(age_s)
        return [
            row._replace(vector=None if row.vector is None else np.array(row.vector))
            for row in self._collection.get(**arguments)
        ]

    def read(self, age_s: float, verb: str, arguments: dict[str, Any]) -> Any:
        self._refresh(age_s)
        return getattr(self._collection, verb)(**arguments)

    # ---- Moving rows

    def send_to(self, shards: Any, batch_rows: int) -> int:
        """Upserts every row to the shards that own it there; how many.

        shards: calls.Shards.
        """
        self._check()
        sent = 0
        include = ("metadatas", "documents", "vectors")
        with self._collection.iterate(batch_size=batch_rows, include=include) as batches:
            for batch in batches:
                columns = (batch.ids, batch.vectors, batch.metadatas, batch.documents)
                shards.write_all(
                    {
                        owner: ("write", "upsert", rows)
                        for owner, rows in divide(len(shards), *columns).items()
                    }
                )
                sent += len(batch)
        return sent


def divide(
    count: int, ids: Any, vectors: Any, metadatas: Any, documents: Any
) -> dict[int, dict[str, Any]]:
    """Arguments of add() and upsert() for each of `count` shards that owns some rows."""
    owners = shard_of(ids, count)
    parts: dict[int, dict[str, Any]] = {}
    for owner in np.unique(owners):
        rows = np.flatnonzero(owners == owner)
        parts[int(owner)] = {
            "ids": ids[rows] if isinstance(ids, np.ndarray) else [ids[row] for row in rows],
            "vectors": np.asarray(vectors)[rows],
            "metadatas": None if metadatas is None else [metadatas[row] for row in rows],
            "documents": None if documents is None else [documents[row] for row in rows],
        }
    return parts


RemoteShard: Any = ray.remote(Shard)
