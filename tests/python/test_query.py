"""Searching, compared with NumPy."""

import numpy as np
import pytest
from conftest import DIM, random_vectors

import quashdb


def scores_of(metric, queries, vectors):
    queries, vectors = np.asarray(queries, np.float64), np.asarray(vectors, np.float64)
    if metric == "ip":
        return queries @ vectors.T
    if metric == "cosine":
        return (queries @ vectors.T) / np.outer(
            np.linalg.norm(queries, axis=1), np.linalg.norm(vectors, axis=1)
        )
    return -((queries[:, None, :] - vectors[None, :, :]) ** 2).sum(axis=2)


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_exact_search_equals_numpy(db, metric):
    vectors, queries = random_vectors(300, 33), random_vectors(7, 33, seed=1)
    collection = db.create_collection("a", 33, metric, rerank="f32")
    collection.add(np.arange(300), vectors)
    expected = scores_of(metric, queries, vectors)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :20]
    result = collection.query(queries, 20, exact=True)
    assert len(result) == 7
    assert np.array_equal(np.stack(result.ids), order)
    best = np.take_along_axis(expected, order, axis=1)
    np.testing.assert_allclose(np.stack(result.scores), best, rtol=1e-4, atol=1e-4)
    distances = 1 - best if metric == "cosine" else -best
    np.testing.assert_allclose(np.stack(result.distances), distances, rtol=1e-4, atol=1e-4)
    ids, scores = collection.search(queries, 20, exact=True)
    assert ids.dtype == np.int64 and scores.dtype == np.float32
    assert np.array_equal(ids, order) and np.array_equal(scores, np.stack(result.scores))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_staged_search_finds_most(db, bits):
    vectors, queries = random_vectors(3000, 64), random_vectors(50, 64, seed=1)
    collection = db.create_collection("a", 64, bits=bits)
    collection.add(np.arange(3000), vectors)
    exact, _ = collection.search(queries, 10, exact=True)
    found, _ = collection.search(queries, 10)
    recall = np.mean(
        [len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    )
    assert recall >= 0.9


def test_hits(points):
    result = points.query(random_vectors(100)[3], 2, include=("metadatas", "documents", "vectors"))
    assert len(result) == 1
    hits = result[0]
    assert len(hits) == 2 and [hit.id for hit in hits] == hits.ids.tolist()
    hit = hits[0]
    assert hit.id == 3 and hit.score == pytest.approx(0) and hit.distance == -hit.score
    assert hit.metadata["year"] == 1953 and hit.document == "Zeile 3 ü"
    assert hit.vector.tolist() == random_vectors(100)[3].tolist()
    assert hits.documents[0] == hit.document and hits.metadatas[0] == hit.metadata
    assert hits.vectors.shape == (2, DIM) and hits.distances.shape == (2,)
    assert hits[-1].id == hits.ids[1]
    assert [hit.id for hit in hits[:1]] == [3] and [hit.id for hit in hits[::-1]][1] == 3
    with pytest.raises(IndexError):
        hits[2]
    with pytest.raises(IndexError):
        result[1]
    assert "1 queries" in repr(result) and "2 rows" in repr(hits)


def test_result_of_several_queries(points):
    result = points.query(random_vectors(100)[:3], 4, include=None)
    assert [hits.ids[0] for hits in result] == [0, 1, 2]
    assert [len(hits) for hits in result[1:]] == [4, 4]
    assert result.metadatas is result.documents is result.vectors is None
    assert result[0][0].metadata is None
    dictionary = result.to_dict()
    assert [ids[0] for ids in dictionary["ids"]] == [0, 1, 2]
    assert len(dictionary["scores"][0]) == len(dictionary["distances"][0]) == 4


def test_no_queries(points):
    result = points.query(np.empty((0, DIM)))
    assert len(result) == 0 and result.ids == []
    ids, scores = points.search([], 3)
    assert ids.shape == scores.shape == (0, 3)


def test_empty_collection(db):
    collection = db.create_collection("a", DIM)
    result = collection.query(random_vectors(2), 5)
    assert [len(hits) for hits in result] == [0, 0] and result[0].cursor is None
    ids, scores = collection.search(random_vectors(2), 5)
    assert (ids == -1).all() and np.isnan(scores).all()


def test_filters_keep_k(points):
    vectors = random_vectors(100)
    for where, matching in (
        ("year = 1990", [40]),
        ("lang = 'en' AND is_new = TRUE", list(range(51, 100, 2))),
        ({"year": {"$gte": 2000}, "tags": {"$contains": "t0"}}, list(range(51, 100, 3))),
        ({"$or": [{"year": 1951}, {"lang": None}]}, [1, 7]),
        ("id IN (4, 6)", [4, 6]),
        ("FALSE", []),
    ):
        result = points.query(vectors[:2], 50, where)
        for hits in result:
            assert sorted(hits.ids.tolist()) == matching
        ids, _ = points.search(vectors[:2], 50, where)
        assert sorted(set(ids[0].tolist()) - {-1}) == matching


def test_min_score(points):
    vectors = random_vectors(100)
    every = points.query(vectors[0], 100, exact=True)[0]
    threshold = float(every.scores[30])
    found = points.query(vectors[0], 100, min_score=threshold, exact=True)[0]
    assert found.ids.tolist() == every.ids[:31].tolist()
    ids, scores = points.search(vectors[0], 40, min_score=threshold, exact=True)
    assert (ids[0, 31:] == -1).all() and np.isnan(scores[0, 31:]).all()


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_paging(db, id_type):
    collection = db.create_collection("a", 2, "l2", id_type, rerank="f32")
    vectors = np.repeat([[1.0, 0], [0, 1], [3, 3]], 9, axis=0)  # many ties
    ids = [str(n) if id_type == "string" else n for n in range(27)]
    collection.add(ids, vectors)
    query = [0.9, 0.2]
    whole = collection.query(query, 27, exact=True)[0]
    pages, cursor = [], None
    for _ in range(8):
        hits = collection.query(query, 4, exact=True, after=cursor)[0]
        pages += list(hits.ids)
        cursor = hits.cursor or cursor
    assert pages == list(whole.ids)
    assert len(collection.query(query, 4, after=tuple(cursor))[0]) == 0


@pytest.mark.parametrize(
    ("after", "error"),
    [(3, TypeError), ((1.0,), TypeError), (("a", 1), TypeError), ((1.0, "a"), TypeError),
     ((float("nan"), 1), ValueError)],
)  # fmt: skip
def test_wrong_cursors(points, after, error):
    with pytest.raises(error, match="after"):
        points.query(random_vectors(1), after=after)


def test_query_by_id(points, words):
    result = points.query_by_id([5, 6], 3)
    assert [hits.ids[0] for hits in result] == [5, 6]
    assert points.query_by_id(5, 1)[0].documents == ["Zeile 5 ü"]
    assert words.query_by_id("ü", 1).ids == [["ü"]]
    with pytest.raises(KeyError, match="500"):
        points.query_by_id([5, 500])
    with pytest.raises(TypeError):
        points.query_by_id("a")
    with pytest.raises(ValueError, match="k is 0"):
        points.query_by_id(5, 0)


def test_string_ids(words):
    vectors = random_vectors(3)
    assert [hits.ids[0] for hits in words.query(vectors, 2)] == ["a", "b", "ü"]
    ids, scores = words.search(vectors, 5)
    assert ids.dtype == object and ids[:, 0].tolist() == ["a", "b", "ü"]
    assert ids[0, 3:].tolist() == [None, None] and np.isnan(scores[:, 3:]).all()
    with pytest.raises(ValueError, match="string ids"):
        words.search(vectors, 5, out=(np.empty((3, 5), np.int64), np.empty((3, 5), np.float32)))


def test_out_arrays(points):
    queries = random_vectors(3)
    ids, scores = np.empty((3, 4), np.int64), np.empty((3, 4), np.float32)
    found = points.search(queries, 4, out=(ids, scores))
    assert found[0] is ids and found[1] is scores
    assert np.array_equal(ids, points.search(queries, 4)[0])
    for wrong in (ids[:, :3], ids.astype(np.int32), np.empty((4, 3), np.int64).T):
        with pytest.raises(ValueError, match="ids of out"):
            points.search(queries, 4, out=(wrong, scores))
    with pytest.raises(TypeError, match="scores of out"):
        points.search(queries, 4, out=(ids, [1]))
    scores.flags.writeable = False
    with pytest.raises(ValueError, match="scores of out"):
        points.search(queries, 4, out=(ids, scores))


@pytest.mark.parametrize("method", ["query", "search", "explain"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vectors": [1, 2]}, ValueError, r"shape \(1, 2\)"),
        ({"vectors": [[np.nan] * DIM]}, ValueError, "query 0 has nan"),
        ({"vectors": "text"}, TypeError, "dtype"),
        ({"k": 0}, ValueError, "k is 0"),
        ({"k": -1}, ValueError, "k is -1"),
        ({"k": 16385}, quashdb.LimitError, "k is 16385"),
        ({"k": 2**64}, quashdb.LimitError, "k is"),
        ({"k": 2.0}, TypeError, "k is a float"),
        ({"where": "year >"}, quashdb.FilterSyntaxError, "expected"),
        ({"where": "nothing = 1"}, quashdb.QuashError, "nothing"),
        ({"where": "year = 'x'"}, quashdb.FieldTypeError, "year"),
        ({"where": "a\0b"}, ValueError, "NUL"),
        ({"where": 3}, TypeError, "where is a int"),
        ({"where": "x" * ((1 << 20) + 1)}, quashdb.LimitError, "filter"),
        ({"where": "(" * 100 + "TRUE" + ")" * 100}, quashdb.QuashError, "64"),
        ({"min_score": float("nan")}, ValueError, "min_score"),
        ({"min_score": "x"}, TypeError, "min_score"),
        ({"candidates": -1}, ValueError, "candidates"),
        ({"candidates": 2**32}, quashdb.LimitError, "candidates"),
        ({"rerank_candidates": 1.5}, TypeError, "rerank_candidates"),
        ({"planes": 3}, ValueError, "planes"),
        ({"threads": -1}, ValueError, "threads"),
    ],
)
def test_refuses(points, method, arguments, error, message):
    given = dict(arguments)
    vectors = given.pop("vectors", random_vectors(1))
    with pytest.raises(error, match=message):
        getattr(points, method)(vectors, **given)


def test_filter_errors_have_offsets(points):
    with pytest.raises(quashdb.FilterSyntaxError) as caught:
        points.count("year = 2000 AND AND")
    assert caught.value.offset == 16
    with pytest.raises(ValueError):
        points.count("year = ")
    with pytest.raises(quashdb.FieldTypeError) as caught:
        points.count("is_new = TRUE AND year = 'x'")
    assert 18 <= caught.value.offset <= 25


def test_zero_query_with_cosine(words):
    with pytest.raises(ValueError, match="cosine"):
        words.query(np.zeros(DIM))


def test_exact_needs_a_rerank_tier(db):
    collection = db.create_collection("a", DIM, rerank="none")
    collection.add(range(20), random_vectors(20))
    assert collection.search(random_vectors(20)[4], 1)[0].tolist() == [[4]]
    assert collection.get(4, include="vectors").vectors.shape == (1, DIM)
    with pytest.raises(ValueError, match="rerank"):
        collection.query(random_vectors(1), exact=True)
    with pytest.raises(ValueError, match="rerank"):
        collection.measure()


def test_prepared_query(points):
    vectors = random_vectors(100)
    with points.prepare("lang = 'en'", include="documents") as prepared:
        with pytest.raises(quashdb.MisuseError, match="run"):
            prepared.explain()
        for _ in range(3):
            hits = prepared.run(vectors[5], 3)[0]
            assert hits.ids[0] == 5 and hits.documents[0] == "Zeile 5 ü"
        assert len(prepared.run(vectors[:4], 2)) == 4
        assert prepared.explain()["filter"] == "lang = 'en'"
        points.delete(5)
        assert prepared.run(vectors[5], 3)[0].ids[0] != 5
        for arguments, error in (((vectors[5], 0), ValueError), (([1.0],), ValueError)):
            with pytest.raises(error):
                prepared.run(*arguments)
    with pytest.raises(quashdb.MisuseError, match="closed"):
        prepared.run(vectors[5])
    prepared.close()
    with pytest.raises(quashdb.FilterSyntaxError):
        points.prepare("(")


def test_explain(points):
    explained = points.explain(random_vectors(2), 5, "year > 2000")
    assert explained["rows"] == 100 and explained["matching_rows"] == 49
    assert explained["selectivity"] == pytest.approx(0.49)
    assert explained["kernel"] == quashdb.isa() and explained["measured_recall"] is None
    assert all(stage["rows_in"] >= stage["rows_out"] for stage in explained["stages"])


def test_recall_and_nprobe(points):
    vectors = random_vectors(3)
    expected = points.query(vectors, 5).ids
    for options in ({"recall": 1}, {"nprobe": 3}, {"recall": 1, "nprobe": 1}):
        assert np.array_equal(points.query(vectors, 5, **options).ids, expected)
        assert np.array_equal(points.search(vectors, 5, **options)[0], expected)
        with points.prepare(**options) as prepared:
            assert np.array_equal(prepared.run(vectors, 5).ids, expected)
        explained = points.explain(vectors, 5, **options)
        assert explained["lists"] == 0 and explained["recall_target"] is None
    for options, error in (
        ({"recall": 1.5}, ValueError),
        ({"recall": -1}, ValueError),
        ({"recall": float("nan")}, ValueError),
        ({"recall": "high"}, TypeError),
        ({"nprobe": -1}, ValueError),
        ({"nprobe": 2**32}, ValueError),
        ({"nprobe": 1.5}, TypeError),
    ):
        with pytest.raises(error, match=next(iter(options))):
            points.query(vectors, 5, **options)


def test_measure(db):
    collection = db.create_collection("a", 32)
    collection.add(None, random_vectors(2000, 32))
    measured = collection.measure(5, sample=50, seed=3)
    assert measured.queries == 50
    assert 0 <= measured.recall_low <= measured.recall <= 1
    assert measured.search_us > 0 and measured.exact_us > 0
    found = collection.measure(
        queries=random_vectors(20, 32, seed=2), target_recall=0.95, apply=True
    )
    assert found.queries == 20 and found.recall >= 0.95
    assert collection.explain(random_vectors(1, 32))["measured_recall"] == pytest.approx(
        found.recall
    )
    for arguments, error in (
        ({"k": 0}, ValueError),
        ({"sample": 0}, ValueError),
        ({"target_recall": 0}, ValueError),
        ({"target_recall": 1.5}, ValueError),
        ({"seed": -1}, ValueError),
        ({"queries": [[1.0]]}, ValueError),
        ({"sample": "x"}, TypeError),
    ):
        with pytest.raises(error):
            collection.measure(**arguments)
    with pytest.raises(ValueError):
        db.create_collection("empty", 4).measure()
