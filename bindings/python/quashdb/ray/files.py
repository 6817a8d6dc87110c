"""Where a sharded collection lies: shards.json and a directory for every shard."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from quashdb.errors import CorruptError, InvalidError, NotFoundError

MANIFEST = "shards.json"
FORMAT = 1


def directory(root: pathlib.Path, epoch: int, shard: int) -> pathlib.Path:
    return root / f"epoch-{epoch}" / f"shard-{shard:04d}"


def check_count(what: str, value: object, least: int) -> None:
    if not isinstance(value, int) or not least <= value <= 4096:
        raise InvalidError(f"{what} is {value!r}, expected {least} to 4,096")


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
