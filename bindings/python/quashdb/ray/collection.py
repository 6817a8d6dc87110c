"""A collection over many shards."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import ray.exceptions

import quashdb
from quashdb import _convert
from quashdb._types import Id, Ids, Progress, Where
from quashdb.errors import (
    CorruptError,
    ExistsError,
    InvalidError,
    UnsupportedError,
)
from quashdb.ray.calls import Shards, result
from quashdb.ray.files import (
    FORMAT,
    MANIFEST,
    check_count,
    directory,
    read_manifest,
    write_manifest,
)
from quashdb.ray.shard import Found, RemoteShard, shard_of

_OPTIONS = ("dim", "metric", "id_type", "bits", "rerank", "rotation", "seed")
_INGEST_ROWS = 8192
_MOVED_ROWS = 2048
_ROW_INCLUDE = ("metadatas", "documents")

Resources = Sequence[Mapping[str, float]]


def create(
    root: str | os.PathLike[str],
    name: str,
    dim: int,
    *,
    shards: int,
    replicas: int = 0,
    resources: Resources | None = None,
    **options: Any,
) -> ShardedCollection:
    """Makes a collection of `shards` shards under the directory `root`, which must not
    have one yet.

    root: holds shards.json here, and a directory for every shard on the node of its
        actor: local disks, or one shared file system.
    replicas: actors of each shard that only read, on the same node and directory.
    resources: custom Ray resources of each shard's actors, in turn, which decide the
        node ([{"node:10.0.0.1": 0.001}, {"node:10.0.0.2": 0.001}]). None: any node,
        which needs a shared file system if there are several.
    options: of Database.create_collection().
    """
    path = pathlib.Path(root)
    if (path / MANIFEST).exists():
        raise ExistsError(f"{path} has a sharded collection")
    check_count("shards", shards, 1)
    check_count("replicas", replicas, 0)
    path.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": FORMAT,
        "name": name,
        "shards": shards,
        "epoch": 0,
        "replicas": replicas,
        "resources": [dict(one) for one in resources or []],
        "expected": {},
    }
    made = ShardedCollection(path, manifest, {"dim": dim, **options})
    described = made._ask(0, "describe")
    manifest["expected"] = {option: described[option] for option in _OPTIONS}
    write_manifest(path, manifest)
    return made


def open(root: str | os.PathLike[str], *, replicas: int | None = None) -> ShardedCollection:
    """The collection under `root`. Shards whose configuration differs raise
    InvalidError, missing ones NotFoundError.

    replicas: None: as created.
    """
    path = pathlib.Path(root)
    manifest = read_manifest(path)
    if replicas is not None:
        check_count("replicas", replicas, 0)
        manifest["replicas"] = replicas
    return ShardedCollection(path, manifest, None)


def restore(
    backup: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    shards: int | None = None,
    replicas: int = 0,
    resources: Resources | None = None,
) -> ShardedCollection:
    """Copies a backup() to `root`, over another number of shards if `shards` says so.
    Both must be visible to every node that takes part."""
    source, path = pathlib.Path(backup), pathlib.Path(root)
    manifest = read_manifest(source)
    if (path / MANIFEST).exists():
        raise ExistsError(f"{path} has a sharded collection")
    for shard in range(manifest["shards"]):
        target = directory(path, 0, shard)
        target.mkdir(parents=True, exist_ok=True)
        quashdb.restore(directory(source, 0, shard) / "database", target / "database")
    given = [dict(one) for one in resources or []]
    manifest |= {"epoch": 0, "replicas": replicas, "resources": given}
    write_manifest(path, manifest)
    made = ShardedCollection(path, manifest, None)
    if shards is not None and shards != manifest["shards"]:
        made.reshard(shards)
    return made


class ShardedCollection(Shards):
    """Rows in shards by a hash of their ids, each shard a database that an actor holds.

    Made by create(), open() and restore(). Every call fans out and merges: results are
    those of one collection that holds everything, best first, ties by ascending id. A
    batch is atomic in each shard, not over all of them. Rows need ids.

    A shard whose process dies is started again on its directory, with everything that
    was acknowledged. Meanwhile its replicas answer; without any, and for writes, calls
    wait up to `timeout_s`. One ShardedCollection holds its shards: a second one raises
    BusyError. close() or the context manager ends the actors.
    """

    def __init__(
        self, root: pathlib.Path, manifest: dict[str, Any], create: dict[str, Any] | None
    ) -> None:
        if not ray.is_initialized():
            raise InvalidError("Ray is not connected: call ray.init() first")
        self._root = root
        self._manifest = manifest
        self._replicas: list[list[Any]] = []
        self._shards = self._start(create)
        try:
            for shard in range(len(self._shards)):
                self._ask(shard, "ping")
            self._start_replicas()
        except BaseException:
            self.close()
            raise

    def _actor(self, epoch: int, shard: int, **arguments: Any) -> Any:
        resources = self._manifest["resources"]
        chosen = resources[shard % len(resources)] if resources else {}
        actor = RemoteShard.options(
            num_cpus=0, max_restarts=-1, max_concurrency=8, resources=chosen
        )
        return actor.remote(
            directory=str(directory(self._root, epoch, shard)),
            name=self._manifest["name"],
            **{"create": None, "expected": self._manifest["expected"], **arguments},
        )

    def _start(self, create: dict[str, Any] | None) -> list[Any]:
        count, epoch = self._manifest["shards"], self._manifest["epoch"]
        return [self._actor(epoch, shard, create=create) for shard in range(count)]

    def _start_replicas(self) -> None:
        epoch = self._manifest["epoch"]
        self._replicas = [
            [self._actor(epoch, shard, is_replica=True) for _ in range(self._manifest["replicas"])]
            for shard in range(len(self._shards))
        ]
        for of_shard in self._replicas:
            for replica in of_shard:
                result(replica.ping.remote())

    # ---- About it

    @property
    def name(self) -> str:
        name: str = self._manifest["name"]
        return name

    @property
    def shards(self) -> int:
        return len(self._shards)

    def describe(self) -> dict[str, Any]:
        """As Collection.describe(), with "shards" and "replicas"."""
        described = self._ask(0, "describe")
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
        return [self._ask(shard, "ping") for shard in range(self.shards)]

    def close(self) -> None:
        """Makes every write durable and ends the actors."""
        for actor in self._shards:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(actor.close.remote())
        for actor in [*self._shards, *(one for some in self._replicas for one in some)]:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)
        self._shards, self._replicas = [], []

    def __enter__(self) -> ShardedCollection:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.count()

    # ---- Writing

    def _divide(
        self, ids: Any, vectors: Any, metadatas: Any, documents: Any
    ) -> dict[int, dict[str, Any]]:
        if ids is None:
            raise InvalidError("ids is missing: rows of a sharded collection need ids")
        listed = [ids] if _convert.is_one_id(ids) else ids
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
        owners = shard_of(listed, self.shards)
        parts: dict[int, dict[str, Any]] = {}
        for owner in np.unique(owners):
            rows = np.flatnonzero(owners == owner)
            parts[int(owner)] = {
                "ids": [listed[row] for row in rows],
                "vectors": matrix[rows],
                **{
                    what: None if column is None else [column[row] for row in rows]
                    for what, column in entries.items()
                    if what != "vectors"
                },
            }
        return parts

    def add(
        self,
        ids: Ids | Id,
        vectors: npt.ArrayLike,
        metadatas: Any = None,
        documents: Any = None,
    ) -> None:
        """As Collection.add(). ExistsError before anything is written if an id is stored."""
        parts = self._divide(ids, vectors, metadatas, documents)

        def stored(shard: int) -> npt.NDArray[np.bool_]:
            found: npt.NDArray[np.bool_] = self._ask(
                shard, "read", 0.0, "contains", {"ids": parts[shard]["ids"]}
            )
            return found

        for shard, part in parts.items():
            found = np.flatnonzero(stored(shard))
            if len(found):
                raise ExistsError(f"id {part['ids'][found[0]]!r} is stored already")
        self._write_all(
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
        parts = self._divide(ids, vectors, metadatas, documents)
        self._write_all({shard: ("write", "upsert", part) for shard, part in parts.items()})

    def delete(self, ids: Ids | Id | None = None, where: Where | None = None) -> int:
        """As Collection.delete(); the number is too low if a shard died meanwhile."""
        if ids is None or where is not None:
            arguments = {"ids": ids, "where": where}
            parts = {s: ("write", "delete", arguments) for s in range(self.shards)}
        else:
            listed: Any = [ids] if _convert.is_one_id(ids) else ids
            owners = shard_of(listed, self.shards)
            parts = {
                int(owner): (
                    "write",
                    "delete",
                    {"ids": [listed[row] for row in np.flatnonzero(owners == owner)]},
                )
                for owner in np.unique(owners)
            }
        return sum(self._write_all(parts))

    def add_field(self, name: str, type: Any) -> None:
        """As Collection.add_field()."""
        arguments = {"name": name, "type": type}
        self._write_all({s: ("write", "add_field", arguments) for s in range(self.shards)})

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
        returns how many. Columns are as there. A repeated ingest changes nothing.

        progress: progress(rows so far, 0) after every batch; returning False stops.
        """
        done = 0
        columns = {"id": id, "vector": vector, "document": document}
        for table in _tables(data, batch_rows):
            if id not in table.column_names:
                raise InvalidError(f"data has no column {id!r}, and sharded rows need ids")
            ids = table.column(id).to_pylist()
            if None in ids:
                raise InvalidError(f"column {id!r} has nulls, expected ids")
            owners = shard_of(ids, self.shards)
            parts = {
                int(owner): (
                    "add_table",
                    table.take(np.flatnonzero(owners == owner)),
                    columns,
                    True,
                )
                for owner in np.unique(owners)
            }
            self._write_all(parts)
            done += len(table)
            if progress is not None and progress(done, 0) is False:
                break
        return done

    # ---- Reading

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
        found = {row.id: row for part in self._read_all("get", arguments) for row in part}
        rows = [found[one] for one in listed if one in found]
        return rows if limit is None else rows[:limit]

    def query(
        self,
        vectors: npt.ArrayLike,
        k: int = 10,
        where: Where | None = None,
        **options: Any,
    ) -> list[list[quashdb.Hit]]:
        """The k best rows for each query, best first. options: of Collection.query(),
        min_score, include, exact, after and the widths among them."""
        dim = self._manifest["expected"]["dim"]
        queries = _convert.float32(_convert.matrix(vectors, dim, "vectors"))
        found: list[Found] = self._read_all(
            "query", ray.put(queries), k, {"where": where, **options}
        )
        return [self._merge(found, query, k) for query in range(len(queries))]

    def search(
        self, queries: npt.ArrayLike, k: int = 10, where: Where | None = None, **options: Any
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """As Collection.search()."""
        found = self.query(queries, k, where, include=None, **options)
        is_int = self._manifest["expected"]["id_type"] == "int64"
        ids = np.full((len(found), k), -1 if is_int else None, np.int64 if is_int else object)
        scores = np.full((len(found), k), np.nan, np.float32)
        for query, hits in enumerate(found):
            for place, hit in enumerate(hits):
                ids[query, place], scores[query, place] = hit.id, hit.score
        return ids, scores

    def _merge(self, found: list[Found], query: int, k: int) -> list[quashdb.Hit]:
        metric = self._manifest["expected"]["metric"]
        order = sorted(
            (
                (-float(score), id_, shard, place)
                for shard, part in enumerate(found)
                for place, (id_, score) in enumerate(
                    zip(part.ids[query], part.scores[query], strict=True)
                )
            ),
        )[:k]
        hits = []
        for negative, id_, shard, place in order:
            part = found[shard]
            hits.append(
                quashdb.Hit(
                    id_,
                    -negative,
                    1 + negative if metric == "cosine" else negative,
                    None if part.metadatas is None else part.metadatas[query][place],
                    None if part.documents is None else part.documents[query][place],
                    None if part.vectors is None else part.vectors[query][place],
                )
            )
        return hits

    # ---- The whole

    @contextlib.contextmanager
    def _frozen(self) -> Iterator[None]:
        """No writes meanwhile: they raise BusyError."""
        for shard in range(self.shards):
            self._ask(shard, "freeze", True)
        try:
            yield
        finally:
            for shard in range(self.shards):
                self._ask(shard, "freeze", False)

    def reshard(self, shards: int) -> None:
        """Spreads the rows over another number of shards. Reads go on from the old ones
        until all rows are in the new; writes raise BusyError meanwhile. Vectors are taken
        from the rerank tier, which has to be "f16" or "f32".

        Interrupted, the collection is as it was.
        """
        check_count("shards", shards, 1)
        expected = self._manifest["expected"]
        if expected["rerank"] not in ("f16", "f32"):
            raise UnsupportedError(
                f"resharding needs vectors: rerank is {expected['rerank']!r}, expected f16 or f32"
            )
        fields = {f["name"]: f["type"] for f in self._ask(0, "describe")["fields"]}
        epoch = self._manifest["epoch"] + 1
        options = {**expected, "fields": fields}
        for stale in self._root.glob(f"epoch-{epoch}"):  # of an attempt that was interrupted
            shutil.rmtree(stale)
        new = [self._actor(epoch, shard, create=options) for shard in range(shards)]
        old, old_replicas = self._shards, self._replicas
        try:
            with self._frozen():
                sent = sum(
                    result(one) for one in [actor.send_to.remote(new, _MOVED_ROWS) for actor in old]
                )
                for actor in new:
                    result(actor.call_database.remote("checkpoint", {}))
                stored = sum(result(a.read.remote(0.0, "count", {"where": None})) for a in new)
                if stored != sent:
                    raise CorruptError(f"{sent} rows were sent to new shards, which have {stored}")
                manifest = {**self._manifest, "shards": shards, "epoch": epoch}
                write_manifest(self._root, manifest)
                self._manifest, self._shards = manifest, new  # the old stay frozen
        except BaseException:
            for actor in new:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.kill(actor)
            raise
        self._start_replicas()
        for actor in [*old, *(one for some in old_replicas for one in some)]:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(actor)
        shutil.rmtree(self._root / f"epoch-{epoch - 1}", ignore_errors=True)

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Writes a copy of all shards, of one moment, to the directory `path`, which must
        not exist and which every node sees; writes raise BusyError meanwhile."""
        target = pathlib.Path(path)
        if target.exists():
            raise ExistsError(f"{target} is there already")
        target.mkdir(parents=True)
        with self._frozen():
            asked = []
            for shard, actor in enumerate(self._shards):
                own = directory(target, 0, shard)
                own.mkdir(parents=True)
                arguments = {"path": str(own / "database")}
                asked.append(actor.call_database.remote("backup", arguments))
            for one in asked:
                result(one)
        write_manifest(target, {**self._manifest, "epoch": 0, "resources": []})

    def verify(self) -> list[dict[str, Any]]:
        """Database.verify() of every shard."""
        return [self._ask(s, "call_database", "verify", {}) for s in range(self.shards)]

    def __repr__(self) -> str:
        return f"<ShardedCollection {self.name!r}: {self.shards} shards at {self._root}>"


def _tables(data: Any, rows: int) -> Iterator[Any]:
    """pyarrow Tables of at most `rows` rows."""
    import pyarrow as pa

    if hasattr(data, "iter_batches") and hasattr(data, "materialize"):  # a Ray Dataset
        yield from data.iter_batches(batch_size=rows, batch_format="pyarrow")
        return
    from quashdb.arrow import _reader

    for batch in _reader(data):
        for begin in range(0, len(batch), rows):
            yield pa.Table.from_batches([batch.slice(begin, rows)])


__all__ = ["ShardedCollection", "create", "open", "restore"]
