"""A collection over many shards."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import ray

import quashdb
from quashdb import _convert
from quashdb._types import Id, Ids, Progress, Where
from quashdb.errors import (
    BusyError,
    CorruptError,
    ExistsError,
    InvalidError,
    StorageError,
    UnsupportedError,
)
from quashdb.ray.calls import Part, Shards, check_connected, result
from quashdb.ray.files import (
    MANIFEST,
    check_count,
    directory,
    write_manifest,
)
from quashdb.ray.hits import Hits, merge
from quashdb.ray.shard import Found, RemoteShard, divide, shard_of

_OPTIONS = ("dim", "metric", "id_type", "bits", "rerank", "rotation", "seed")
_INGEST_ROWS = 8192
_MOVED_ROWS = 2048
_INLINE_BYTES = 64 << 10
_ROW_INCLUDE = ("metadatas", "documents")

Resources = Sequence[Mapping[str, float]]


class ShardedCollection:
    """Rows in shards by a hash of their ids, each shard a database that an actor holds.

    Made by create(), open() and restore(). Every call fans out and merges: results are
    those of one collection that holds everything, best first, ties by ascending id. A
    batch is atomic in each shard, not over all of them. Rows need ids.

    A shard whose process dies is started again on its directory, with everything that
    was acknowledged. Meanwhile its replicas answer; without any, and for writes, calls
    wait up to `timeout_s`. One ShardedCollection holds its shards: a second one raises
    BusyError. close() or the context manager ends the actors. Any number of threads may
    use one, and so may Ray tasks and actors that it is passed to: they search and write
    beside each other, until it is resharded or closed, which only the first can do.

    read_from: "primary", the default: reads see every acknowledged write, and go to
        replicas only while a shard is gone. "any": replicas take their turns.
    replica_age_s: a replica answers from a state that is at most so old.
    """

    read_from: Literal["primary", "any"] = "primary"
    replica_age_s = 0.1

    def __init__(self, root: pathlib.Path, manifest: dict[str, Any], timeout_s: float) -> None:
        check_connected()
        self._root = root.absolute()
        self._manifest = manifest
        self._timeout_s = timeout_s
        self._moving = threading.Lock()  # one resharding or backup at a time
        self._is_copy = False
        self._to_thaw: Shards | None = None  # shards that could not be reached to be thawed
        self._now = self._start(manifest["epoch"], manifest["shards"])
        try:
            self._await_start(self._now)
        except BaseException:
            self._now.kill()
            raise

    # ---- Actors

    def _actor(self, epoch: int, shard: int, is_replica: bool) -> Any:
        # num_cpus 0: shards wait for disks and calls, and Ray would run no other task.
        actor = RemoteShard.options(
            num_cpus=0, max_restarts=-1, max_concurrency=8, resources=self._resources(shard)
        )
        return actor.remote(
            str(directory(self._root, epoch, shard)),
            self._manifest["name"],
            self._manifest["expected"],
            is_replica,
        )

    def _resources(self, shard: int) -> dict[str, float]:
        resources = self._manifest["resources"]
        return dict(resources[shard % len(resources)]) if resources else {}

    def _start(self, epoch: int, count: int) -> Shards:
        actors = [self._actor(epoch, shard, False) for shard in range(count)]
        return Shards(actors, self._timeout_s)

    def _await_start(self, shards: Shards) -> None:
        for shard, actor in enumerate(shards.actors):
            shards.await_start(shard, actor, self._resources(shard))

    def _start_replicas(self, shards: Shards) -> None:
        epoch = self._manifest["epoch"]
        started = [
            [self._actor(epoch, shard, True) for _ in range(self._manifest["replicas"])]
            for shard in range(len(shards))
        ]
        try:
            for shard, replicas in enumerate(started):
                for replica in replicas:
                    shards.await_start(shard, replica, self._resources(shard))
                    result(replica.ping.remote())
        finally:
            shards.replicas = started

    def _fill(self, fill: Any) -> None:
        """Makes new shards by `fill` and their manifest, or leaves nothing behind."""
        now = self._now
        try:
            now.ask_all("check_absent", lambda shard: [])
        except BaseException:
            now.kill()
            raise
        try:
            fill(now)
            described = now.ask_all("describe", lambda shard: [])
            self._manifest["expected"] = {option: described[0][option] for option in _OPTIONS}
            self._root.mkdir(parents=True, exist_ok=True)
            write_manifest(self._root, self._manifest)
            self._start_replicas(now)
        except BaseException:
            (self._root / MANIFEST).unlink(missing_ok=True)
            _discard(now)
            raise

    def _open(self) -> None:
        try:
            self._now.ask_all("ping", lambda shard: [])
            self._now.ask_all("freeze", lambda shard: [False])  # an interrupted resharding's
            self._now.ask_all("tidy", lambda shard: [])
            self._start_replicas(self._now)
        except BaseException:
            self._now.kill()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_moving": None, "_is_copy": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._moving = threading.Lock()

    # ---- About it

    @property
    def name(self) -> str:
        name: str = self._manifest["name"]
        return name

    @property
    def shards(self) -> int:
        return len(self._now)

    @property
    def timeout_s(self) -> float:
        """How long calls wait for a shard that starts or starts again."""
        return self._now.timeout_s

    @timeout_s.setter
    def timeout_s(self, seconds: float) -> None:
        self._timeout_s = self._now.timeout_s = seconds

    def describe(self) -> dict[str, Any]:
        """As Collection.describe(), with "shards" and "replicas"."""
        (described, *_) = self._read_all("read", "describe", {})
        described["rows"] = self.count()
        return {
            **described,
            "shards": self.shards,
            "replicas": self._manifest["replicas"],
        }

    def stats(self) -> list[dict[str, Any]]:
        """CollectionStats of each shard, as dicts."""
        return [one._asdict() for one in self._read_all("read", "stats", {})]

    def processes(self) -> list[int]:
        """Process ids of the shards' actors."""
        pids: list[int] = self._now.ask_all("ping", lambda shard: [])
        return pids

    def close(self) -> None:
        """Makes every write durable and ends the actors; a copy only forgets them."""
        if not self._is_copy and ray.is_initialized():
            for actor in self._now.actors:
                with contextlib.suppress(Exception):
                    ray.get(actor.close.remote(), timeout=self._timeout_s)
            self._now.kill()
        self._now = Shards([], self._timeout_s)

    def __enter__(self) -> ShardedCollection:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count()

    # ---- Writing

    def _open_shards(self) -> Shards:
        check_connected()
        now = self._now
        if len(now) == 0:
            raise quashdb.MisuseError("the collection is closed")
        return now

    def _writable_shards(self) -> Shards:
        if self._to_thaw is not None and not self._moving.locked():
            self._thaw()
        return self._open_shards()

    def _thaw(self) -> None:
        thawing = self._to_thaw
        if thawing is not None and thawing is self._now:
            thawing.ask_all("freeze", lambda shard: [False])
        self._to_thaw = None

    def _divide(
        self, shards: Shards, ids: Any, vectors: Any, metadatas: Any, documents: Any
    ) -> dict[int, dict[str, Any]]:
        if ids is None:
            raise InvalidError("ids is missing: rows of a sharded collection need ids")
        listed = [ids] if _convert.is_one_id(ids) else ids
        if not isinstance(listed, np.ndarray):
            listed = list(listed)
        n = len(listed)
        matrix = _convert.float32(
            _convert.matrix(vectors, self._manifest["expected"]["dim"], "vectors")
        )
        entries = {"vectors": matrix, "metadatas": metadatas, "documents": documents}
        for what, column in entries.items():
            if isinstance(column, (Mapping, str)):
                entries[what] = column = [column]
            if column is not None and len(column) != n:
                raise InvalidError(f"{what} has {len(column)} entries, ids has {n}")
        if len(set(listed.tolist() if isinstance(listed, np.ndarray) else listed)) != n:
            raise InvalidError("ids has an id twice")
        return divide(len(shards), listed, *entries.values())

    def add(
        self,
        ids: Ids | Id,
        vectors: npt.ArrayLike,
        metadatas: Any = None,
        documents: Any = None,
    ) -> None:
        """As Collection.add(). ExistsError before anything is written if an id is stored."""
        shards = self._writable_shards()
        parts = self._divide(shards, ids, vectors, metadatas, documents)

        def stored(shard: int) -> npt.NDArray[np.bool_]:
            found: npt.NDArray[np.bool_] = shards.ask(
                shard, "read", 0.0, "contains", {"ids": parts[shard]["ids"]}
            )
            return found

        for shard, part in parts.items():
            found = np.flatnonzero(stored(shard))
            if len(found):
                raise ExistsError(f"id {part['ids'][found[0]]!r} is stored already")
        shards.write_all(
            {shard: ("write", "add", part) for shard, part in parts.items()},
            lambda shard: True if stored(shard).all() else None,
        )

    def upsert(
        self,
        ids: Ids | Id,
        vectors: npt.ArrayLike,
        metadatas: Any = None,
        documents: Any = None,
    ) -> None:
        """As Collection.upsert()."""
        shards = self._writable_shards()
        parts = self._divide(shards, ids, vectors, metadatas, documents)
        shards.write_all({shard: ("write", "upsert", part) for shard, part in parts.items()})

    def delete(self, ids: Ids | Id | None = None, where: Where | None = None) -> int:
        """As Collection.delete(); the number is too low if a shard died meanwhile."""
        shards = self._writable_shards()
        parts: dict[int, Part]
        if ids is None or where is not None:
            arguments = {"ids": ids, "where": where}
            parts = {s: ("write", "delete", arguments) for s in range(len(shards))}
        else:
            listed: Any = [ids] if _convert.is_one_id(ids) else ids
            owners = shard_of(listed, len(shards))
            parts = {
                int(owner): (
                    "write",
                    "delete",
                    {"ids": [listed[row] for row in np.flatnonzero(owners == owner)]},
                )
                for owner in np.unique(owners)
            }
        return sum(shards.write_all(parts))

    def add_field(self, name: str, type: Any) -> None:
        """As Collection.add_field()."""
        shards = self._writable_shards()
        arguments = {"name": name, "type": type}

        def declared(shard: int) -> bool | None:
            fields = shards.ask(shard, "describe")["fields"]
            return True if any(one["name"] == name for one in fields) else None

        if declared(0):
            raise ExistsError(f"field {name!r} exists")
        shards.write_all(
            {
                shard: ("write", "add_field", arguments)
                for shard in range(len(shards))
                if not declared(shard)  # what a call that failed half way left is made whole
            },
            declared,
        )

    def ingest(
        self,
        data: Any,
        *,
        id: str = "id",
        vector: str = "vector",
        document: str | None = "document",
        batch_rows: int = _INGEST_ROWS,
        progress: Progress | None = None,
    ) -> int:
        """Upserts the rows of a Ray Dataset, or of whatever quashdb.arrow.add() takes;
        returns how many. Columns are as there. A Dataset is written by tasks where its
        blocks are, in no particular order: its ids should differ. If an error is raised
        some rows are in; a repeated ingest replaces them.

        progress: progress(rows so far, 0) after every batch; returning False stops.
        """
        from quashdb.ray import ingest

        check_count("batch_rows", min(batch_rows, 4096), 1)
        writer = ingest.Writer(
            self._writable_shards(), {"id": id, "vector": vector, "document": document}
        )
        if ingest.is_dataset(data):
            written = ingest.write_dataset(data, writer, batch_rows)
        else:
            written = (writer.write(table) for table in ingest.tables(data, id, batch_rows))
        done = 0
        for rows in written:
            done += rows
            if progress is not None and progress(done, 0) is False:
                break
        return done

    # ---- Reading

    def _read_all(self, method: str, *arguments: Any) -> list[Any]:
        if self.read_from not in ("primary", "any"):
            raise InvalidError(f"read_from is {self.read_from!r}, expected 'primary' or 'any'")
        while True:
            shards = self._open_shards()
            try:
                return shards.read_all(
                    self.replica_age_s, self.read_from == "any", method, *arguments
                )
            except Exception:
                # Resharded meanwhile: the answers have to be those of the new shards.
                if not shards.retired:
                    raise

    def count(self, where: Where | None = None) -> int:
        return sum(self._read_all("read", "count", {"where": where}))

    def get(
        self,
        ids: Ids | Id | None = None,
        where: Where | None = None,
        limit: int | None = None,
        include: str | Iterable[str] | None = _ROW_INCLUDE,
    ) -> list[quashdb.Row]:
        """As Collection.get(). Rows by filter come shard after shard."""
        arguments = {"ids": ids, "where": where, "limit": limit, "include": include}
        if ids is None:
            rows = [row for part in self._read_all("get", arguments) for row in part]
            return rows if limit is None else rows[:limit]
        listed: Any = [ids] if _convert.is_one_id(ids) else ids
        arguments["limit"] = None
        found = {row.id: row for part in self._read_all("get", arguments) for row in part}
        rows = [found[one] for one in listed if one in found]
        return rows if limit is None else rows[:limit]

    def query(
        self,
        vectors: npt.ArrayLike,
        k: int = 10,
        where: Where | None = None,
        **options: Any,
    ) -> list[Hits]:
        """The k best rows for each query, best first. options: of Collection.query(),
        min_score, include, exact, after, recall, nprobe and the widths among them. Each
        shard has lists of its own, so `nprobe` and `partition_rows` count for a shard."""
        found: list[Found] = self._read_all(
            "query", self._queries(vectors, "vectors"), k, {"where": where, **options}
        )
        return [merge(found, query, k) for query in range(len(found[0].ids))]

    def search(
        self, queries: npt.ArrayLike, k: int = 10, where: Where | None = None, **options: Any
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """As Collection.search()."""
        parts = self._read_all(
            "search", self._queries(queries, "queries"), k, {"where": where, **options}
        )
        ids = np.concatenate([part[0] for part in parts], axis=1)
        scores = np.concatenate([part[1] for part in parts], axis=1)
        missing = np.isnan(scores)
        keys = ids
        if self._manifest["expected"]["id_type"] == "string":
            keys = np.where(missing, "", ids).astype(str)  # missing ones are last by score
        order = np.lexsort((keys, np.where(missing, np.inf, -scores)), axis=-1)[:, :k]
        return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)

    def _queries(self, vectors: npt.ArrayLike, what: str) -> Any:
        dim = self._manifest["expected"]["dim"]
        check_connected()
        queries = _convert.float32(_convert.matrix(vectors, dim, what))
        # Small ones travel with the call; large ones once for all shards of a node.
        return queries if queries.nbytes <= _INLINE_BYTES else ray.put(queries)

    def measure(
        self,
        k: int = 10,
        *,
        target_recall: float | None = None,
        apply: bool = False,
        **options: Any,
    ) -> list[quashdb.Measurement]:
        """Collection.measure() of every shard, on its own rows. The best k of the whole
        are among the best k of the shards, so a recall that every shard reaches is that
        of the whole. With apply=True each shard keeps the widths it found; shards of a
        later reshard() are to be measured again.
        """
        if options.get("progress") is not None:
            raise UnsupportedError("progress is not supported over shards, expected None")
        arguments = {"k": k, "target_recall": target_recall, "apply": apply, **options}
        shards = self._open_shards()
        measured: list[quashdb.Measurement] = shards.ask_all(
            "read", lambda shard: [0.0, "measure", arguments]
        )
        return measured

    # ---- The whole

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[Shards]:
        """The shards, with no writes meanwhile: they raise BusyError."""
        if self._is_copy:
            raise quashdb.MisuseError("only the ShardedCollection that was opened moves its rows")
        if not self._moving.acquire(blocking=False):
            raise BusyError("the collection is being resharded or backed up; try again later")
        try:
            shards = self._open_shards()
            try:
                shards.ask_all("freeze", lambda shard: [True])
                yield shards
            finally:
                if not shards.retired:
                    self._to_thaw = shards
                    with contextlib.suppress(StorageError):  # one is gone: before the next write
                        self._thaw()
        finally:
            self._moving.release()

    def reshard(self, shards: int) -> None:
        """Spreads the rows over another number of shards. Reads go on from the old ones
        until all rows are in the new; writes raise BusyError meanwhile. Vectors are taken
        from the rerank tier, which has to be "f16" or "f32".

        Interrupted, the collection is as it was. Shards that die meanwhile are waited
        for. Needs the disk space of a second copy until it is done.
        """
        check_count("shards", shards, 1)
        expected = self._manifest["expected"]
        if expected["rerank"] not in ("f16", "f32"):
            raise UnsupportedError(
                f"resharding needs vectors: rerank is {expected['rerank']!r}, expected f16 or f32"
            )
        with self._frozen() as old:
            described = old.ask(0, "describe")
            options = {
                **expected,
                "partition_rows": described["partition_rows"],
                "fields": {field["name"]: field["type"] for field in described["fields"]},
            }
            # A number that no attempt before has used: what one left is never taken up.
            epoch = self._manifest["next_epoch"]
            self._manifest = {**self._manifest, "next_epoch": epoch + 1}
            write_manifest(self._root, self._manifest)
            new = self._start(epoch, shards)
            try:
                self._await_start(new)
                new.ask_all("make", lambda shard: [options])
                sent = sum(old.ask_all("send_to", lambda shard: [new, _MOVED_ROWS]))
                new.ask_all("call_database", lambda shard: ["checkpoint", {}])
                stored = sum(new.ask_all("read", lambda shard: [0.0, "count", {"where": None}]))
                if stored != sent:
                    raise CorruptError(f"{sent} rows were sent to new shards, which have {stored}")
                manifest = {**self._manifest, "shards": shards, "epoch": epoch}
                write_manifest(self._root, manifest)
            except BaseException:
                _discard(new)
                raise
            self._manifest, self._now = manifest, new
            old.retired = True
            self._start_replicas(new)
            _discard(old)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Writes a copy of all shards, of one moment, to the directory `path`, which must
        not exist and which every node sees; writes raise BusyError meanwhile."""
        target = pathlib.Path(path).absolute()
        if target.exists():
            raise ExistsError(f"{target} is there already")
        target.mkdir(parents=True)
        try:
            with self._frozen() as shards:
                shards.ask_all("backup", lambda shard: [str(directory(target, 0, shard))])
            write_manifest(target, {**self._manifest, "epoch": 0, "next_epoch": 1, "resources": []})
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise

    def compact(self) -> None:
        """Database.compact() of every shard: what upkeep has left to do, lists included."""
        self._open_shards().ask_all("call_database", lambda shard: ["compact", {}])

    def verify(self) -> list[dict[str, Any]]:
        """Database.verify() of every shard."""
        reports: list[dict[str, Any]] = self._open_shards().ask_all(
            "call_database", lambda shard: ["verify", {}]
        )
        return reports

    def __repr__(self) -> str:
        return f"<ShardedCollection {self.name!r}: {self.shards} shards at {self._root}>"


def _discard(shards: Shards) -> None:
    """Ends the actors and deletes their directories, each on its node."""
    for replica in (one for some in shards.replicas for one in some):
        with contextlib.suppress(Exception):
            ray.kill(replica)
    asked = [actor.discard.remote() for actor in shards.actors]
    with contextlib.suppress(Exception):
        ray.wait(asked, num_returns=len(asked), timeout=shards.timeout_s)
    shards.kill()


__all__ = ["Hits", "Resources", "ShardedCollection"]
