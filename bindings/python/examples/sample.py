"""What the examples share: the packages of datasets/sample, and an embedding function that
needs no model."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import quashdb

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "datasets" / "sample"
FIELDS: dict[str, Any] = {"section": str, "size_kb": int, "tags": list[str], "synopsis": str}


def packages(name: str = "packages.jsonl") -> list[dict[str, Any]]:
    """Rows of Debian packages: name, section, size_kb, tags, synopsis, text."""
    try:
        lines = (FOLDER / name).read_text().splitlines()
    except OSError as error:
        sys.exit(f"Error: the examples need datasets/sample of the source tree: {error}")
    return [json.loads(line) for line in lines]


def vectors(name: str = "vectors.npy") -> np.ndarray:
    """[n, 384] MiniLM embeddings of the same rows."""
    return np.load(FOLDER / name)


def open_packages(database: quashdb.Database, collection: str = "packages") -> quashdb.Collection:
    """The collection of the 5,000 packages, filled if it is not there yet."""
    if collection in database:
        return database[collection]
    rows = packages()
    made = database.create_collection(collection, 384, id_type="string", fields=FIELDS)
    made.add(
        [row["name"] for row in rows],
        vectors(),
        [{field: row[field] for field in FIELDS} for row in rows],
        [row["text"] for row in rows],
    )
    return made


class HashingEmbedder:
    """Texts as unit vectors of hashed words and of their beginnings: texts that share words
    are near each other. It stands where a model's embedding function would; it knows no
    synonyms.
    """

    def __init__(self, dim: int = 256) -> None:
        self.dim = dim

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, dim]"""
        made = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                if word not in _COMMON:
                    self._put(made[row], word, 1.0)
                    self._put(made[row], f"{word[:5]}*", 0.7)  # singular and plural
            if not made[row].any():
                made[row, 0] = 1.0
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def _put(self, vector: np.ndarray, feature: str, weight: float) -> None:
        digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
        vector[digest % self.dim] += weight if digest >> 63 else -weight


_COMMON = frozenset(
    "a about am an and are as at be but by can do does for from have how i in is it me my of on or "
    "that the this to was we what when where which who will with you your".split()
)
