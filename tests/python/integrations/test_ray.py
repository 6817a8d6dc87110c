"""Shards on a local Ray cluster of three nodes' worth of processes."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
psutil = pytest.importorskip("psutil")

import quashdb  # noqa: E402
import quashdb.ray  # noqa: E402
from quashdb.ray.files import DATABASE  # noqa: E402
from quashdb.ray.shard import Shard  # noqa: E402

from sharding import DIM, OPTIONS, N, environment, same  # noqa: E402


def test_the_same_as_one_database(sharded, single, rows):
    queries = np.random.default_rng(1).standard_normal((20, DIM)).astype(np.float32)
    same(sharded, single, queries)
    same(sharded, single, queries, k=25, where="year < 2003", exact=True)
    same(sharded, single, queries, k=100, where={"year": 2004})
    same(sharded, single, queries, min_score=-20.0, k=50, exact=True)
    page = sharded.query(queries[0], k=10)[0]
    assert page.cursor == single.query(queries[0], k=10)[0].cursor
    assert page.ids == [hit.id for hit in page] and len(page.scores) == 10
    same(sharded, single, queries[:1], k=10, after=page.cursor)
    ids, scores = sharded.search(queries, 5)
    expected = single.search(queries, 5)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(scores, expected[1])
    assert sharded.query(queries[0], k=1)[0][0].distance == pytest.approx(
        single.query(queries[0], k=1)[0][0].distance
    )


def test_few_rows_and_string_ids(cluster, tmp_path, rows):
    vectors = np.repeat(rows["vectors"][:4], 3, axis=0)  # ties
    ids = [f"{prefix}{i}" for i in range(4) for prefix in ("b", "ü", "a")]
    with (
        quashdb.open() as db,
        quashdb.ray.create(tmp_path / "a", "c", DIM, shards=2, id_type="string") as sharded,
    ):
        single = db.create_collection("c", DIM, id_type="string")
        for one in (single, sharded):
            one.add(ids, vectors)
        same(sharded, single, vectors, k=20)
        for found, expected in zip(
            sharded.search(vectors, 20), single.search(vectors, 20), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        found = sharded.search(vectors, 3, where={"id": {"$in": ["a1"]}})[0]
        assert found[:, 0].tolist() == ["a1"] * 12 and found[0, 1] is None


def test_ties_go_by_id(sharded, single, rows):
    for one in (sharded, single):
        one.upsert(np.arange(50) + 100000, np.ones((50, DIM), np.float32))
    ones = np.ones((2, DIM), np.float32)
    same(sharded, single, ones, k=30)
    np.testing.assert_array_equal(sharded.search(ones, 30)[0], single.search(ones, 30)[0])


def test_rows_are_spread_and_found(sharded, rows):
    assert [one["rows"] > N / 6 for one in sharded.stats()] == [True] * 3
    assert len(sharded) == N and sharded.count("year = 2003") == N / 20
    found = sharded.get([14, 999999, 7])
    assert [row.id for row in found] == [14, 7] and found[0].document == "row 2"
    assert len(sharded.get(where="year = 2003", limit=5)) == 5
    assert sharded.delete([7, 14, 999999]) == 2 and sharded.delete(where="year = 2003") == N / 20
    assert len(sharded) == N - 2 - N / 20
    assert sharded.describe()["shards"] == 3 and all(one["ok"] for one in sharded.verify())


def test_tasks_search_and_write(sharded, rows):
    @ray.remote(num_cpus=0.1)
    def use(collection, first):
        collection.upsert([10**6 + first], rows["vectors"][first : first + 1])
        with pytest.raises(quashdb.MisuseError, match="only the ShardedCollection"):
            collection.reshard(2)
        with collection:  # closing a copy ends nothing
            return collection.search(rows["vectors"][first : first + 10], 1)[1].sum()

    assert ray.get([use.remote(sharded, 10 * i) for i in range(4)]) == [0] * 4
    assert len(sharded) == N + 4


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


def test_a_shard_killed_between_database_and_collection(tmp_path):
    """Made again by the call that is repeated, which has to get through."""
    quashdb.open(tmp_path / DATABASE, "create").close()
    shard = Shard(str(tmp_path), "docs", {"dim": DIM})
    shard.started()
    with pytest.raises(quashdb.NotFoundError, match="docs"):
        shard.describe()
    with pytest.raises(quashdb.InvalidError, match="has dim"):
        shard.make({"dim": DIM + 1})
    quashdb.open(tmp_path / DATABASE).close()  # nothing holds it


def test_a_shard_made_again(tmp_path):
    quashdb.open(tmp_path / DATABASE, "create").close()
    shard = Shard(str(tmp_path), "docs", {"dim": DIM})
    shard.make({"dim": DIM})
    assert shard.describe()["dim"] == DIM
    shard.make({"dim": DIM})


def test_replicas(cluster, tmp_path, rows):
    with quashdb.ray.create(
        tmp_path / "a", "docs", DIM, shards=2, replicas=1, **OPTIONS
    ) as sharded:
        sharded.add(**rows)
        sharded.read_from, sharded.replica_age_s = "any", 0.0
        pids = {pid for _ in range(2) for pid in sharded._read_all("ping")}
        for _ in range(2):
            assert [hits[0].id for hits in sharded.query(rows["vectors"][:30], 1)] == (
                rows["ids"][:30].tolist()
            )
        assert len(pids) == 4  # shards and replicas in turn
        sharded.read_from, sharded.replica_age_s = "primary", 0.1

        # A replica follows a shard that has been killed and written to since.
        os.kill(sharded.processes()[0], signal.SIGKILL)
        sharded.upsert(rows["ids"] + 1, rows["vectors"])
        time.sleep(0.2)
        ray.kill(sharded._now.actors[0])  # for good: only its replica is left
        assert [hits[0].id for hits in sharded.query(rows["vectors"][:30], 1)] == (
            rows["ids"][:30].tolist()
        )
        assert len(sharded) == 2 * N
        sharded.timeout_s = 1.0
        with pytest.raises(quashdb.StorageError, match="shard 0 did not come back within 1"):
            sharded.upsert(rows["ids"], rows["vectors"])
        assert len(sharded) == 2 * N


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
    assert sharded.describe()["partition_rows"] is None
    same(sharded, single, queries, k=20, where="year > 2010")
    sharded.upsert([7], rows["vectors"][:1])
    assert not (tmp_path / "sharded" / "epoch-0").exists()
    sharded.close()
    with quashdb.ray.open(tmp_path / "sharded") as again:
        assert again.shards == 5 and len(again) == N


def test_recall_targets(cluster, tmp_path):
    rng = np.random.default_rng(0)
    # Without clusters most lists would have to be read, and measuring finds that all rows are
    # cheaper.
    centres = rng.standard_normal((60, 64))
    vectors = centres[rng.integers(60, size=6000)] + rng.standard_normal((6000, 64))
    vectors = vectors.astype(np.float32)
    with quashdb.ray.create(tmp_path / "a", "docs", 64, shards=2, partition_rows=1000) as sharded:
        sharded.upsert(np.arange(6000), vectors)
        sharded.compact()  # makes the lists now
        assert all(one["lists"] > 1 for one in sharded.stats())
        exact, _ = sharded.search(vectors[:100], 10, exact=True)

        def recall(**options):
            found, _ = sharded.search(vectors[:100], 10, **options)
            return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])

        assert recall(recall=1) >= 0.99 and recall(recall=0.9) >= 0.85
        assert recall(nprobe=1) < recall(nprobe=16) <= 1
        assert recall(recall=1, candidates=10, rerank_candidates=10, planes=1) < 0.9
        with pytest.raises(quashdb.InvalidError, match="recall"):
            sharded.search(vectors[:1], recall=2)
        measured = sharded.measure(10, target_recall=0.95, apply=True, sample=50)
        assert len(measured) == 2
        assert all(one.recall >= 0.95 and 1 <= one.nprobe <= 16 for one in measured)
        assert recall() >= 0.9


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
        assert len(sharded) == N
        with pytest.raises(quashdb.InvalidError, match="need ids"):
            sharded.ingest(table.drop(["id"]), vector="embedding")


def test_killed_while_ingesting_a_dataset(cluster, tmp_path):
    data = pytest.importorskip("ray.data")
    n = 20000
    vectors = np.random.default_rng(3).standard_normal((n, DIM)).astype(np.float32)
    dataset = data.range(n, override_num_blocks=8).map_batches(
        lambda batch: {"id": batch["id"], "data": vectors[batch["id"]]}  # a tensor column
    )
    seen = []
    with quashdb.ray.create(tmp_path / "a", "docs", DIM, shards=2, rerank="f32") as sharded:

        def progress(done, _):
            seen.append(done)
            if len(seen) in (2, 6):
                os.kill(sharded.processes()[len(seen) // 4], signal.SIGKILL)

        assert sharded.ingest(dataset, vector="data", batch_rows=1000, progress=progress) == n
        assert seen[-1] == n and len(seen) >= 8 and seen == sorted(seen)
        assert len(sharded) == n
        ids, _ = sharded.search(vectors[::100], 1)
        assert ids[:, 0].tolist() == list(range(0, n, 100))
        with pytest.raises(quashdb.InvalidError, match="no column 'vector'"):
            sharded.ingest(dataset)
        with pytest.raises(quashdb.InvalidError, match="no column 'key'"):
            sharded.ingest(dataset, id="key", vector="data")
        assert len(sharded) == n


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
    with quashdb.open(_made(first / "shard-0002") / "database") as db:
        db.create_collection("docs", DIM + 1, **OPTIONS)
    with pytest.raises(quashdb.InvalidError, match="dim 17, expected 16"):
        quashdb.ray.open(tmp_path / "sharded")


def _made(path):
    path.mkdir()
    return path


def test_without_a_cluster(tmp_path):
    code = f"""if True:
        import quashdb, quashdb.ray, ray
        def attempt(call):
            try:
                call()
            except quashdb.QuashError as error:
                print(type(error).__name__, error)
        attempt(lambda: quashdb.ray.create({str(tmp_path / "a")!r}, "docs", 4, shards=1))
        attempt(lambda: quashdb.ray.connect("127.0.0.1:9"))
        attempt(lambda: quashdb.ray.connect("somewhere"))
        quashdb.ray.connect("local", num_cpus=1, include_dashboard=False, logging_level="error")
        docs = quashdb.ray.create({str(tmp_path / "a")!r}, "docs", 4, shards=1)
        docs.add([1], [[1, 2, 3, 4]])
        ray.shutdown()
        attempt(lambda: docs.query([[1, 2, 3, 4]]))
        attempt(lambda: docs.add([2], [[1, 2, 3, 4]]))
        docs.close()
        with quashdb.open({str(tmp_path / "a/epoch-0/shard-0000/database")!r}) as db:
            print(len(db["docs"]), "row")
        """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    first, unreachable, wrong, *others = done.stdout.splitlines()
    assert first.startswith("InvalidError Ray is not connected: call quashdb.ray.connect()")
    assert unreachable.startswith("StorageError no Ray cluster answers at 127.0.0.1:9: ")
    assert wrong == "InvalidError address is 'somewhere', expected host:port"
    assert others == [first, first, "1 row"]
