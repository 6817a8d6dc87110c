"""The actor that holds one shard, and how rows are divided between shards."""

from __future__ import annotations

import hashlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray

import quashdb
from quashdb.errors import BusyError, InvalidError, MisuseError, NotFoundError

DATABASE = "database"  # within a shard's directory


class Found(NamedTuple):
    """Rows of one shard, best first for each query."""

    ids: list[list[Any]]
    scores: list[npt.NDArray[np.float32]]
    metadatas: list[list[Any]] | None
    documents: list[list[Any]] | None
    vectors: list[npt.NDArray[np.float32]] | None


def shard_of(ids: Sequence[Any] | npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """[n] the shard of each id: a hash that does not depend on the process."""
    if len(ids) and isinstance(ids[0], str):
        digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids)
        mixed = np.frombuffer(digests, "<u8").copy()
    else:
        mixed = np.asarray(ids, np.int64).astype(np.uint64)
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
    acknowledged. What goes wrong then is raised by every call.

    directory: of this shard, on the node of this actor.
    create: options of Database.create_collection() to make it with, or None.
    expected: what describe() must say.
    frozen: whether writes are refused from the start.
    """

    def __init__(
        self,
        directory: str,
        name: str,
        create: dict[str, Any] | None,
        expected: dict[str, Any],
        is_replica: bool = False,
        frozen: bool = False,
    ) -> None:
        self._is_replica = is_replica
        self._frozen = frozen
        self._error: Exception | None = None
        self._refreshed = time.monotonic()
        try:
            self._start(pathlib.Path(directory), name, create, expected)
        except Exception as error:
            self._error = error

    def _start(
        self,
        directory: pathlib.Path,
        name: str,
        create: dict[str, Any] | None,
        expected: dict[str, Any],
    ) -> None:
        path = directory / DATABASE
        if create is not None:
            directory.mkdir(parents=True, exist_ok=True)
        elif not path.is_dir():
            raise NotFoundError(f"shard directory {directory} has no database")
        self._database = self._open(path, create is not None)
        if create is not None:
            self._database.get_or_create_collection(name, **create)
        self._collection = self._database[name]
        described = self._collection.describe()
        for option, value in expected.items():
            if described[option] != value:
                raise InvalidError(
                    f"shard {directory} has {option} {described[option]!r}, expected {value!r}"
                )

    def _open(self, path: pathlib.Path, create: bool) -> quashdb.Database:
        deadline = time.monotonic() + 10
        mode: Any = "follower" if self._is_replica else "create" if create else "readwrite"
        while True:
            try:
                return quashdb.open(path, mode)
            except BusyError:  # a killed predecessor is still going away
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def ping(self) -> int:
        """The process of this actor."""
        self._check()
        return os.getpid()

    def describe(self) -> dict[str, Any]:
        self._check()
        return self._collection.describe()

    def close(self) -> None:
        if self._error is None:
            self._error = MisuseError("the shard is closed")
            self._database.close()

    # ---- Writing

    def freeze(self, frozen: bool) -> None:
        """While frozen every write raises BusyError."""
        self._frozen = frozen

    def _check_writable(self) -> None:
        self._check()
        if self._frozen:
            raise BusyError("the collection is being resharded or backed up; try again later")

    def write(self, verb: str, arguments: dict[str, Any]) -> Any:
        self._check_writable()
        return getattr(self._collection, verb)(**arguments)

    def add_table(self, table: Any, columns: dict[str, Any], upsert: bool) -> int:
        import quashdb.arrow

        self._check_writable()
        return quashdb.arrow.add(self._collection, table, upsert=upsert, **columns)

    # ---- Reading

    def refresh(self, age_s: float) -> None:
        """A replica: takes in writes unless it has within the last `age_s` seconds."""
        self._check()
        if self._is_replica and time.monotonic() - self._refreshed > age_s:
            self._database.refresh()
            self._refreshed = time.monotonic()

    def query(
        self, age_s: float, vectors: npt.NDArray[np.float32], k: int, options: dict[str, Any]
    ) -> Found:
        self.refresh(age_s)
        result = self._collection.query(vectors, k, **options)
        # Copies: views of the library's memory cannot leave the process.
        return Found(
            [list(ids) if isinstance(ids, list) else ids.tolist() for ids in result.ids],
            [np.array(scores) for scores in result.scores],
            result.metadatas,
            result.documents,
            None if result.vectors is None else [np.array(v) for v in result.vectors],
        )

    def get(self, age_s: float, arguments: dict[str, Any]) -> list[quashdb.Row]:
        self.refresh(age_s)
        return [
            row._replace(vector=None if row.vector is None else np.array(row.vector))
            for row in self._collection.get(**arguments)
        ]

    def read(self, age_s: float, verb: str, arguments: dict[str, Any]) -> Any:
        self.refresh(age_s)
        return getattr(self._collection, verb)(**arguments)

    def call_database(self, verb: str, arguments: dict[str, Any]) -> Any:
        self._check()
        return getattr(self._database, verb)(**arguments)

    # ---- Moving rows

    def send_to(self, shards: list[Any], batch_rows: int) -> int:
        """Upserts every row to other shards, by its hash; how many."""
        self._check()
        sent, pending = 0, []
        include = ("metadatas", "documents", "vectors")
        for batch in self._collection.iterate(batch_size=batch_rows, include=include):
            ids, vectors = batch.ids, np.asarray(batch.vectors)
            metadatas, documents = batch.metadatas or [], batch.documents or []
            owners = shard_of(ids, len(shards))
            for owner in np.unique(owners):
                rows = np.flatnonzero(owners == owner)
                arguments = {
                    "ids": [ids[row] for row in rows] if isinstance(ids, list) else ids[rows],
                    "vectors": vectors[rows],
                    "metadatas": [metadatas[row] for row in rows],
                    "documents": [documents[row] for row in rows],
                }
                pending.append(shards[owner].write.remote("upsert", arguments))
            sent += len(batch)
            while len(pending) > 4 * len(shards):
                ray.get(pending.pop(0))
        ray.get(pending)
        return sent


RemoteShard: Any = ray.remote(Shard)
