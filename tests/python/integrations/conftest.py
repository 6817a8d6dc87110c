"""Each test is skipped where the library that it needs is missing; ../run.py has their list."""

import hashlib
import os
import pathlib
import sys

import numpy as np
import pytest

# As ../conftest.py, which pytest leaves out if it is given this folder alone.
if "QUASHDB_LIBRARY" in os.environ:
    sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "bindings" / "python"))

from sharding import cluster, rows, sharded, single  # noqa: E402, F401

DIM = 16


def embed(texts):
    """[n, DIM] unit vectors that depend on the text alone; equal texts are nearest."""
    vectors = []
    for text in texts:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(DIM)
        vectors.append(vector / np.linalg.norm(vector))
    return np.asarray(vectors, np.float32)


@pytest.fixture(name="embed")
def embed_fixture():
    return embed
