"""Processes killed at the worst moments, and wrong configurations: minutes, so they run only
where QUASHDB_RAY_FAULTS is set.

    QUASHDB_RAY_FAULTS=1 ctest --test-dir build -R python_integrations
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
psutil = pytest.importorskip("psutil")

import quashdb  # noqa: E402
import quashdb.ray  # noqa: E402

from sharding import DIM, OPTIONS, N, add_node, environment, same  # noqa: E402

pytestmark = pytest.mark.skipif(
    "QUASHDB_RAY_FAULTS" not in os.environ, reason="minutes: set QUASHDB_RAY_FAULTS=1"
)


def test_killed_while_resharding(sharded, single, rows):
    """Old and new shards die while rows are moved; writes are refused meanwhile."""
    moved, problems, refused = threading.Event(), [], []

    def move():
        try:
            sharded.reshard(2)
        except Exception as error:
            problems.append(error)
        moved.set()

    def write():
        while not moved.is_set():
            try:
                sharded.upsert([7], rows["vectors"][1:2], {"year": 2001}, "row 1")
            except quashdb.BusyError as error:
                refused.append(error)

    victims = [psutil.Process(pid) for pid in sharded.processes()]
    threads = [threading.Thread(target=move), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    victims[0].kill()
    time.sleep(1.5)
    for process in _shard_processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for thread in threads:
        thread.join()
    assert not problems, problems
    assert refused and sharded.shards == 2 and len(sharded) == N
    same(sharded, single, rows["vectors"][:10], k=10)


def _shard_processes():
    return [one for one in psutil.process_iter() if "ray::Shard" in " ".join(one.cmdline()[:1])]


def test_a_driver_that_dies_while_resharding(cluster, sharded, single, rows, tmp_path):
    sharded.close()
    code = f"""if True:
        import os, signal, ray, quashdb.ray
        from quashdb.ray import collection
        ray.init(address={cluster.address!r}, logging_level="error", log_to_driver=False)
        docs = quashdb.ray.open({str(tmp_path / "sharded")!r})
        write = collection.write_manifest
        def die(root, manifest):
            if manifest["epoch"] == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            write(root, manifest)
        collection.write_manifest = die
        docs.reshard(2)
        """
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment())
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "sharded" / "epoch-1").is_dir()
    with quashdb.ray.open(tmp_path / "sharded") as again:
        assert again.shards == 3 and not (tmp_path / "sharded" / "epoch-1").exists()
        same(again, single, rows["vectors"][:10], k=10)
        again.upsert([7], rows["vectors"][1:2], {"year": 2001}, "row 1")  # not frozen
        again.reshard(2)
        same(again, single, rows["vectors"][:10], k=10)


def test_frozen_shards_stay_frozen_when_killed(sharded, rows):
    with sharded._frozen():
        os.kill(sharded.processes()[0], signal.SIGKILL)
        for shard in range(3):
            with pytest.raises(quashdb.BusyError, match="resharded or backed up"):
                sharded._now.ask(shard, "write", "delete", {"where": "TRUE"})
        with pytest.raises(quashdb.BusyError):
            sharded.reshard(2)
        assert len(sharded) == N
    assert sharded.delete(where="TRUE") == N


def test_shards_that_cannot_be_thawed_are_later(sharded, tmp_path, rows):
    shard = tmp_path / "sharded" / "epoch-0" / "shard-0001"
    sharded.timeout_s = 2.0
    with sharded._frozen():
        # As if its node had gone: it is not started again for good.
        ray.kill(sharded._now.actors[1], no_restart=True)
    assert (shard / "frozen").exists()
    with pytest.raises(quashdb.StorageError, match="shard 1 did not come back"):
        sharded.upsert(rows["ids"], rows["vectors"])
    assert (shard / "frozen").exists()
    sharded._now.actors[1] = sharded._actor(0, 1, False)
    sharded.timeout_s = 60.0
    sharded.upsert(rows["ids"], rows["vectors"])
    assert not (shard / "frozen").exists() and len(sharded) == N


def test_a_lost_directory_does_not_come_back_empty(sharded, tmp_path):
    shutil.move(tmp_path / "sharded" / "epoch-0" / "shard-0001", tmp_path / "aside")
    os.kill(sharded.processes()[1], signal.SIGKILL)
    with pytest.raises(quashdb.NotFoundError, match="shard-0001 has no database"):
        sharded.count()
    assert not (tmp_path / "sharded" / "epoch-0" / "shard-0001").exists()
    shutil.move(tmp_path / "aside", tmp_path / "sharded" / "epoch-0" / "shard-0001")
    sharded.close()
    with quashdb.ray.open(tmp_path / "sharded") as again:
        assert len(again) == N


def test_parquet_files(cluster, tmp_path, rows):
    data = pytest.importorskip("ray.data")
    table = pa.table({
        "id": rows["ids"],
        "embedding": list(rows["vectors"]),
        "year": [one["year"] for one in rows["metadatas"]],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "docs.parquet", row_group_size=100)
    with quashdb.ray.create(tmp_path / "a", "docs", DIM, shards=2, **OPTIONS) as sharded:
        dataset = data.read_parquet(str(tmp_path / "docs.parquet"))
        assert sharded.ingest(dataset, vector="embedding") == N
        assert len(sharded) == N and sharded.count("year = 2003") == N / 20


def test_a_node_that_goes_away(cluster, tmp_path, rows):
    lost = add_node(cluster, "disk3")
    with quashdb.ray.create(
        tmp_path / "a", "docs", DIM, shards=2, resources=[{"disk0": 1}, {"disk3": 1}], **OPTIONS
    ) as sharded:
        sharded.add(**rows)
        cluster.remove_node(lost)
        sharded.timeout_s = 3.0
        for call in (sharded.count, lambda: sharded.upsert(rows["ids"], rows["vectors"])):
            with pytest.raises(quashdb.StorageError, match="shard 1 did not come back within 3"):
                call()
        back = add_node(cluster, "disk3")
        sharded.timeout_s = 60.0
        assert len(sharded) == N
    cluster.remove_node(back)


def test_bad_configurations(sharded, tmp_path, rows):
    root = tmp_path / "sharded"
    with pytest.raises(quashdb.BusyError):
        quashdb.ray.open(root)
    sharded.backup(tmp_path / "backup")
    sharded.close()
    with pytest.raises(quashdb.MisuseError, match="closed"):
        sharded.count()

    manifest = json.loads((root / "shards.json").read_text())
    for change, error, match in [
        ("{", quashdb.CorruptError, "cannot be read"),
        ({"format": 99}, quashdb.CorruptError, "format 1"),
        ({**manifest, "shards": "3"}, quashdb.CorruptError, "shards '3', expected int"),
        ({**manifest, "shards": 4}, quashdb.NotFoundError, "shard-0003 has no database"),
        ({**manifest, "name": "other"}, quashdb.NotFoundError, "other"),
        ({**manifest, "expected": {**manifest["expected"], "metric": "ip"}},
         quashdb.InvalidError, "metric 'l2', expected 'ip'"),
    ]:  # fmt: skip
        (root / "shards.json").write_text(change if change == "{" else json.dumps(change))
        with pytest.raises(error, match=match):
            quashdb.ray.open(root)
    (root / "shards.json").unlink()
    with pytest.raises(quashdb.ExistsError, match="has a database already"):
        quashdb.ray.create(root, "docs", DIM, shards=3, **OPTIONS)
    with pytest.raises(quashdb.ExistsError, match="has a database already"):
        quashdb.ray.restore(tmp_path / "backup", root)
    (root / "shards.json").write_text(json.dumps(manifest))
    with quashdb.ray.open(root) as again:
        assert len(again) == N

    for options, error, match in [
        ({"shards": 0}, quashdb.InvalidError, "shards is 0"),
        ({"shards": 1, "replicas": -1}, quashdb.InvalidError, "replicas is -1"),
        ({"shards": 1, "metric": "hamming"}, quashdb.InvalidError, "hamming"),
        ({"shards": 1, "resources": ["node1"]}, quashdb.InvalidError, "resources"),
        ({"shards": 1, "resources": [{"disk9": 1}], "timeout_s": 2}, quashdb.StorageError,
         "shard 0 was not started within 2 s: it needs a node with {'disk9': 1.0}"),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            quashdb.ray.create(tmp_path / "new", "docs", DIM, **options)
        assert not list(tmp_path.glob("new/**/database"))
    with quashdb.ray.create(tmp_path / "new", "docs", DIM, shards=1) as made:
        assert len(made) == 0
