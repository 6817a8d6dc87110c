"""Runs against the package in the tree and the library that QUASHDB_LIBRARY
names, or against an installed package where it is unset."""

import os
import pathlib
import sys

if "QUASHDB_LIBRARY" in os.environ:
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bindings" / "python"))

import hypothesis
import numpy as np
import pytest

import quashdb

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")

DIM = 8
FIELDS = {
    "lang": "string",
    "year": int,
    "price": float,
    "is_new": "bool",
    "tags": list[str],
    "codes": list[int],
}


def random_vectors(n, dim=DIM, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.fixture
def db():
    with quashdb.open() as database:
        yield database


@pytest.fixture
def points(db):
    """100 rows under ids 0..99, float32 rerank, L2, every kind of field."""
    collection = db.create_collection("points", DIM, "l2", rerank="f32", fields=FIELDS)
    metadatas = [
        {
            "lang": "en" if row % 2 else "de",
            "year": 1950 + row,
            "price": row / 4,
            "is_new": row > 50,
            "tags": [f"t{row % 3}", "all"],
            "codes": [row, -row],
        }
        for row in range(100)
    ]
    metadatas[7] = None
    documents = [None if row % 10 == 0 else f"Zeile {row} ü" for row in range(100)]
    collection.add(np.arange(100), random_vectors(100), metadatas, documents)
    return collection


@pytest.fixture
def words(db):
    """Three rows with string ids, cosine."""
    collection = db.create_collection("words", DIM, id_type="string")
    collection.add(["a", "b", "ü"], random_vectors(3))
    return collection
