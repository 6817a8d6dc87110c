"""Partitioned collections: recall targets, lists, statistics, measuring."""

import numpy as np
import pytest

import quashdb

ROWS, DIM, K = 5000, 24, 10


def clustered(n, seed):
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((60, DIM))
    return (
        centers[random.integers(60, size=n)] + 0.4 * random.standard_normal((n, DIM))
    ).astype(np.float32)


@pytest.fixture(name="points", scope="module")
def make_points():
    with quashdb.open() as db:
        points = db.create_collection(
            "points", DIM, rerank="f32", fields={"part": int}, partition_rows=1000
        )
        points.add(
            range(ROWS), clustered(ROWS, 1), [{"part": n % 4} for n in range(ROWS)]
        )
        db.compact()
        yield points


def recall(points, **options):
    queries = clustered(50, 2)
    exact, _ = points.search(queries, K, options.get("where"), exact=True)
    found, _ = points.search(queries, K, **options)
    return np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(exact, found, strict=True)])


def test_statistics(points):
    stats = points.stats()
    assert stats.lists > 1 and stats.indexed_rows == ROWS and stats.list_bytes > 0
    assert points.describe()["partition_rows"] == 1000


def test_recall_and_nprobe(points):
    assert recall(points) >= 0.94
    assert recall(points, recall=0.8) >= 0.75
    assert recall(points, recall=1) >= 0.99
    assert recall(points, nprobe=2**32 - 1) >= 0.99
    assert recall(points, nprobe=1) < recall(points, nprobe=20)
    assert recall(points, where={"part": 3}) >= 0.9
    query = clustered(1, 3)
    few = points.explain(query, recall=0.7)
    assert few["mode"] == "partitions" and few["recall_target"] == 0.7
    assert 1 <= few["nprobe"] <= points.explain(query, recall=0.99)["nprobe"] < few["lists"]
    assert few["indexed_rows"] == ROWS and 0.6 <= few["recall_at_nprobe"] <= 1
    assert points.explain(query, nprobe=3)["nprobe"] == 3
    assert points.explain(query, recall=1)["mode"] == "staged"
    with points.prepare(recall=0.7) as prepared:
        prepared.run(query)
        assert prepared.explain()["nprobe"] == few["nprobe"]


def test_measure(points):
    found = points.measure(K, sample=60, target_recall=0.8, apply=True)
    assert found.recall >= 0.8 and 1 <= found.nprobe < points.stats().lists
    explained = points.explain(clustered(1, 3))
    assert explained["nprobe"] == found.nprobe and explained["recall_target"] < 0.99
    every = points.measure(K, sample=60, target_recall=1)
    assert every.recall == 1


def test_never():
    with quashdb.open() as db:
        points = db.create_collection("points", DIM, partition_rows=None)
        points.add(None, clustered(3000, 1))
        db.compact()
        assert points.stats().lists == 0 and points.describe()["partition_rows"] is None
        assert points.explain(clustered(1, 3))["mode"] == "staged"
        again = db.get_or_create_collection("points", DIM)
        assert len(again) == 3000
        with pytest.raises(quashdb.ExistsError, match="partition_rows"):
            db.get_or_create_collection("points", DIM, partition_rows=5000)
