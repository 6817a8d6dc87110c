import datetime

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

import quashdb  # noqa: E402
import quashdb.arrow as qa  # noqa: E402

DIM = 8
N = 500


@pytest.fixture
def db():
    with quashdb.open() as database:
        yield database


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((N, DIM)).astype(np.float32)
    words = ['plain', 'with "quotes" and \\', "tab\tnewline\n\x01", "ünï 😀", ""]
    return pa.table(
        {
            "id": pa.array(range(1000, 1000 + N), pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM),
            "document": pa.array([None if i % 7 == 0 else words[i % 5] for i in range(N)]),
            "year": pa.array([None if i % 11 == 0 else 1900 + i for i in range(N)], pa.int32()),
            "price": pa.array([i / 3 for i in range(N)]),
            "fresh": pa.array([i % 2 == 0 for i in range(N)]),
            "word": pa.array([words[i % 5] for i in range(N)]),
            "tags": pa.array([None if i % 5 == 0 else [words[0], words[i % 5]] for i in range(N)]),
            "codes": pa.array([list(range(i % 4)) for i in range(N)], pa.list_(pa.int64())),
            "big": pa.array([(1 << 62) + i for i in range(N)], pa.int64()),
        }
    )


def equal(found, table):
    for name in table.column_names:
        assert found.column(name).to_pylist() == table.column(name).to_pylist(), name


def test_round_trip(db, table):
    c = qa.create(db, "c", table, metric="l2", rerank="f32")
    assert len(c) == N and c.dim == DIM and c.id_type == "int64"
    equal(qa.read(c), table)
    row = c.get([1003])[0]
    assert row.metadata["word"] == "ünï 😀" and row.metadata["big"] == (1 << 62) + 3
    assert c.count("tags CONTAINS 'plain' AND year > 2000") == sum(
        1 for i in range(101, N) if i % 5 and i % 11
    )


def test_rows_added_one_by_one_read_the_same(db, table):
    c = qa.create(db, "c", table, metric="l2", rerank="f32")
    rows = table.to_pylist()
    d = db.create_collection("d", DIM, "l2", rerank="f32", fields={
        f["name"]: f["type"] for f in c.describe()["fields"]})  # fmt: skip
    d.add(
        [row["id"] for row in rows],
        [row["vector"] for row in rows],
        [{k: v for k, v in row.items() if k not in ("id", "vector", "document") and v is not None}
         for row in rows],
        [row["document"] for row in rows],
    )  # fmt: skip
    assert qa.read(d).equals(qa.read(c))


def test_where_include_and_batches(db, table):
    c = qa.create(db, "c", table, metric="l2", rerank="f32")
    found = qa.read(c, "id >= 1490", include="vectors")
    assert found.column_names == ["id", "vector"] and found.num_rows == 10
    reader = qa.batches(c, {"fresh": True}, include=["metadatas"], batch_size=64)
    sizes = [len(batch) for batch in reader]
    assert sum(sizes) == N // 2 and max(sizes) == 64
    assert qa.read(c, "FALSE").num_rows == 0
    assert qa.read(c, "FALSE").schema == qa.schema(c, ("vectors", "documents", "metadatas"))


def test_parquet_and_datasets(db, table, tmp_path):
    import pyarrow.dataset

    pq.write_table(table, tmp_path / "in.parquet", row_group_size=100)
    c = qa.create(db, "c", tmp_path / "in.parquet", metric="l2", rerank="f32")
    assert qa.write_parquet(c, tmp_path / "out.parquet", "id < 1400") == 400
    equal(pq.read_table(tmp_path / "out.parquet"), table.slice(0, 400))
    d = qa.create(db, "d", pyarrow.dataset.dataset(tmp_path / "out.parquet"), metric="l2")
    assert len(d) == 400
    assert qa.add(d, table.slice(350, 100), upsert=True) == 100 and len(d) == 450


def test_pandas(db, table):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "name": ["a", "b", "c"],
            "embedding": list(np.eye(3, DIM)),
            "year": [2000, None, 2002],
            "when": pd.to_datetime(["2020-01-02", "2021-03-04", None]),
            "kind": pd.Categorical(["x", "y", "x"]),
        }
    )
    c = qa.create(db, "c", frame, id="name", vector="embedding")
    assert c.id_type == "string" and c.query(np.eye(3, DIM)[1], k=1)[0][0].id == "b"
    assert c.get(["b"])[0].metadata == {"kind": "y", "when": "2021-03-04 00:00:00.000000"} or (
        c.get(["b"])[0].metadata["when"].startswith("2021-03-04")
    )
    d = qa.create(db, "d", frame.set_index("name"), id="name", vector="embedding")
    assert d.get().ids == ["a", "b", "c"]
    e = qa.create(db, "e", frame[["embedding"]], id=None, vector="embedding")
    assert e.get().ids.tolist() == [0, 1, 2]
    found = qa.read(c, include="metadatas").to_pandas()
    assert list(found["id"]) == ["a", "b", "c"] and np.isnan(found["year"][1])


def test_rows_without_any_metadata(db):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(DIM, dtype="f4").reshape(-1)), DIM)
    years = [None, 2001, None, 2003, None, None, 2006, None]
    columns = {"vector": vectors, "year": pa.array(years, pa.int64())}
    words = [None, None, None, "w", None, None, None, "\n"]
    for name, more in (("one", {}), ("two", {"word": pa.array(words, pa.string())})):
        c = qa.create(db, name, pa.table({**columns, **more}))
        found = c.get(range(DIM)).metadatas
        assert [row.get("year") for row in found] == years
        assert [row.get("word") for row in found] == (words if more else [None] * DIM)


def test_ids_are_assigned(db, table):
    c = db.create_collection("c", DIM, "l2")
    assert qa.add(c, table.select(["vector"])) == N
    assert qa.read(c, include=None).column("id").to_pylist() == list(range(N)) or len(c) == N
    f16 = np.asarray(table.column("vector").to_pylist(), np.float16)
    lists = pa.table({"vector": pa.array(list(f16))})
    assert qa.add(c, lists) == N


def test_a_failed_create_leaves_nothing(db, table):
    doubled = pa.concat_tables([table, table])
    with pytest.raises(quashdb.ExistsError):
        qa.create(db, "c", doubled)
    assert "c" not in db


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.drop(["vector"]), "no column 'vector'"),
        (lambda t: t.set_column(1, "vector", pa.array([[1.0]] * N)), "of 1 numbers"),
        (lambda t: t.set_column(1, "vector", pa.array([[1.0], [1.0, 2.0]] * (N // 2))), "lengths"),
        (lambda t: t.set_column(1, "vector", pa.array([None] * N, pa.list_(pa.float32(), DIM))),
         "nulls"),
        (lambda t: t.set_column(1, "vector", pa.array(["x"] * N)), "lists of numbers"),
        (lambda t: t.set_column(0, "id", pa.array([None] * N, pa.int64())), "nulls"),
        (lambda t: t.set_column(0, "id", pa.array([f"x{i}" for i in range(N)])), "int64"),
        (lambda t: t.set_column(2, "document", pa.array(["a\0b"] * N)), "NUL"),
        (lambda t: t.set_column(4, "price", pa.array([float("inf")] * N)), "infinite"),
        (lambda t: t.set_column(6, "word", pa.array([{"a": 1}] * N)), "word"),
        (lambda t: t.append_column("other", pa.array([1] * N)), "other"),
    ],
)  # fmt: skip
def test_bad_columns(db, table, change, match):
    c = qa.create(db, "c", table.slice(0, 1), metric="l2")
    c.delete(where="TRUE")
    with pytest.raises(quashdb.QuashError, match=match):
        qa.add(c, change(table))
    assert len(c) == 0
    with pytest.raises(TypeError, match="expected Arrow data"):
        qa.add(c, [1, 2])


def test_times_become_text(db):
    when = pa.array([datetime.date(2020, 1, 2)])
    data = pa.table({"id": [1], "vector": [[1.0, 2.0]], "when": when})
    c = qa.create(db, "c", data)
    assert c.get([1])[0].metadata == {"when": "2020-01-02"}
