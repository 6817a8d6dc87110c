"""Writing and reading rows."""

import sys

import numpy as np
import pytest
from conftest import DIM, random_vectors

import quashdb
from quashdb import _write

ALL = ("metadatas", "documents", "vectors")


class TestAdd:
    def test_assigns_ids_upward(self, db):
        collection = db.create_collection("a", DIM)
        first = collection.add(None, random_vectors(3))
        assert first.dtype == np.int64
        assert len(set(first.tolist())) == 3 and (np.diff(first) > 0).all()
        collection.add([first[-1] + 1000], random_vectors(1))
        assert collection.add(vectors=random_vectors(1))[0] > first[-1] + 1000

    def test_returns_the_ids_given(self, db):
        ints = db.create_collection("ints", DIM)
        assert ints.add([5, 3], random_vectors(2)).tolist() == [5, 3]
        strings = db.create_collection("strings", DIM, id_type="string")
        assert strings.add(["x", "y"], random_vectors(2)) == ["x", "y"]

    @pytest.mark.parametrize(
        "ids", [[4, 6], (4, 6), range(4, 8, 2), np.array([4, 6], np.int16),
                np.array([4, 6], np.uint64), np.array([4, 0, 6, 0])[::2],
                np.array([4, 6], object), {4: "a", 6: "b"}.keys()],
    )  # fmt: skip
    def test_integer_ids_of_any_kind(self, db, ids):
        collection = db.create_collection("a", DIM)
        collection.add(ids, random_vectors(2))
        assert collection.get().ids.tolist() == [4, 6]

    def test_extreme_integer_ids(self, db):
        collection = db.create_collection("a", DIM)
        ids = [-(2**63), -1, 0, 2**63 - 1]
        collection.add(ids, random_vectors(4))
        assert collection.get(ids).ids.tolist() == ids

    @pytest.mark.parametrize(
        "dtype", [np.float16, np.float32, np.float64, np.int8, np.uint32, ">f4"]
    )
    def test_vectors_of_any_dtype(self, db, dtype):
        collection = db.create_collection("a", 3, "l2", rerank="f32")
        collection.add([1, 2], np.array([[1, 2, 3], [4, 5, 6]], dtype))
        assert collection.get(include="vectors").vectors.tolist() == [[1, 2, 3], [4, 5, 6]]

    def test_vectors_in_any_layout(self, db):
        collection = db.create_collection("a", 3, "l2", rerank="f32")
        base = np.arange(24, dtype=np.float32).reshape(4, 6)
        frozen = base[:2, :3].copy()
        frozen.flags.writeable = False
        for vectors in (base[::2, ::2], np.asfortranarray(base[:2, :3]), base[:2, :3].tolist(),
                        base[1::-1, 2::-1], frozen):  # fmt: skip
            collection.upsert([1, 2], vectors)
            got = collection.get(include="vectors").vectors
            assert got.tolist() == np.asarray(vectors).tolist()

    def test_vectors_in_any_container(self, db):
        collection = db.create_collection("a", 3, "l2", rerank="f32")
        rows = [[1, 2, 3], [4, 5, 6]]
        column = np.empty(2, object)  # as a data frame's
        column[:] = [np.array(row, np.float32) for row in rows]
        for vectors in (column, np.array(rows, object), (row for row in rows), list(column)):
            collection.upsert([1, 2], vectors)
            assert collection.get(include="vectors").vectors.tolist() == rows
        column[1] = column[1][:2]
        with pytest.raises(ValueError, match="vectors is no array of numbers"):
            collection.upsert([1, 2], column)

    def test_one_row_alone(self, points):
        points.add(1000, random_vectors(1)[0], {"year": 5}, "text")
        assert points.get(1000).to_dict() == {
            "ids": [1000], "metadatas": [{"year": 5}], "documents": ["text"], "vectors": None,
        }  # fmt: skip
        with pytest.raises(TypeError, match="metadatas is one mapping"):
            points.add([1001, 1002], random_vectors(2), {"year": 5})

    def test_no_rows(self, points):
        assert points.add([], np.empty((0, DIM))).tolist() == []
        assert points.add(None, []).tolist() == []
        assert len(points) == 100

    def test_metadata_values_come_back(self, points):
        values = {
            "lang": "quote ' \" \\ \n ü 🙂", "year": -(2**63), "price": 1e-300, "is_new": False,
            "tags": ["", "ü"], "codes": [2**63 - 1],
        }  # fmt: skip
        points.add([500, 501, 502], random_vectors(3), [values, {}, {"year": None}])
        assert points.get([500, 501, 502]).metadatas == [values, {}, {}]

    def test_numpy_metadata(self, points):
        points.add(
            500, random_vectors(1),
            [{"year": np.int32(7), "price": np.float64(0.5), "is_new": np.bool_(True),
              "codes": np.array([1, 2]), "tags": ("a", "b")}],
        )  # fmt: skip
        assert points.get(500).metadatas == [
            {"year": 7, "price": 0.5, "is_new": True, "codes": [1, 2], "tags": ["a", "b"]}
        ]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"vectors": None}, TypeError, "vectors is missing"),
            ({"vectors": [[1, 2]]}, ValueError, r"shape \(1, 2\), expected \[n, 8\]"),
            ({"vectors": np.zeros((1, 1, DIM))}, ValueError, r"shape \(1, 1, 8\)"),
            ({"vectors": 3.0}, ValueError, r"shape \(\)"),
            ({"vectors": [[1, 2], [3]]}, ValueError, "vectors is no array"),
            ({"vectors": ["a"] * DIM}, TypeError, "vectors has dtype"),
            ({"vectors": np.zeros((1, DIM), complex)}, TypeError, "complex128"),
            ({"vectors": np.zeros((1, DIM), bool)}, TypeError, "bool"),
            ({"vectors": [[None] * DIM]}, TypeError, "vectors holds a NoneType"),
            ({"vectors": {"a": 1}}, TypeError, "vectors holds a dict"),
            ({"vectors": [[1, 2, 3, np.nan, 5, 6, 7, 8]]}, ValueError, "nan at coordinate 3"),
            ({"vectors": [[np.inf] * DIM]}, ValueError, "inf"),
            ({"vectors": [[1e300] * DIM]}, ValueError, "inf"),
            ({"ids": [1, 2]}, ValueError, "ids has 2 entries, vectors has 1 rows"),
            ({"ids": [[1]]}, ValueError, r"ids has shape \(1, 1\)"),
            ({"ids": ["a"]}, TypeError, "id type is int64"),
            ({"ids": [1.5]}, TypeError, "id type is int64"),
            ({"ids": [True]}, TypeError, "bool"),
            ({"ids": [1, None]}, TypeError, "ids holds a NoneType, expected integers"),
            ({"ids": [2**64]}, ValueError, f"id {2**64} does not fit 64 bits"),
            ({"ids": [2**63, 5]}, ValueError, f"id {2**63} does not fit 64 bits"),
            ({"ids": [2**63]}, ValueError, str(2**63)),
            ({"ids": [0]}, quashdb.ExistsError, "0"),
            ({"metadatas": [{}, {}]}, ValueError, "metadatas has 2 entries"),
            ({"metadatas": [3]}, TypeError, "metadata of row 0 is a int"),
            ({"metadatas": 3}, TypeError, "metadatas is a int"),
            ({"metadatas": [{"none": 3}]}, quashdb.QuashError, "none"),
            ({"metadatas": [{"year": "x"}]}, quashdb.FieldTypeError, "year"),
            ({"metadatas": [{"year": 1.5}]}, TypeError, "year"),
            ({"metadatas": [{"year": 2**63}]}, quashdb.QuashError, "year"),
            ({"metadatas": [{"tags": [1]}]}, TypeError, "tags"),
            ({"metadatas": [{"lang": "x", "price": float("nan")}]}, ValueError,
             "metadata of row 0: field 'price' is nan, expected a finite number"),
            ({"metadatas": [{"year": {1: 2}}]}, quashdb.QuashError, "year"),
            ({"metadatas": [{"year": object()}]}, TypeError, "field 'year' holds a value of type"),
            ({"metadatas": [{"lang": "\ud800"}]}, ValueError, "row 0"),
            ({"documents": ["a", "b"]}, ValueError, "documents has 2 entries"),
            ({"documents": [3]}, TypeError, "document of row 0 is a int"),
            ({"documents": ["a\0b"]}, ValueError, "NUL"),
            ({"documents": ["x" * ((16 << 20) + 1)]}, quashdb.LimitError, "document"),
        ],
    )
    def test_refuses(self, points, arguments, error, message):
        given = {"ids": [1000], "vectors": random_vectors(1), **arguments}
        with pytest.raises(error, match=message) as caught:
            points.add(**given)
        assert getattr(caught.value, "rows_written", 0) == 0
        assert len(points) == 100

    @pytest.mark.parametrize(
        ("ids", "error", "message"),
        [
            (None, ValueError, "ids is missing"),
            ([1], TypeError, "id 0 is a int"),
            (1, TypeError, "id type is string"),
            ([""], ValueError, "empty"),
            (["x\0y"], ValueError, "NUL"),
            (["x" * 1025], quashdb.LimitError, "1024"),
            (["\ud800"], ValueError, "Unicode"),
        ],
    )
    def test_refuses_string_ids(self, words, ids, error, message):
        with pytest.raises(error, match=message):
            words.add(ids, random_vectors(1))
        assert len(words) == 3

    def test_whole_batch_or_nothing(self, points):
        with pytest.raises(quashdb.ExistsError):
            points.add([1000, 1001, 5], random_vectors(3))
        with pytest.raises(quashdb.InvalidError, match="more than once"):
            points.add([1000, 1001, 1000], random_vectors(3))
        with pytest.raises(quashdb.FieldTypeError):
            points.add([1000, 1001], random_vectors(2), [{"year": 1}, {"year": "x"}])
        assert len(points) == 100 and 1000 not in points

    def test_zero_vector(self, words, points):
        with pytest.raises(ValueError, match="cosine"):
            words.add("zero", np.zeros(DIM))
        points.add(1000, np.zeros(DIM))

    def test_float32_input_is_not_copied(self, points, monkeypatch):
        seen = []
        write = _write._convert.address
        monkeypatch.setattr(
            _write._convert, "address", lambda array: seen.append(array) or write(array)
        )
        vectors = random_vectors(4)
        points.add([200, 201, 202, 203], vectors)
        assert any(np.shares_memory(array, vectors) for array in seen)

    def test_input_beyond_one_batch_is_split(self, points, monkeypatch):
        monkeypatch.setattr(_write, "BATCH_BYTES_MAX", 10 * DIM * 4)
        given = _write.Input("int64", DIM, None, random_vectors(25), None, None)
        assert list(given.batches()) == [slice(0, 10), slice(10, 20), slice(20, 25)]
        monkeypatch.setattr(_write, "BATCH_ROWS_MAX", 6)
        ids = points.add(None, random_vectors(25).astype(np.float64))
        assert len(points) == 125 and len(set(ids.tolist())) == 25
        with pytest.raises(quashdb.ExistsError) as caught:
            points.add([1000, 1001, 1002, 1003, 1004, 1005, 1006, 5], random_vectors(8))
        assert caught.value.rows_written == 6
        assert points.contains([1005, 1006]).tolist() == [True, False]

    def test_texts_count_towards_a_batch(self, monkeypatch):
        monkeypatch.setattr(_write, "BATCH_BYTES_MAX", 100)
        given = _write.Input(
            "int64", 1, None, np.ones((4, 1)), None, ["x" * 60, None, "x" * 20, "y" * 9]
        )
        assert list(given.batches()) == [slice(0, 3), slice(3, 4)]
        with pytest.raises(quashdb.LimitError, match="row 1 has 105 bytes"):
            given = _write.Input("int64", 1, None, np.ones((2, 1)), None, ["", "x" * 101])
            list(given.batches())


class TestUpsertDelete:
    def test_upsert_replaces_whole_rows(self, points):
        vectors = random_vectors(2, seed=9)
        points.upsert([3, 1000], vectors, documents=["new", None])
        assert len(points) == 101
        got = points.get([3, 1000], include=ALL)
        assert got.vectors.tolist() == vectors.tolist()
        assert got.metadatas == [{}, {}] and got.documents == ["new", None]

    def test_upsert_needs_ids(self, points):
        with pytest.raises(ValueError, match="ids is missing"):
            points.upsert(None, random_vectors(1))

    def test_delete_by_id(self, points):
        assert points.delete([1, 2, 2000]) == 2
        assert points.delete(3) == 1
        assert points.delete([]) == 0
        assert len(points) == 97 and 1 not in points

    def test_delete_by_filter(self, points):
        assert points.delete(where="year < 1960") == 9  # row 7 has no year
        assert points.delete(where={"lang": "fr"}) == 0
        assert points.delete(where="TRUE") == 91

    def test_delete_needs_one_of_both(self, points):
        for arguments in ({}, {"ids": [1], "where": "TRUE"}, {"where": {}}):
            with pytest.raises(ValueError, match="either ids or where"):
                points.delete(**arguments)
        with pytest.raises(quashdb.FilterSyntaxError):
            points.delete(where="year <")
        with pytest.raises(TypeError):
            points.delete("a")
        assert len(points) == 100

    def test_string_ids(self, words):
        words.upsert(["b", "c"], random_vectors(2, seed=5))
        assert words.delete(["a", "zz"]) == 1
        assert words.delete("ü") == 1
        assert sorted(words.get().ids) == ["b", "c"]


class TestRead:
    def test_get_by_id(self, points):
        got = points.get([5, 99, 5000, 3], include=ALL)
        assert got.ids.tolist() == [5, 99, 3] and len(got) == 3
        assert got.documents == ["Zeile 5 ü", "Zeile 99 ü", "Zeile 3 ü"]
        assert got.vectors.tolist() == random_vectors(100)[[5, 99, 3]].tolist()
        assert got.metadatas[0] == {
            "lang": "en", "year": 1955, "price": 1.25, "is_new": False, "tags": ["t2", "all"],
            "codes": [5, -5],
        }  # fmt: skip
        row = got[-1]
        assert (row.id, row.document) == (3, "Zeile 3 ü") and row.metadata["year"] == 1953
        assert [row.id for row in got] == [5, 99, 3]
        assert [row.id for row in got[1:]] == [99, 3] and got[5:] == []
        with pytest.raises(IndexError):
            got[3]
        assert "3 rows" in repr(got)

    def test_include(self, points):
        got = points.get(5, include=None)
        assert got.metadatas is got.documents is got.vectors is None
        assert got[0] == (5, None, None, None)
        assert points.get(5, include="documents").documents == ["Zeile 5 ü"]
        assert points.get(10).documents == [None]
        for include in ("x", ["metadatas", "embeddings"]):
            with pytest.raises(ValueError, match="include"):
                points.get(5, include=include)
        with pytest.raises(TypeError, match="include is 1, expected names of metadatas"):
            points.get(5, include=1)

    def test_get_by_filter_and_limit(self, points):
        assert points.get(where="lang = 'en' AND year < 1956").ids.tolist() == [1, 3, 5]
        assert points.get(where="year > 1960", limit=2).ids.tolist() == [11, 12]
        assert points.get([9, 8, 7], limit=2).ids.tolist() == [9, 8]
        assert points.get(limit=0).ids.tolist() == []
        assert points.get(where="year > 3000").ids.tolist() == []
        assert points.get(where={}).ids.tolist() == list(range(100))
        assert points.peek(3).ids.tolist() == [0, 1, 2]
        assert len(points.peek()) == 10
        with pytest.raises(ValueError, match="either"):
            points.get([1], where="TRUE")
        with pytest.raises(ValueError, match="limit is -1"):
            points.get(limit=-1)
        with pytest.raises(TypeError, match="limit"):
            points.get(limit=1.0)

    def test_empty_results_have_shapes(self, points):
        got = points.get([], include=ALL)
        assert got.vectors.shape == (0, DIM) and got.ids.dtype == np.int64
        assert got.to_dict() == {"ids": [], "metadatas": [], "documents": [], "vectors": []}

    def test_contains_count_len(self, points, words):
        assert len(points) == points.count() == 100
        assert points.count("lang IS NULL") == points.count({"lang": None}) == 1
        assert 5 in points and 500 not in points and np.int64(5) in points
        assert points.contains([5, 500]).tolist() == [True, False]
        assert "ü" in words and "x" not in words
        with pytest.raises(TypeError):
            "5" in points
        with pytest.raises(TypeError):
            5 in words
        with pytest.raises(TypeError):
            [5] in points
        points.delete(where="TRUE")
        assert len(points) == 0 and points  # empty is not false

    def test_iterate_is_a_snapshot(self, points):
        rows = points.iterate(batch_size=30, include="vectors")
        points.delete(where="TRUE")
        sizes, ids = [], []
        for batch in rows:
            sizes.append(len(batch))
            ids += batch.ids.tolist()
            assert batch.vectors.shape == (len(batch), DIM)
        assert sizes == [30, 30, 30, 10] and ids == list(range(100))
        assert list(rows) == []

    def test_iterate_with_filter_and_early_end(self, points):
        batches = list(points.iterate({"is_new": True}))
        assert [row.id for batch in batches for row in batch] == list(range(51, 100))
        with points.iterate(batch_size=1) as rows:
            assert next(rows).ids.tolist() == [0]
        with pytest.raises(StopIteration):
            next(rows)
        rows.close()
        for size, error in ((0, ValueError), (-1, ValueError), ("a", TypeError)):
            with pytest.raises(error, match="batch_size"):
                points.iterate(batch_size=size)
        with pytest.raises(quashdb.QuashError):  # at once, not at the first batch
            points.iterate("nothing = 1")

    def test_stats_and_describe(self, points):
        stats = points.stats()
        assert stats.rows == 100 and stats.rerank_bytes >= 100 * DIM * 4
        before = stats.generation
        points.delete(5)
        assert points.stats().generation > before
        assert points.describe()["rows"] == 99

    def test_add_field(self, points):
        points.add_field("note", str)
        assert points.count("note IS NULL") == 100
        points.upsert(1, random_vectors(1), [{"note": "x"}])
        assert points.get(where={"note": "x"}).ids.tolist() == [1]
        for name, kind, error in (("note", int, quashdb.QuashError), ("a b", int, ValueError),
                                  ("x", "date", ValueError), (3, int, TypeError)):  # fmt: skip
            with pytest.raises(error):
                points.add_field(name, kind)


def test_results_do_not_leak(points):
    import tracemalloc

    def read():
        for _ in range(50):
            got = points.get(include=ALL)
            got.to_dict()
            points.query(random_vectors(3), 10).to_dict()

    read()
    tracemalloc.start()
    read()
    before = tracemalloc.take_snapshot()
    references = sys.getrefcount(points)
    read()
    growth = sum(
        change.size_diff for change in tracemalloc.take_snapshot().compare_to(before, "filename")
        if change.size_diff > 0 and "quashdb" in change.traceback[0].filename
    )  # fmt: skip
    tracemalloc.stop()
    assert growth < 100_000
    assert sys.getrefcount(points) == references
