"""Searches on a GPU give the ids and scores of the CPU, to the bit."""

import numpy as np
import pytest

import quashdb


@pytest.fixture
def db():
    with quashdb.open() as database:
        probe = database.create_collection("probe", 8)
        try:
            probe.attach_gpu()
        except quashdb.UnsupportedError as error:
            pytest.skip(str(error))
        yield database


def clustered(n, dim, seed, spread=0.6):
    """Vectors around a few hundred centres, as embeddings lie, in shuffled order."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(n // 50, 1), dim))
    rows = centres[rng.integers(len(centres), size=n)]
    return (rows + spread * rng.standard_normal((n, dim))).astype(np.float32)


def assert_same(collection, queries, k=10, device="gpu:0", attach=0, **options):
    """The GPU's results against the CPU's; attaches and detaches. `device` None:
    whichever can list all rows that compete."""
    collection.detach_gpu()
    expected = collection.search(queries, k, **options)
    assert collection.explain(queries, k, **options)["device"] == "cpu"
    collection.attach_gpu(attach)
    found = collection.search(queries, k, **options)
    explained = collection.explain(queries, k, **options)
    assert np.array_equal(found[0], expected[0])
    assert found[1].tobytes() == expected[1].tobytes()
    assert device is None or explained["device"] == device, explained


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
@pytest.mark.parametrize("rerank", ["none", "int8", "f16", "f32"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_every_kind_of_collection(db, metric, rerank, bits):
    dim = 100
    collection = db.create_collection("a", dim, metric, bits=bits, rerank=rerank)
    collection.add(np.arange(30000), clustered(30000, dim, bits))
    queries = clustered(40, dim, 99)
    assert_same(collection, queries)
    assert_same(collection, queries[:1])
    assert_same(collection, queries[:9], k=100)
    for planes in (2, 4) if bits > 1 else (4,):
        assert_same(collection, queries[:11], planes=planes)
        assert_same(collection, queries[:3], k=50, planes=planes)
        assert collection.explain(queries, 10, planes=planes)["planes"] == planes


@pytest.mark.parametrize("dim", [1, 2, 16, 31, 64, 127, 128, 129, 384, 768, 1536, 3000])
def test_dimensions(db, dim):
    n = 20000 if dim <= 768 else 9000
    collection = db.create_collection("a", dim, "ip")
    collection.add(np.arange(n), clustered(n, dim, dim))
    queries = clustered(17, dim, 99)
    assert_same(collection, queries)
    assert_same(collection, queries[:3])
    for planes in (2, 4):
        assert_same(collection, queries[:1], planes=planes)
        assert_same(collection, queries[:9], planes=planes)


def test_filters_and_pages(db):
    collection = db.create_collection("a", 64, "cosine", fields={"part": int})
    n = 40000
    rng = np.random.default_rng(1)
    parts = rng.integers(10, size=n)
    collection.add(np.arange(n), clustered(n, 64, 1), [{"part": int(part)} for part in parts])
    queries = clustered(20, 64, 99)
    for where in ("part = 3", "part >= 2", "part IN (1, 9) OR part = 4"):
        assert_same(collection, queries, where=where)
        assert_same(collection, queries[:5], where=where)
        assert_same(collection, queries, where=where, planes=4)
    for least in (0.1, 0.3, 0.6):
        assert_same(collection, queries[:4], k=1000, device=None, min_score=least)
    pages = {}
    for attach in (collection.detach_gpu, collection.attach_gpu):
        attach()
        after, pages[attach] = None, []
        for _ in range(5):
            page = collection.query(queries[0], 20, after=after)
            pages[attach] += list(zip(page.ids[0].tolist(), page.scores[0].tolist(), strict=True))
            after = pages[attach][-1][::-1]
    assert pages[collection.attach_gpu] == pages[collection.detach_gpu]


def test_writes_are_seen(db):
    collection = db.create_collection("a", 48, "l2")
    vectors = clustered(30000, 48, 3)
    queries = clustered(10, 48, 99)
    for first in range(0, 30000, 7000):
        rows = np.arange(first, min(first + 7000, 30000))
        collection.add(rows, vectors[rows])
        assert_same(collection, queries)
    collection.delete(list(range(0, 30000, 3)))
    assert_same(collection, queries)
    collection.upsert(np.arange(1, 3000, 3), vectors[:1000] + 1)
    assert_same(collection, queries)
    collection.delete(list(range(1, 20000, 3)))
    assert_same(collection, queries)


def test_ids(db):
    """Of any value, which come from the GPU, and strings, which do not."""
    vectors, queries = clustered(20000, 48, 8), clustered(20, 48, 99)
    queries[:2] = vectors[:2]
    limits = np.iinfo(np.int64)
    ids = np.random.default_rng(8).integers(limits.min, limits.max, len(vectors), endpoint=True)
    ids[:2] = limits.min, limits.max
    collection = db.create_collection("ints", 48)
    collection.add(ids, vectors)
    assert_same(collection, queries, k=40)
    assert collection.search(queries, 1)[0][:2, 0].tolist() == ids[:2].tolist()
    collection = db.create_collection("texts", 48, id_type="string")
    collection.add([f"n{id}" for id in ids], vectors)
    assert_same(collection, queries, k=40)


def test_ties_go_to_the_lower_id(db):
    collection = db.create_collection("a", 32, "ip")
    one = clustered(1, 32, 5)
    vectors = np.concatenate([clustered(15000, 32, 4), np.repeat(one, 300, axis=0)])
    collection.add(np.arange(len(vectors)), vectors)
    assert_same(collection, one, k=50)
    # Among many queries, where more rows tie than the device hands out.
    queries = np.concatenate([one, clustered(20, 32, 6), one])
    assert_same(collection, queries, k=50)
    assert_same(collection, queries, k=50, planes=4)


def test_a_long_batch_can_be_cancelled(db):
    collection = db.create_collection("a", 64)
    collection.add(np.arange(100000), clustered(100000, 64, 4))
    queries = clustered(60000, 64, 99)
    collection.attach_gpu()
    expected = collection.search(queries, 10)
    calls = []

    def search_inside(done, total):
        calls.append((done, total))
        assert np.array_equal(collection.search(queries[:300], 10)[0], expected[0][:300])
        return False

    db.set_progress(search_inside)
    with pytest.raises(quashdb.CancelledError):
        collection.search(queries, 10)
    ((done, total),) = calls
    assert 0 < done <= total == len(queries)
    db.set_progress(None)
    found = collection.search(queries, 10)
    assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
    assert collection.explain(queries[:300], 10)["device"] == "gpu:0"


def test_a_budget_divides_the_work(db):
    collection = db.create_collection("a", 128, "cosine")
    collection.add(np.arange(40000), clustered(40000, 128, 7))
    queries = clustered(12, 128, 99)
    expected = collection.search(queries, 10)
    for budget in (300_000, 2_000_000, 5_000_000, 20_000_000):
        collection.attach_gpu(budget_bytes=budget)
        found = collection.search(queries, 10)
        assert np.array_equal(found[0], expected[0])
        assert found[1].tobytes() == expected[1].tobytes()
        assert collection.describe()["gpu"][0]["used_bytes"] <= budget


def test_fixed_widths(db):
    collection = db.create_collection("a", 96, "ip")
    collection.add(np.arange(30000), clustered(30000, 96, 8))
    queries = clustered(12, 96, 99)
    assert_same(collection, queries, candidates=200)
    assert_same(collection, queries, candidates=500, rerank_candidates=50)
    assert_same(collection, queries, candidates=200, planes=2)
    assert_same(collection, queries, candidates=200, planes=4)


def test_wide_searches(db):
    """More survivors than are ranked on the device, or than have room in its tables."""
    collection = db.create_collection("a", 64, "cosine")
    collection.add(np.arange(40000), clustered(40000, 64, 8, spread=3))
    queries = clustered(20, 64, 99)
    for k in (1, 200, 512, 513, 1500):
        assert_same(collection, queries, k=k)
    random = np.random.default_rng(3).standard_normal((20, 64)).astype(np.float32)
    assert_same(collection, random, k=30)


def test_planes_that_are_not_there(db):
    collection = db.create_collection("a", 128, "cosine")
    collection.add(np.arange(40000), clustered(40000, 128, 7))
    queries = clustered(12, 128, 99)
    expected = collection.search(queries, 10, planes=2)
    collection.attach_gpu(budget_bytes=1_000_000)  # of plane 1 alone
    found = collection.search(queries, 10, planes=2)
    assert np.array_equal(found[0], expected[0])
    explained = collection.explain(queries, 10, planes=2)
    assert explained["device"] == "cpu" and "first plane alone" in explained["gpu_note"]


@pytest.mark.parametrize("attach", [[0, 0], [0, 0, 0], "all"])
def test_several_devices(db, attach):
    collection = db.create_collection("a", 100, "cosine", fields={"part": int})
    n = 50000
    parts = [{"part": i % 7} for i in range(n)]
    vectors = clustered(n, 100, 11)
    collection.add(np.arange(n), vectors, parts)
    collection.attach_gpu(attach)
    gpus = collection.describe()["gpu"]
    device = "gpu:" + ",".join(str(one["device"]) for one in gpus)
    used = [one["used_bytes"] for one in gpus]
    assert min(used) > 0 and max(used) < 1.3 * min(used)
    queries = clustered(40, 100, 99)
    same = {"attach": attach, "device": device}
    assert_same(collection, queries, **same)
    assert_same(collection, queries[:1], k=100, **same)
    assert_same(collection, queries[:9], planes=2, **same)
    assert_same(collection, queries[:9], planes=4, **same)
    assert_same(collection, queries, where="part = 3", **same)
    many = clustered(300, 100, 98)  # several passes, which devices rank in turn
    assert_same(collection, many, **same)
    assert_same(collection, many, k=100, where="part >= 2", **same)
    collection.delete(list(range(0, n, 3)))
    assert_same(collection, queries, **same)
    assert_same(collection, many, planes=2, **same)
    collection.upsert(np.arange(0, 9000), np.repeat(vectors[:1], 9000, axis=0),
                      [{"part": 1}] * 9000)
    assert_same(collection, vectors[:12], k=20, device=None, attach=attach)  # ties, in both parts


def test_the_callers_device_stays(db):
    torch = pytest.importorskip("torch")
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    torch.zeros(1, device="cuda:0")  # in use: a device that is not may be left
    collection = db.create_collection("a", 100)
    collection.add(np.arange(30000), clustered(30000, 100, 1))
    queries = clustered(200, 100, 2)
    for attach in (1, [0, 1]):
        collection.attach_gpu(attach)
        for batch in (queries[:1], queries):
            collection.search(batch, 10)
            assert torch.cuda.current_device() == 0
    collection.detach_gpu()
    assert torch.cuda.current_device() == 0


def test_wrong_device(db):
    collection = db.create_collection("a", 8)
    with pytest.raises(quashdb.InvalidError, match="device is 99"):
        collection.attach_gpu(99)
    with pytest.raises(quashdb.InvalidError, match="device is 99"):
        collection.attach_gpu([0, 99])
    with pytest.raises(quashdb.InvalidError, match="num_devices is 0"):
        collection.attach_gpu([])
    with pytest.raises(ValueError, match="'some'"):
        collection.attach_gpu("some")


def test_threads_at_once(db):
    import threading

    collection = db.create_collection("a", 128, "cosine")
    collection.add(np.arange(30000), clustered(30000, 128, 9))
    queries = clustered(64, 128, 99)
    expected = collection.search(queries, 10)
    collection.attach_gpu()
    wrong = []

    def search(first):
        for _ in range(5):
            found = collection.search(queries[first:first + 16], 10)
            if not np.array_equal(found[0], expected[0][first:first + 16]):
                wrong.append(first)

    threads = [threading.Thread(target=search, args=(i % 4 * 16,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
