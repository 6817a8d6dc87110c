"""Views, handles, closing, forks and the end of the process."""

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import weakref

import numpy as np
import pytest
from conftest import DIM, random_vectors

import quashdb
from quashdb import _calls
from quashdb._calls import ResultHandle


def live_results():
    gc.collect()
    return sum(isinstance(candidate, ResultHandle) for candidate in gc.get_objects())


def test_arrays_are_read_only_views_that_keep_the_result(points):
    result = points.query(random_vectors(100), 10, include="vectors")
    ids, scores, vectors = result[5].ids, result[5].scores, result[5].vectors
    again = result[5].ids
    assert np.shares_memory(ids, again)  # one buffer, not copies
    for array in (ids, scores, vectors, result[5].distances):
        assert not array.flags.writeable
        with pytest.raises(ValueError):
            array[0] = 0
    before = (ids.tolist(), scores.tolist(), vectors.tolist())
    handle = weakref.ref(result._rows.handle)
    del result, again
    gc.collect()
    points.query(random_vectors(100), 10, include="vectors")  # would reuse freed memory
    assert handle() is not None
    assert (ids.tolist(), scores.tolist(), vectors.tolist()) == before
    del ids, scores, vectors, array
    gc.collect()
    assert handle() is None


def test_views_outlive_the_database():
    db = quashdb.open()
    collection = db.create_collection("a", DIM)
    collection.add(range(10), random_vectors(10), documents=["text"] * 10)
    result = collection.query(random_vectors(10)[3], 3, include=("documents", "vectors"))
    db.close()
    assert result.ids[0][0] == 3
    assert result.documents == [["text"] * 3]
    assert result.vectors[0].shape == (3, DIM)


def test_a_finalizer_may_use_what_lies_in_its_cycle(points):
    """The garbage collector calls finalizers of a cycle in any order."""

    class Holder:
        def __del__(self):
            seen.append((
                self.points.count(), self.scores.tolist(), len(next(self.rows)),
                len(self.prepared.run(random_vectors(1), 4)[0]),
            ))  # fmt: skip

    def hold(first):
        """A cycle; the holder is the first or the last of its objects."""
        holder = Holder() if first else None
        collection = db["points"]
        parts = {
            "points": collection,
            "rows": collection.iterate(batch_size=5),
            "prepared": collection.prepare(),
            "scores": collection.query(random_vectors(1), 3)[0].scores,
        }
        holder = holder or Holder()
        holder.__dict__.update(parts)
        collection.holder = holder

    db, seen = points._database, []
    expected = points.query(random_vectors(1), 3)[0].scores.tolist()
    for first in (True, False):
        hold(first)
        gc.collect()
    assert seen == [(100, expected, 5, 4)] * 2


def test_everything_raises_after_close(points, db):
    rows, prepared = points.iterate(batch_size=5), points.prepare()
    next(rows)
    db.close()
    vectors = random_vectors(1)
    for call in (
        db.collections, db.checkpoint, db.compact, db.verify, db.stats, db.refresh,
        lambda: db["points"], lambda: db.create_collection("b", 3), lambda: "points" in db,
        lambda: db.drop_collection("points"), lambda: db.backup("copy"), lambda: len(db),
        lambda: db.get_or_create_collection("points"),
        lambda: next(rows), lambda: prepared.run(vectors), lambda: points.prepare(),
        lambda: points.add(None, vectors), lambda: points.upsert(1, vectors),
        lambda: points.delete(1), lambda: points.delete(where="TRUE"), points.count,
        lambda: points.get(1), lambda: points.get(where="TRUE"), points.peek, points.iterate,
        lambda: points.query(vectors), lambda: points.search(vectors),
        lambda: points.query_by_id(1), lambda: points.explain(vectors), points.measure,
        points.stats, points.describe, lambda: points.add_field("x", int),
        lambda: points.contains(1), lambda: 1 in points, lambda: len(points),
    ):  # fmt: skip
        with pytest.raises(quashdb.MisuseError, match="closed") as caught:
            call()
        assert isinstance(caught.value, RuntimeError)
    assert points.name == "points" and points.dim == DIM
    rows.close()
    prepared.close()
    db.set_progress(None)


def test_collection_keeps_its_database(tmp_path):
    collection = quashdb.open(tmp_path / "db").create_collection("a", DIM)
    gc.collect()
    collection.add(None, random_vectors(3))
    assert len(collection) == 3
    rows = collection.iterate()
    del collection
    gc.collect()
    assert len(next(rows)) == 3
    del rows
    gc.collect()
    quashdb.open(tmp_path / "db").close()  # the last reference closed it


def test_results_are_freed(points):
    points.query(random_vectors(3), 5).to_dict()
    before = live_results()
    for _ in range(20):
        points.query(random_vectors(3), 5).to_dict()
        points.get(1)
        list(points.iterate(batch_size=7))
    assert live_results() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_may_not_use_handles(tmp_path):
    """In a process of its own: forking this one would take its threads along."""
    run_program(
        tmp_path,
        """
        import gc, os, sys, numpy as np, quashdb
        db = quashdb.open(sys.argv[1])
        a = db.create_collection("a", 4)
        a.add(range(100), np.eye(100, 4) + 1)
        rows, prepared = a.iterate(batch_size=10), a.prepare()
        found = a.query(np.ones(4), 3)
        child = os.fork()
        if child == 0:
            def refused(call):
                try:
                    call()
                except quashdb.MisuseError as error:
                    assert "fork" in str(error), error
                else:
                    raise AssertionError("not refused")
            refused(a.count)
            refused(lambda: a.search(np.ones(4)))
            refused(lambda: a.add(None, np.ones(4)))
            refused(lambda: next(rows))
            refused(lambda: prepared.run(np.ones(4)))
            refused(db.collections)
            refused(db.verify)
            assert len(found[0]) == 3 and found.ids[0].shape == (3,)
            refused(quashdb.open)
            refused(lambda: quashdb.open(sys.argv[1]))
            db.close()
            assert db.is_closed
            del a, rows, prepared, found, db
            gc.collect()
            os._exit(7)  # as multiprocessing does
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status
        assert len(a) == 100 and len(next(rows)) == 10
        a.add(None, np.ones(4))
        db.close()
        with quashdb.open(sys.argv[1], "readonly") as again:
            assert len(again["a"]) == 101
            assert again.verify()["ok"]
        print("done")
        """,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_open_after_a_fork(tmp_path):
    """Importing is no opening: a child may then open databases, in parallel too."""
    run_program(
        tmp_path,
        """
        import os, sys, numpy as np, quashdb
        child = os.fork()
        with quashdb.open(sys.argv[1] + str(child == 0), threads=2) as db:
            a = db.create_collection("a", 64)
            vectors = np.random.default_rng(0).standard_normal((20000, 64))
            a.add(None, vectors)
            assert a.search(vectors[:200], 1)[0][:, 0].tolist() == a.peek(200).ids.tolist()
        if child:
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            print("done")
        """,
    )


def test_open_at_exit_is_closed(tmp_path):
    """Databases in globals, in a cycle and in a default argument."""
    run_program(
        tmp_path,
        """
        import sys, numpy as np, quashdb
        db = quashdb.open(sys.argv[1], durability="normal")
        a = db.create_collection("a", 4)
        ids = a.add(None, np.ones((10, 4)))
        rows, prepared, found = a.iterate(), a.prepare(), a.query(np.ones(4))
        class Cycle: pass
        cycle = Cycle(); cycle.itself = cycle; cycle.db = quashdb.open()
        cycle.rows = cycle.db.create_collection("b", 4).iterate()
        def keep(db=db, vectors=found.scores): pass
        print("done")
        """,
    )
    with quashdb.open(tmp_path / "db", "readwrite") as db:
        assert len(db["a"]) == 10


def test_interrupt_cancels_a_long_call(tmp_path):
    """Ctrl-C in a call that reports progress, without a callback set."""
    run_program(
        tmp_path,
        """
        import os, signal, sys, threading, numpy as np, quashdb
        db = quashdb.open(sys.argv[1], durability="normal")
        a = db.create_collection("a", 128)
        a.add(None, np.random.default_rng(0).standard_normal((20000, 128)))
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            while True:
                a.measure(sample=2000)
        except KeyboardInterrupt:
            pass
        assert a.count() == 20000
        print("done")
        """,
    )


def test_what_a_signal_handler_raises_comes_through(tmp_path):
    """From within a call, where Python would print and forget it."""
    run_program(
        tmp_path,
        """
        import os, signal, sys, numpy as np, quashdb
        db = quashdb.open(sys.argv[1], durability="normal")
        db.create_collection("a", 8).add(None, np.eye(8))

        def send(number):
            return lambda done, total: os.kill(os.getpid(), number)

        def terminate(number, frame):
            try:
                db.close()
            except quashdb.MisuseError:
                sys.exit(number)

        def time_out(number, frame):
            raise TimeoutError

        ticks = []
        for number, handler, expected in (
            (signal.SIGTERM, terminate, SystemExit),
            (signal.SIGALRM, time_out, TimeoutError),
            (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
            (signal.SIGALRM, lambda *_: ticks.append(1), None),
            (signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.SIG_IGN), None),
        ):
            signal.signal(number, handler)
            try:
                db.verify(send(number))
            except BaseException as error:
                assert type(error) is expected, error
            else:
                assert expected is None
            if expected is not None:
                assert signal.getsignal(number) is handler
        assert ticks and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert db.verify()["ok"]
        print("done")
        """,
    )


def test_searches_can_be_interrupted(tmp_path):
    run_program(
        tmp_path,
        """
        import signal, sys, numpy as np, quashdb
        rng = np.random.default_rng(0)
        db = quashdb.open(sys.argv[1], durability="normal")
        a = db.create_collection("a", 64, rerank="f32")
        a.add(None, rng.standard_normal((20000, 64)))
        queries = rng.standard_normal((30000, 64)).astype(np.float32)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for search in (
            lambda: a.search(queries, threads=1),
            lambda: a.query(queries, threads=1),
            lambda: a.prepare(include=None, threads=1).run(queries),
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            try:
                search()
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("went on")
        assert len(a.search(queries[:3])[0]) == 3
        print("done")
        """,
    )


def test_a_signal_handler_that_closes_is_refused(db, monkeypatch):
    """Closing waits for calls, and the handler is within one."""
    def close(*_arguments):
        db.close()

    monkeypatch.setattr(_calls.json, "loads", close)
    with pytest.raises(quashdb.MisuseError, match="inside another call"):
        db.collections()
    monkeypatch.undo()
    assert db.collections() == []


def test_handles_cannot_be_pickled(db, points):
    result = points.query(random_vectors(1))
    for value in (db, points, points.prepare(), points.iterate(), points.get(), result, result[0]):
        with pytest.raises(TypeError, match="open the database where it is to be used"):
            pickle.dumps(value)
        with pytest.raises(TypeError, match="pickled or copied"):
            copy.deepcopy(value)
    assert pickle.loads(pickle.dumps(result[0][0])).id == result[0][0].id


def _count(path):
    with quashdb.open(path, "readonly") as db:
        return len(db["a"])


def test_spawned_processes_read(tmp_path):
    with quashdb.open(tmp_path / "db") as db:
        db.create_collection("a", DIM).add(None, random_vectors(20))
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        assert pool.map(_count, [str(tmp_path / "db")] * 4) == [20] * 4


def run_program(tmp_path, program):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(program),
         tmp_path / "db"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
