"""Readers and writers on several threads of one handle."""

import threading
import time

import numpy as np
import pytest
from conftest import DIM, random_vectors

import quashdb


def run_threads(*bodies):
    errors = []

    def guarded(body):
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("path", [":memory:", "db"])
def test_readers_see_whole_batches(tmp_path, path):
    """Every batch carries one epoch in all of its rows; a reader must see all
    of an epoch's rows or none, and epochs in order."""
    where = path if path == ":memory:" else tmp_path / path
    n, epochs = 40, 60
    with quashdb.open(where, durability="normal") as db:
        collection = db.create_collection("a", DIM, fields={"epoch": int})
        vectors = random_vectors(n)

        def write_epoch(epoch):
            collection.upsert(np.arange(n), vectors, [{"epoch": epoch}] * n)

        write_epoch(0)
        done = threading.Event()

        def write():
            try:
                for epoch in range(1, epochs + 1):
                    write_epoch(epoch)
            finally:
                done.set()

        def read():
            last = 0
            while not done.is_set():
                for metadatas in (
                    collection.get().metadatas,
                    collection.get(range(n)).metadatas,
                    collection.query(vectors[0], n, exact=True)[0].metadatas,
                ):
                    seen = {metadata["epoch"] for metadata in metadatas}
                    assert len(metadatas) == n and len(seen) == 1
                    assert min(seen) >= last
                    last = min(seen)

        run_threads(write, read, read, read)
        assert collection.count({"epoch": epochs}) == n
        assert db.verify()["ok"]


def test_search_releases_the_gil(db):
    collection = db.create_collection("a", 256)
    collection.add(None, random_vectors(20000, 256))
    queries = random_vectors(400, 256)
    ticks = []
    done = threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    def search():
        try:
            began = time.perf_counter()
            while time.perf_counter() - began < 0.5:
                collection.search(queries, 10, exact=True, threads=1)
        finally:
            done.set()

    run_threads(tick, search)
    # With the GIL held, the ticks would stand still during each search.
    began = time.perf_counter()
    collection.search(queries, 10, exact=True, threads=1)
    one_search = time.perf_counter() - began
    assert np.median(np.diff(ticks)) < one_search / 2


def test_handles_are_shared(db):
    collection = db.create_collection("a", DIM, fields={"writer": int})
    prepared = collection.prepare()
    vectors = random_vectors(10)

    def write(writer):
        for _ in range(20):
            collection.add(None, vectors, [{"writer": writer}] * 10)
            collection.delete(where=f"writer = {writer} AND id < 0")

    def read():
        for _ in range(40):
            for hits in prepared.run(vectors, 5):
                assert len(hits) <= 5 and (np.diff(hits.scores) <= 0).all()
            prepared.explain()
            for batch in collection.iterate(batch_size=64):
                assert len(batch.metadatas) == len(batch)
            assert collection.search(vectors, 5)[0].shape == (10, 5)

    def manage(number):
        for turn in range(10):
            name = f"{number}-{turn}"
            db.create_collection(name, 3).add(None, [[1, 2, 3]])
            assert name in db and len(db[name]) == 1
            db.drop_collection(name)
            db.stats()

    run_threads(*(lambda w=w: write(w) for w in range(3)), read, read,
                *(lambda m=m: manage(m) for m in range(2)))  # fmt: skip
    assert len(collection) == 600
    assert [collection.count({"writer": writer}) for writer in range(3)] == [200] * 3
    assert len(set(collection.get().ids.tolist())) == 600


def test_errors_belong_to_their_thread(points):
    def fail(field):
        for _ in range(200):
            with pytest.raises(quashdb.QuashError, match=field):
                points.count(f"{field} = 1")

    run_threads(*(lambda f=f: fail(f) for f in ("alpha_field", "beta_field", "gamma_field")))


def test_close_while_others_call(tmp_path):
    for attempt in range(10):
        db = quashdb.open(tmp_path / str(attempt))
        collection = db.create_collection("a", DIM)
        collection.add(None, random_vectors(200))
        started = threading.Barrier(4)

        def use(db=db, collection=collection, started=started):
            started.wait()
            with pytest.raises(quashdb.MisuseError, match="closed"):
                while True:
                    collection.search(random_vectors(2), 3)
                    assert len(db) == 1
                    db.stats()

        def close(db=db, started=started):
            started.wait()
            time.sleep(0.01)
            db.close()
            db.close()

        run_threads(use, use, close, close)
        assert db.is_closed
