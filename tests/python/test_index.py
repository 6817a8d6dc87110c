"""QuashIndex, the in-memory index with the predecessor's interface."""

import numpy as np
import pytest
from conftest import random_vectors

from quashdb import QuashIndex


def test_search():
    vectors, queries = random_vectors(2000, 64), random_vectors(5, 64, seed=1)
    index = QuashIndex(64, bits=4)
    index.add(vectors[:1500])
    index.add(vectors[1500:])
    assert len(index) == 2000
    scores, indices = index.search(queries, k=10)
    assert scores.shape == indices.shape == (5, 10)
    assert scores.dtype == np.float32 and indices.dtype == np.int64
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(
        scores, np.take_along_axis(queries @ vectors.T, indices, axis=1), atol=2.5
    )
    scores, indices = index.search(queries[0], 3)
    assert scores.shape == indices.shape == (3,)


@pytest.mark.parametrize(("bits", "least"), [(2, 0.5), (3, 0.7), (4, 0.8)])
def test_recall_and_memory(bits, least):
    vectors, queries = random_vectors(3000, 128), random_vectors(50, 128, seed=1)
    index = QuashIndex(128, bits=bits)
    index.add(vectors)
    assert least < index.recall_at_k(queries, vectors, k=10) <= 1
    assert 3000 * 128 * bits // 8 <= index.memory_bytes <= 3000 * (128 * bits // 8 + 8) * 1.1
    assert index.compression_ratio == pytest.approx(3000 * 128 * 4 / index.memory_bytes)
    reranked = QuashIndex(128, bits=bits, rerank="f16")
    reranked.add(vectors)
    assert reranked.recall_at_k(queries, vectors, k=10) > 0.95


def test_brute_force():
    scores, indices = QuashIndex.brute_force([[1, 0]], [[1, 5], [3, 0], [2, 9], [3, 1]], 3)
    assert indices.tolist() == [[1, 3, 2]] and scores.tolist() == [[3, 3, 2]]


def test_k_is_clamped_and_reset_empties():
    index = QuashIndex(4)
    index.add(np.eye(4))
    assert index.search(np.eye(4), 100)[1].shape == (4, 4)
    index.reset()
    assert len(index) == 0 and index.compression_ratio == 0 and index
    index.add(np.eye(4)[0])
    assert index.search(np.eye(4)[0], 1)[1].tolist() == [0]


def test_refuses():
    with pytest.raises(ValueError, match="empty"):
        QuashIndex(4).search(np.eye(4))
    for arguments in ({"dim": 0}, {"dim": 4, "bits": 0}, {"dim": 4, "bits": 5},
                      {"dim": 4, "device": "cuda"}, {"dim": 4, "metric": "x"}):  # fmt: skip
        with pytest.raises(ValueError):
            QuashIndex(**arguments)
    index = QuashIndex(4, device="cpu", pack_storage=False)
    for vectors in (np.eye(3), [[np.nan] * 4]):
        with pytest.raises(ValueError):
            index.add(vectors)
    assert len(index) == 0
    index.add(np.eye(4))
    with pytest.raises(ValueError):
        index.search(np.eye(4), 0)
    with pytest.raises(ValueError):
        index.search(np.eye(3), 1)
