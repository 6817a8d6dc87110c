"""What the tests of quashdb.ray share: a cluster, a collection on it, and the same in one
database."""

import os
import pathlib

import numpy as np
import pytest
import quashdb

DIM, N = 16, 600
OPTIONS = {"fields": {"year": "int"}, "metric": "l2", "rerank": "f32", "partition_rows": None}


def environment():
    """For processes that import quashdb as this one does."""
    return {**os.environ, "PYTHONPATH": str(pathlib.Path(quashdb.__file__).parents[1])}


def add_node(cluster, disk):
    """A node, which Ray gives 30 s to start: too few where the machine is busy."""
    for attempt in range(3):
        try:
            return cluster.add_node(num_cpus=1, resources={disk: 10}, include_dashboard=False)
        except Exception as error:
            if attempt == 2 or "timed out during startup" not in str(error):
                raise
    raise AssertionError


@pytest.fixture(scope="session")
def cluster():
    """Three nodes' worth of processes."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # else workers starve beside other tests
    os.environ["PYTHONPATH"] = environment()["PYTHONPATH"]
    made = Cluster()
    for node in range(3):
        add_node(made, f"disk{node}")
    ray.init(address=made.address, logging_level="error", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return {
        "ids": np.arange(N) * 7,
        "vectors": rng.standard_normal((N, DIM)).astype(np.float32),
        "metadatas": [{"year": 2000 + i % 20} for i in range(N)],
        "documents": [f"row {i}" for i in range(N)],
    }


@pytest.fixture
def sharded(cluster, tmp_path, rows):
    """Three shards, one on each node."""
    import quashdb.ray

    disks = [{f"disk{node}": 1} for node in range(3)]
    made = quashdb.ray.create(
        tmp_path / "sharded", "docs", DIM, shards=3, resources=disks, **OPTIONS
    )
    made.add(**rows)
    yield made
    made.close()


@pytest.fixture
def single(rows):
    with quashdb.open() as db:
        collection = db.create_collection("docs", DIM, **OPTIONS)
        collection.add(**rows)
        yield collection


def same(sharded, single, queries, **options):
    found = sharded.query(queries, **options)
    expected = single.query(queries, **options)
    for hits, wanted in zip(found, expected, strict=True):
        assert [(h.id, h.score, h.metadata, h.document) for h in hits] == [
            (h.id, h.score, h.metadata, h.document) for h in wanted
        ]
