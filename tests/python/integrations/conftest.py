"""Needs langchain-core, langchain-tests, llama-index-core, pyarrow and pandas; each
test is skipped where its library is missing."""

import hashlib

import numpy as np
import pytest

DIM = 16


def embed(texts):
    """[n, DIM] unit vectors that depend on the text alone; equal texts are nearest."""
    rows = []
    for text in texts:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        row = np.random.default_rng(seed).standard_normal(DIM)
        rows.append(row / np.linalg.norm(row))
    return np.asarray(rows, np.float32)


@pytest.fixture(name="embed")
def embed_fixture():
    return embed
