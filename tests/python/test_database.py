"""open() to restore(): each function, its good and its bad input."""

import os
import pathlib
import stat
import subprocess
import sys

import numpy as np
import pytest
from conftest import DIM, random_vectors

import quashdb


def test_version_and_isa():
    assert quashdb.__version__.count(".") == 2
    assert quashdb.isa() in ("scalar", "avx2", "avx512", "avx512vbmi", "neon")


def test_context_manager_closes_and_close_is_idempotent(tmp_path):
    with quashdb.open(tmp_path / "db") as db:
        assert not db.is_closed
        assert db.path == str(tmp_path / "db")
        assert "open" in repr(db)
    assert db.is_closed
    db.close()
    with pytest.raises(quashdb.MisuseError, match="closed"):
        db.collections()
    assert "closed" in repr(db)


def test_closes_when_the_block_raises(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with quashdb.open(tmp_path / "db") as db:
            raise ZeroDivisionError
    assert db.is_closed
    quashdb.open(tmp_path / "db").close()


def test_rows_survive_reopening(tmp_path):
    vectors = random_vectors(10)
    for durability in ("full", "normal"):
        path = tmp_path / durability
        with quashdb.open(path, durability=durability) as db:
            db.create_collection("a", DIM, fields={"year": int}).add(
                range(10), vectors, [{"year": n} for n in range(10)]
            )
        with quashdb.open(path, "readwrite") as db:
            assert db.collections() == ["a"]
            assert db["a"].get([3]).metadatas == [{"year": 3}]
            assert db["a"].dim == DIM
            assert db["a"].search(vectors[3], 1)[0].tolist() == [[3]]


def test_directory_is_private(tmp_path):
    with quashdb.open(tmp_path / "db"):
        assert stat.S_IMODE((tmp_path / "db").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "write"}, ValueError, "mode is 'write', expected one of create"),
        ({"durability": 1}, ValueError, "durability"),
        ({"memory_budget": -1}, ValueError, "memory_budget"),
        ({"memory_budget": 1000}, ValueError, "memory_budget"),
        ({"memory_budget": 1 << 64}, quashdb.LimitError, "memory_budget"),
        ({"memory_budget": "1G"}, TypeError, "memory_budget is a str"),
        ({"threads": -1}, ValueError, "threads"),
        ({"threads": 1.5}, TypeError, "threads is a float"),
        ({"path": ""}, ValueError, "path"),
        ({"path": "a\0b"}, ValueError, "NUL"),
        ({"path": 7}, TypeError, "int"),
        ({"path": None}, TypeError, "None"),
    ],
)
def test_open_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        quashdb.open(**arguments)


def test_memory_budget_and_threads_are_taken():
    with quashdb.open(memory_budget=64 << 20, threads=1) as db:
        collection = db.create_collection("a", DIM)
        collection.add(None, random_vectors(50))
        assert len(collection.search(random_vectors(2), 5)[0]) == 2


def test_paths_of_every_kind(tmp_path):
    for path in (tmp_path / "a", str(tmp_path / "b"), os.fsencode(tmp_path / "ü")):
        with quashdb.open(path) as db:
            assert db.path == os.fsdecode(path)


def test_open_missing(tmp_path):
    for mode in ("readwrite", "readonly", "follower"):
        with pytest.raises(quashdb.NotFoundError) as caught:
            quashdb.open(tmp_path / "none", mode)
        assert isinstance(caught.value, KeyError)
        assert caught.value.status is quashdb.Status.NOT_FOUND
        assert not str(caught.value).startswith(("'", '"'))  # KeyError would quote it
        assert not (tmp_path / "none").exists()


def test_open_what_is_no_database(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(quashdb.QuashError):
        quashdb.open(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.jpg").write_text("text")
    with pytest.raises(quashdb.QuashError):
        quashdb.open(tmp_path / "folder")
    assert (tmp_path / "folder" / "photo.jpg").read_text() == "text"


def test_second_writer_is_busy(tmp_path):
    with quashdb.open(tmp_path / "db"):
        with pytest.raises(quashdb.BusyError) as caught:
            quashdb.open(tmp_path / "db")
        assert isinstance(caught.value, OSError)
    quashdb.open(tmp_path / "db").close()


def test_readonly_refuses_writes(tmp_path):
    with quashdb.open(tmp_path / "db") as db:
        db.create_collection("a", DIM).add(None, random_vectors(3))
    with quashdb.open(tmp_path / "db", "readonly") as db:
        collection = db["a"]
        assert len(collection) == 3
        for write in (
            lambda: collection.add(None, random_vectors(1)),
            lambda: collection.upsert(0, random_vectors(1)),
            lambda: collection.delete(0),
            lambda: collection.delete(where="TRUE"),
            lambda: collection.add_field("x", int),
            lambda: db.create_collection("b", DIM),
            lambda: db.drop_collection("a"),
            db.compact,
        ):
            with pytest.raises(quashdb.ReadOnlyError):
                write()


def test_follower_reads_beside_a_writer(tmp_path):
    with quashdb.open(tmp_path / "db") as db:
        collection = db.create_collection("a", DIM)
        collection.add(range(3), random_vectors(3))
        program = (
            "import sys, quashdb\n"
            "with quashdb.open(sys.argv[1], 'follower') as db:\n"
            "    print(len(db['a']), flush=True)\n"
            "    sys.stdin.readline()\n"
            "    db.refresh()\n"
            "    print(len(db['a']), flush=True)\n"
        )
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        with subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "db"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        ) as reader:  # fmt: skip
            assert reader.stdout.readline() == "3\n"
            collection.add(None, random_vectors(4))
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == "7\n"
        assert reader.returncode == 0


def test_collections(db):
    assert db.collections() == [] and len(db) == 0 and list(db) == [] and db
    for name in ("b", "a", "ü ", "x" * 255):
        assert db.create_collection(name, DIM).name == name
    assert db.collections() == ["a", "b", "x" * 255, "ü "]
    assert list(db) == db.collections() and len(db) == 4
    assert "a" in db and "c" not in db
    assert db["a"].name == db.collection("a").name == "a"
    with pytest.raises(KeyError):
        db["c"]
    db.drop_collection("a")
    assert "a" not in db
    with pytest.raises(quashdb.NotFoundError):
        db.drop_collection("a")
    with pytest.raises(quashdb.ExistsError):
        db.create_collection("b", DIM)


def test_handles_of_a_dropped_collection(db, points):
    db.drop_collection("points")
    for call in (points.count, points.stats, lambda: points.search(random_vectors(1))):
        with pytest.raises(quashdb.NotFoundError):
            call()
    db.create_collection("points", DIM + 1)
    with pytest.raises(quashdb.NotFoundError):
        points.count()


def test_options_are_kept(db):
    fields = {"b": bool, "i": int, "f": "float", "s": str, "il": list[int], "sl": "string[]"}
    made = db.create_collection("a", 5, "l2", "string", 2, "int8", "dense", 2**64 - 1, fields)
    for collection in (made, db["a"]):
        assert collection.describe() == {
            "name": "a",
            "dim": 5,
            "metric": "l2",
            "id_type": "string",
            "bits": 2,
            "rerank": "int8",
            "rotation": "dense",
            "seed": 2**64 - 1,
            "partition_rows": 100000,
            "rows": 0,
            "fields": [
                {"name": "b", "type": "bool"},
                {"name": "i", "type": "int"},
                {"name": "f", "type": "float"},
                {"name": "s", "type": "string"},
                {"name": "il", "type": "int[]"},
                {"name": "sl", "type": "string[]"},
            ],
        }
        assert (collection.dim, collection.metric, collection.id_type) == (5, "l2", "string")
        assert (collection.bits, collection.rerank) == (2, "int8")
        assert (collection.rotation, collection.seed) == ("dense", 2**64 - 1)
        assert "'a'" in repr(collection)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim is 0"),
        ({"dim": -3}, ValueError, "dim is -3"),
        ({"dim": 65537}, quashdb.LimitError, "dim is 65537"),
        ({"dim": 2**32 + 5}, quashdb.LimitError, "dim"),
        ({"dim": 3.0}, TypeError, "dim is a float"),
        ({"metric": "dot"}, ValueError, "metric is 'dot', expected one of ip, cosine, l2"),
        ({"id_type": int}, ValueError, "id_type"),
        ({"bits": 0}, ValueError, "bits is 0"),
        ({"bits": 5}, ValueError, "bits is 5"),
        ({"rerank": "f64"}, ValueError, "rerank"),
        ({"rotation": "x"}, ValueError, "rotation"),
        ({"dim": 5000, "rotation": "dense"}, quashdb.LimitError, "dense"),
        ({"seed": -1}, ValueError, "seed"),
        ({"partition_rows": 0}, ValueError, "partition_rows is 0, expected 1000 to"),
        ({"partition_rows": 999}, ValueError, "partition_rows is 999, expected 1000 to"),
        ({"partition_rows": 2**64}, quashdb.LimitError, "partition_rows"),
        ({"partition_rows": "x"}, TypeError, "partition_rows"),
        ({"seed": 2**64}, quashdb.LimitError, "seed"),
        ({"fields": ["a"]}, TypeError, "fields is a list, expected a dict"),
        ({"fields": {"a b": int}}, ValueError, "a b"),
        ({"fields": {"id": int}}, ValueError, "id"),
        ({"fields": {"select": int, "AND": int}}, ValueError, "AND"),
        ({"fields": {"a": "date"}}, ValueError, "date"),
        ({"fields": {"a": dict}}, ValueError, "dict"),
        ({"fields": {f"f{n}": int for n in range(257)}}, quashdb.LimitError, "257"),
        ({"name": ""}, ValueError, "empty"),
        ({"name": "a\nb"}, ValueError, "control"),
        ({"name": "a\0b"}, ValueError, "NUL"),
        ({"name": "x" * 256}, quashdb.LimitError, "255"),
        ({"name": 3}, TypeError, "name is a int"),
        ({"name": "\ud800"}, ValueError, "Unicode"),
    ],
)
def test_create_collection_refuses(db, arguments, error, message):
    with pytest.raises(error, match=message):
        db.create_collection(**{"name": "a", "dim": DIM, **arguments})
    assert db.collections() == []


def test_get_or_create_collection(db):
    with pytest.raises(quashdb.NotFoundError):
        db.get_or_create_collection("a")
    made = db.get_or_create_collection("a", DIM, "ip", fields={"x": int, "y": str})
    made.add(None, random_vectors(2))
    for again in (
        db.get_or_create_collection("a"),
        db.get_or_create_collection("a", DIM, metric="ip", fields={"x": "int"}),
    ):
        assert len(again) == 2
    for arguments in ({"dim": 9}, {"metric": "l2"}, {"bits": 2}, {"fields": {"x": str}},
                      {"fields": {"z": int}}):  # fmt: skip
        with pytest.raises(quashdb.ExistsError):
            db.get_or_create_collection("a", **arguments)
    with pytest.raises(ValueError, match="date"):
        db.get_or_create_collection("a", fields={"x": "date"})


def test_backup_and_restore(tmp_path):
    with quashdb.open(tmp_path / "db") as db:
        collection = db.create_collection("a", DIM)
        collection.add(range(5), random_vectors(5))
        db.backup(tmp_path / "copy")
        collection.delete(where="TRUE")
        with pytest.raises(quashdb.ExistsError):
            db.backup(tmp_path / "copy")
        with pytest.raises(quashdb.QuashError):
            db.backup("")
    quashdb.restore(tmp_path / "copy", tmp_path / "restored")
    with quashdb.open(tmp_path / "restored", "readwrite") as db:
        assert db["a"].get().ids.tolist() == list(range(5))
    with pytest.raises(quashdb.ExistsError):
        quashdb.restore(tmp_path / "copy", tmp_path / "restored")
    with pytest.raises(quashdb.NotFoundError):
        quashdb.restore(tmp_path / "none", tmp_path / "other")
    with quashdb.open(tmp_path / "copy", "readonly") as db:
        assert len(db["a"]) == 5


def test_verify_checkpoint_compact_stats(tmp_path):
    with quashdb.open(tmp_path / "db") as db:
        collection = db.create_collection("a", DIM)
        collection.add(range(200), random_vectors(200))
        collection.delete(range(150))
        db.checkpoint()
        db.compact()
        db.refresh()
        report = db.verify()
        assert report["ok"] is True and report["rows"] == 50 and report["problems"] == []
        assert report["collections"] == 1
        assert collection.stats().dead_rows == 0
        assert pathlib.Path(db.stats()["path"]).name == "db"


def test_verify_reports_damage(tmp_path):
    with quashdb.open(tmp_path / "db") as db:
        db.create_collection("a", DIM).add(None, random_vectors(500))
        db.compact()
    tables = sorted((tmp_path / "db").rglob("*.sst"), key=lambda path: path.stat().st_size)
    assert tables
    data = bytearray(tables[-1].read_bytes())
    for at in range(0, len(data) // 2, 64):
        data[at] ^= 0xFF
    tables[-1].write_bytes(data)
    with pytest.raises(quashdb.CorruptError) as caught:
        with quashdb.open(tmp_path / "db", "readonly") as db:
            db.verify()
    if caught.value.report is not None:  # found by verify, not by open
        assert caught.value.report["ok"] is False
        assert caught.value.report["problems"]


class TestProgress:
    def test_is_called_and_removed(self, db, points):
        calls = []
        db.set_progress(lambda done, total: calls.append((done, total)))
        db.verify()
        assert calls and all(done >= 0 and total >= 0 for done, total in calls)
        db.set_progress(None)
        calls.clear()
        db.verify()
        assert calls == []

    def test_for_one_call(self, db, points):
        calls = []
        db.verify(progress=lambda done, total: calls.append(done))
        assert calls
        n = len(calls)
        db.verify()
        assert len(calls) == n

    def test_false_cancels(self, db, points):
        with pytest.raises(quashdb.CancelledError):
            db.verify(progress=lambda done, total: False)
        assert db.verify()["ok"]

    def test_exceptions_come_out(self, db, points):
        def fail(done, total):
            raise ZeroDivisionError

        db.set_progress(fail)
        with pytest.raises(ZeroDivisionError):
            db.verify()
        with pytest.raises(KeyboardInterrupt):
            db.verify(progress=lambda done, total: _raise(KeyboardInterrupt()))
        db.set_progress(None)
        assert db.verify()["ok"]

    def test_of_searches(self, db):
        rng = np.random.default_rng(0)
        collection = db.create_collection("many", 64, rerank="f32")
        collection.add(None, rng.standard_normal((20000, 64)))
        queries = rng.standard_normal((12000, 64)).astype(np.float32)  # far above 50 ms
        calls = []

        def search_inside(done, total):
            calls.append((done, total))
            assert len(collection.query(queries[:2], exact=True)) == 2
            assert len(prepared.run(queries[:1])) == 1
            return False

        prepared = collection.prepare(exact=True, include=None, threads=1)
        searches = (
            lambda: collection.search(queries, threads=1),
            lambda: collection.query(queries, include=None, threads=1),
            lambda: collection.query_by_id(np.arange(12000), include=None, threads=1),
            lambda: prepared.run(queries),
        )
        for search in searches:
            db.set_progress(search_inside)
            with pytest.raises(quashdb.CancelledError, match="search was cancelled"):
                search()
            ((done, total),) = calls
            assert 0 <= done <= total == len(queries)
            calls.clear()
        db.set_progress(lambda done, total: calls.append(done))
        assert len(searches[0]()[0]) == len(queries)
        assert calls == sorted(calls) and len(calls) > 0

    def test_close_inside_is_refused(self, db, points):
        with pytest.raises(quashdb.MisuseError, match="callback"):
            db.verify(progress=lambda done, total: db.close())
        assert not db.is_closed

    def test_wrong_kind(self, db):
        with pytest.raises(TypeError, match="expected a function"):
            db.set_progress(3)


def _raise(error):
    raise error


def test_errors_pickle_and_carry_their_status():
    import pickle

    error = quashdb.FilterSyntaxError("no", 3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is quashdb.FilterSyntaxError
    assert (str(copy), copy.offset, copy.status) == ("no", 3, quashdb.Status.SYNTAX)
    for name in quashdb.__all__:
        value = getattr(quashdb, name)
        if isinstance(value, type) and issubclass(value, quashdb.QuashError):
            assert str(value("text")) == "text"
            assert isinstance(value.status, quashdb.Status)


def test_int_subclasses_are_integers(db):
    assert db.create_collection("a", np.int64(8), bits=np.uint8(3)).bits == 3
