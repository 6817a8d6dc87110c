"""Shards on a local Ray cluster of three nodes' worth of processes."""

import os
import pathlib
import shutil
import signal
import threading
import time

import numpy as np
import pytest

ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")

import quashdb  # noqa: E402
import quashdb.ray  # noqa: E402

DIM, N = 16, 600


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(pathlib.Path(quashdb.__file__).parents[1])
    made = Cluster()
    for node in range(3):
        made.add_node(num_cpus=1, resources={f"disk{node}": 10}, include_dashboard=False)
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


OPTIONS = {"fields": {"year": "int"}, "metric": "l2", "rerank": "f32"}


@pytest.fixture
def sharded(cluster, tmp_path, rows):
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


def test_the_same_as_one_database(sharded, single, rows):
    queries = np.random.default_rng(1).standard_normal((20, DIM)).astype(np.float32)
    same(sharded, single, queries)
    same(sharded, single, queries, k=25, where="year < 2003", exact=True)
    same(sharded, single, queries, k=100, where={"year": 2004})
    same(sharded, single, queries, min_score=-20.0, k=50, exact=True)
    page = single.query(queries[0], k=10)[0]
    same(sharded, single, queries[:1], k=10, after=page.cursor)
    ids, scores = sharded.search(queries, 5)
    expected = single.search(queries, 5)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    assert sharded.query(queries[0], k=1)[0][0].distance == pytest.approx(
        single.query(queries[0], k=1)[0][0].distance
    )


def test_ties_go_by_id(sharded, single, rows):
    for one in (sharded, single):
        one.upsert(np.arange(50) + 100000, np.ones((50, DIM), np.float32))
    same(sharded, single, np.ones((1, DIM), np.float32), k=30)


def test_rows_are_spread_and_found(sharded, rows):
    assert [one["rows"] > N / 6 for one in sharded.stats()] == [True] * 3
    assert len(sharded) == N and sharded.count("year = 2003") == N / 20
    found = sharded.get([14, 999999, 7])
    assert [row.id for row in found] == [14, 7] and found[0].document == "row 2"
    assert len(sharded.get(where="year = 2003", limit=5)) == 5
    assert sharded.delete([7, 14, 999999]) == 2 and sharded.delete(where="year = 2003") == N / 20
    assert len(sharded) == N - 2 - N / 20
    assert sharded.describe()["shards"] == 3 and all(one["ok"] for one in sharded.verify())


def test_shards_are_ordinary_databases(sharded, tmp_path):
    sharded.close()
    with quashdb.open(tmp_path / "sharded" / "epoch-0" / "shard-0001" / "database") as db:
        assert 0 < len(db["docs"]) < N
    with quashdb.ray.open(tmp_path / "sharded") as again:
        assert len(again) == N


def test_killed_while_writing_and_searching(sharded, rows):
    stop = threading.Event()
    acknowledged, problems = [], []

    def write():
        rng = np.random.default_rng(5)
        batch = 0
        while not stop.is_set():
            ids = 10**6 + np.arange(batch * 50, batch * 50 + 50)
            try:
                sharded.add(ids, rng.standard_normal((50, DIM)).astype(np.float32))
                acknowledged.extend(ids.tolist())
            except Exception as error:
                problems.append(error)
                return
            batch += 1

    def search():
        queries = rows["vectors"][:4]
        while not stop.is_set():
            try:
                assert [hits[0].score for hits in sharded.query(queries, 1)] == [0] * 4
            except Exception as error:
                problems.append(error)
                return

    threads = [threading.Thread(target=write), threading.Thread(target=search)]
    for thread in threads:
        thread.start()
    for shard in (0, 1, 2, 1):
        time.sleep(0.7)
        os.kill(sharded.processes()[shard], signal.SIGKILL)
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems, problems
    assert len(acknowledged) > 100
    assert len(sharded.get(acknowledged, include=None)) == len(acknowledged)
    assert len(sharded) == N + len(acknowledged)


def test_replicas_answer_meanwhile(cluster, tmp_path, rows):
    with quashdb.ray.create(
        tmp_path / "a", "docs", DIM, shards=2, replicas=1, **OPTIONS
    ) as sharded:
        sharded.add(**rows)
        time.sleep(0.2)
        killed = sharded.processes()[0]
        shard = sharded._shards[0]
        ray.kill(shard)  # for good: only its replica is left
        assert [hits[0].id for hits in sharded.query(rows["vectors"][:30], 1)] == (
            rows["ids"][:30].tolist()
        )
        assert len(sharded) == N and killed
        sharded.timeout_s = 1.0
        with pytest.raises(quashdb.StorageError, match="shard 0 did not come back"):
            sharded.upsert(rows["ids"], rows["vectors"])


def test_resharding(sharded, single, rows, tmp_path):
    queries = np.random.default_rng(1).standard_normal((10, DIM)).astype(np.float32)
    stop, answers, problems = threading.Event(), [0], []

    def search():
        while not stop.is_set():
            try:
                same(sharded, single, queries)
                answers[0] += 1
            except Exception as error:
                problems.append(error)
                return

    thread = threading.Thread(target=search)
    thread.start()
    sharded.reshard(5)
    stop.set()
    thread.join()
    assert not problems and answers[0] > 0
    assert sharded.shards == 5 and len(sharded) == N
    same(sharded, single, queries, k=20, where="year > 2010")
    sharded.upsert([7], rows["vectors"][:1])
    assert not (tmp_path / "sharded" / "epoch-0").exists()
    sharded.close()
    with quashdb.ray.open(tmp_path / "sharded") as again:
        assert again.shards == 5 and len(again) == N


def test_backup_to_another_number_of_shards(sharded, single, tmp_path):
    sharded.backup(tmp_path / "backup")
    queries = np.random.default_rng(1).standard_normal((5, DIM)).astype(np.float32)
    with quashdb.ray.restore(tmp_path / "backup", tmp_path / "restored", shards=2) as restored:
        assert restored.shards == 2
        same(restored, single, queries)
    with pytest.raises(quashdb.ExistsError):
        sharded.backup(tmp_path / "backup")


def test_ingest(cluster, tmp_path, rows):
    table = pa.table(
        {
            "id": [f"r{i}" for i in range(N)],
            "embedding": list(rows["vectors"]),
            "document": rows["documents"],
            "year": [one["year"] for one in rows["metadatas"]],
        }
    )
    seen = []
    with quashdb.ray.create(
        tmp_path / "a", "docs", DIM, shards=2, id_type="string", **OPTIONS
    ) as sharded:
        done = sharded.ingest(
            table, vector="embedding", batch_rows=100, progress=lambda n, _: seen.append(n)
        )
        assert done == N and seen == list(range(100, N + 1, 100))
        assert sharded.query(rows["vectors"][9], 1)[0][0].document == "row 9"
        data = pytest.importorskip("ray.data")
        assert sharded.ingest(data.from_arrow(table), vector="embedding") == N
        assert len(sharded) == N
        with pytest.raises(quashdb.InvalidError, match="need ids"):
            sharded.ingest(table.drop(["id"]), vector="embedding")


def test_bad_input(sharded, tmp_path, rows):
    with pytest.raises(quashdb.ExistsError):
        quashdb.ray.create(tmp_path / "sharded", "docs", DIM, shards=2)
    with pytest.raises(quashdb.NotFoundError, match="shards.json"):
        quashdb.ray.open(tmp_path / "absent")
    with pytest.raises(quashdb.ExistsError, match="stored already"):
        sharded.add([7], rows["vectors"][:1])
    with pytest.raises(quashdb.InvalidError, match="expected"):
        sharded.query([[1.0, 2.0]])
    with pytest.raises(quashdb.FilterSyntaxError):
        sharded.count("year =")
    with pytest.raises(quashdb.InvalidError, match="ids is missing"):
        sharded.add(None, rows["vectors"])
    assert len(sharded) == N
    sharded.close()
    first = tmp_path / "sharded" / "epoch-0"
    shutil.move(first / "shard-0002", tmp_path / "aside")
    with pytest.raises(quashdb.NotFoundError, match="shard-0002"):
        quashdb.ray.open(tmp_path / "sharded")
    with quashdb.open(
        _made(first / "shard-0002") / "database"
    ) as db:
        db.create_collection("docs", DIM + 1, **OPTIONS)
    with pytest.raises(quashdb.InvalidError, match="dim 17, expected 16"):
        quashdb.ray.open(tmp_path / "sharded")


def _made(path):
    path.mkdir()
    return path


def test_without_a_cluster(tmp_path):
    code = (
        "import quashdb.ray\n"
        f"try: quashdb.ray.create({str(tmp_path / 'a')!r}, 'docs', 4, shards=1)\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    import subprocess
    import sys

    root = str(pathlib.Path(quashdb.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "InvalidError" in done.stdout and "ray.init()" in done.stdout
