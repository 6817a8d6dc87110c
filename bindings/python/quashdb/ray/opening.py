"""Sharded collections made, opened and restored."""

from __future__ import annotations

import os
import pathlib
import socket
from typing import Any

import ray

from quashdb.errors import ExistsError, InvalidError, StorageError
from quashdb.ray.calls import Shards
from quashdb.ray.collection import Resources, ShardedCollection
from quashdb.ray.files import (
    FORMAT,
    MANIFEST,
    check_count,
    check_resources,
    directory,
    read_manifest,
)


def connect(address: str | None = None, *, timeout_s: float = 10.0, **options: Any) -> None:
    """ray.init(), which would take half a minute to say that a cluster does not answer.

    address: "host:port" or "ray://host:port"; None: RAY_ADDRESS, a cluster that runs
        here, or a new one on this machine.
    options: of ray.init().

    StorageError if nothing answers within `timeout_s` or Ray cannot be started.
    """
    given = address or os.environ.get("RAY_ADDRESS")
    place = (given or "").removeprefix("ray://")
    if place and place not in ("auto", "local"):
        host, _, port = place.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidError(f"address is {given!r}, expected host:port")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
        except (OSError, OverflowError) as error:
            raise StorageError(f"no Ray cluster answers at {given}: {error}") from error
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StorageError(f"Ray could not be started or reached: {error}") from error


def create(
    root: str | os.PathLike[str],
    name: str,
    dim: int,
    *,
    shards: int,
    replicas: int = 0,
    resources: Resources | None = None,
    timeout_s: float = 60.0,
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
    timeout_s: how long calls wait for a shard that starts or starts again; beyond it
        they raise StorageError.
    options: of Database.create_collection().

    Raises ExistsError if `root` has a sharded collection or a shard's database; if
    anything fails, nothing stays behind.
    """
    path = pathlib.Path(root)
    manifest = _new_manifest(path, name, shards, replicas, resources)
    made = ShardedCollection(path, manifest, timeout_s)

    def fill(of: Shards) -> None:
        of.ask_all("make", lambda shard: [{"dim": dim, **options}])

    made._fill(fill)
    return made


def open(
    root: str | os.PathLike[str], *, replicas: int | None = None, timeout_s: float = 60.0
) -> ShardedCollection:
    """The collection under `root`. Shards whose configuration differs raise
    InvalidError, missing ones NotFoundError.

    replicas: None: as created.
    timeout_s: as for create().
    """
    path = pathlib.Path(root)
    manifest = read_manifest(path)
    if replicas is not None:
        check_count("replicas", replicas, 0)
        manifest["replicas"] = replicas
    opened = ShardedCollection(path, manifest, timeout_s)
    opened._open()
    return opened


def restore(
    backup: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    shards: int | None = None,
    replicas: int = 0,
    resources: Resources | None = None,
    timeout_s: float = 60.0,
) -> ShardedCollection:
    """Copies a backup() to `root`, over another number of shards if `shards` says so.
    Every node that takes part must see the backup; `root` is as for create().
    """
    source, path = pathlib.Path(backup).absolute(), pathlib.Path(root)
    manifest = read_manifest(source)
    if shards is not None:
        check_count("shards", shards, 1)
    made = ShardedCollection(
        path,
        _new_manifest(path, manifest["name"], manifest["shards"], replicas, resources)
        | {"expected": manifest["expected"]},
        timeout_s,
    )

    def fill(of: Shards) -> None:
        of.ask_all("restore", lambda shard: [str(directory(source, 0, shard))])

    made._fill(fill)
    if shards is not None and shards != manifest["shards"]:
        try:
            made.reshard(shards)
        except BaseException:
            made.close()
            raise
    return made


def _new_manifest(
    root: pathlib.Path, name: str, shards: int, replicas: int, resources: Resources | None
) -> dict[str, Any]:
    if (root / MANIFEST).exists():
        raise ExistsError(f"{root} has a sharded collection")
    check_count("shards", shards, 1)
    check_count("replicas", replicas, 0)
    return {
        "format": FORMAT,
        "name": name,
        "shards": shards,
        "epoch": 0,
        "next_epoch": 1,
        "replicas": replicas,
        "resources": check_resources(resources),
        "expected": {},
    }
