"""Where a sharded collection lies: shards.json and a directory for every shard."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from quashdb.errors import CorruptError, InvalidError, NotFoundError

MANIFEST = "shards.json"
DATABASE = "database"  # within a shard's directory
FROZEN = "frozen"  # a file there: no writes, a resharding or backup is under way
FORMAT = 1
_KEYS = {
    "name": str,
    "shards": int,
    "epoch": int,
    "next_epoch": int,
    "replicas": int,
    "resources": list,
    "expected": dict,
}


def directory(root: pathlib.Path, epoch: int, shard: int) -> pathlib.Path:
    return root / f"epoch-{epoch}" / f"shard-{shard:04d}"


def check_count(what: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 4096:
        raise InvalidError(f"{what} is {value!r}, expected {least} to 4,096")


def check_resources(resources: object) -> list[dict[str, float]]:
    try:
        checked = [{str(k): float(v) for k, v in one.items()} for one in resources or []]  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        raise InvalidError(
            f"resources is {resources!r}, expected dicts of Ray resources such as "
            '[{"node:10.0.0.1": 0.001}]'
        ) from None
    return checked


def read_manifest(root: pathlib.Path) -> dict[str, Any]:
    path = root / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise NotFoundError(f"{root} has no {MANIFEST}: no sharded collection") from None
    except (ValueError, OSError) as error:
        raise CorruptError(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorruptError(f"{path} is no description of shards of format {FORMAT}")
    for key, type_ in _KEYS.items():
        if not isinstance(manifest.get(key), type_):
            raise CorruptError(f"{path} has {key} {manifest.get(key)!r}, expected {type_.__name__}")
    check_count(f"{path}: shards", manifest["shards"], 1)
    check_count(f"{path}: replicas", manifest["replicas"], 0)
    return manifest


def write_manifest(root: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Replaces it as one step that survives a power cut."""
    temporary = root / f"{MANIFEST}.new"
    with temporary.open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(root / MANIFEST)
    folder = os.open(root, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
