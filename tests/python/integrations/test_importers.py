import sqlite3

import numpy as np
import pytest

import quashdb
from quashdb import importers
from quashdb.integrations import chroma

DIM, N = 16, 300


@pytest.fixture
def db():
    with quashdb.open() as database:
        yield database


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)


def finds_itself(collection, vectors, ids):
    found, _ = collection.search(vectors[:50], k=1)
    return (found[:, 0] == ids[:50]).mean()


@pytest.mark.parametrize("kind", ["Flat", "HNSW8", "IVF8,Flat", "SQ8", "IDMap,Flat", "OPQ4,PQ4x8"])
def test_faiss(db, vectors, tmp_path, kind):
    faiss = pytest.importorskip("faiss")
    index = faiss.index_factory(DIM, kind, faiss.METRIC_L2)
    index.train(vectors)
    ids = np.arange(N) + 1000 if kind.startswith("IDMap") else np.arange(N)
    index.add_with_ids(vectors, ids) if kind.startswith("IDMap") else index.add(vectors)
    faiss.write_index(index, str(tmp_path / "a.faiss"))
    c = importers.import_faiss(db, tmp_path / "a.faiss", "c", rerank="f32")
    assert (len(c), c.dim, c.metric) == (N, DIM, "l2")
    if "PQ4" not in kind:
        assert finds_itself(c, vectors, ids) == 1
    if kind in ("Flat", "HNSW8", "IDMap,Flat"):
        np.testing.assert_array_equal(c.get(ids[:5], include="vectors").vectors, vectors[:5])


def test_faiss_ip(db, vectors, tmp_path):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "a.faiss"))
    assert importers.import_faiss(db, tmp_path / "a.faiss", "c").metric == "ip"


def test_hnswlib(db, vectors, tmp_path):
    hnswlib = pytest.importorskip("hnswlib")
    index = hnswlib.Index("cosine", DIM)
    index.init_index(N)
    index.add_items(vectors, np.arange(N) * 3)
    index.save_index(str(tmp_path / "a.bin"))
    c = importers.import_hnswlib(db, tmp_path / "a.bin", "c", space="cosine", dim=DIM)
    assert len(c) == N and finds_itself(c, vectors, np.arange(N) * 3) == 1
    d = importers.import_hnswlib(db, tmp_path / "a.bin", "d", space="cosine")
    assert d.dim == DIM and len(d) == N
    # hnswlib itself takes any dimension and returns what lies beside the vectors.
    with pytest.raises(quashdb.InvalidError, match="vectors of 16 numbers, expected 15"):
        importers.import_hnswlib(db, tmp_path / "a.bin", "e", space="cosine", dim=DIM - 1)
    whole = (tmp_path / "a.bin").read_bytes()
    for damaged in (whole[:40], whole[: len(whole) // 2], b"\xff" * 48 + whole[48:]):
        (tmp_path / "b.bin").write_bytes(damaged)
        with pytest.raises(quashdb.CorruptError, match="no hnswlib index, or damaged"):
            importers.import_hnswlib(db, tmp_path / "b.bin", "e", space="cosine")
    assert "e" not in db


def test_chroma(db, vectors, tmp_path):
    chromadb = pytest.importorskip("chromadb")
    client = chromadb.PersistentClient(str(tmp_path / "chroma"))
    source = client.create_collection("notes", metadata={"hnsw:space": "cosine"})
    source.add([f"n{i}" for i in range(N)], vectors, [{"n": i} for i in range(N)],
               [f"note {i}" for i in range(N)])  # fmt: skip
    source.add(["mixed"], -vectors[:1], [{"n": "seven"}], ["a text for a number"])
    client.create_collection("empty")
    (c,) = importers.import_chroma(db, tmp_path / "chroma")
    assert (c.name, len(c), c.metric) == ("notes", N + 1, "cosine")
    assert c.query(vectors[7], k=1, where={"n": {"$lt": 10}})[0][0].document == "note 7"
    notes = chroma.Client(db).get_or_create_collection("notes")
    assert notes.get(ids="mixed")["metadatas"] == [{"n": "seven"}]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "chroma.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(quashdb.CorruptError, match="no Chroma, or damaged"):
        importers.import_chroma(db, tmp_path / "other")
    with pytest.raises(quashdb.NotFoundError, match="no chroma.sqlite3"):
        importers.import_chroma(db, tmp_path)


@pytest.fixture
def sqlite(tmp_path):
    extension = pytest.importorskip("sqlite_vec")
    connection = sqlite3.connect(tmp_path / "a.sqlite")
    if not hasattr(connection, "enable_load_extension"):
        pytest.skip("this Python's sqlite3 cannot load extensions")
    connection.enable_load_extension(True)
    extension.load(connection)
    yield connection
    connection.close()


def test_sqlite_vec(db, vectors, tmp_path, sqlite):
    sqlite.execute(
        f"CREATE VIRTUAL TABLE items USING vec0(embedding float[{DIM}], year integer, +body text)"
    )
    sqlite.executemany(
        "INSERT INTO items(rowid, embedding, year, body) VALUES (?, ?, ?, ?)",
        [(10 + i, vectors[i].tobytes(), 2000 + i, f"text {i}") for i in range(N)],
    )
    sqlite.execute("CREATE TABLE plain (id INTEGER PRIMARY KEY, v BLOB, lang TEXT)")
    sqlite.execute("INSERT INTO plain VALUES (5, ?, 'en')", (vectors[0].tobytes(),))
    sqlite.commit()
    c = importers.import_sqlite_vec(db, tmp_path / "a.sqlite", "items", document="body")
    assert len(c) == N and finds_itself(c, vectors, np.arange(N) + 10) == 1
    hit = c.query(vectors[3], k=1, where="year = 2003")[0][0]
    assert (hit.id, hit.document) == (13, "text 3")
    assert importers.import_sqlite_vec(db, tmp_path / "a.sqlite", "plain").count("lang = 'en'") == 1
    with pytest.raises(quashdb.NotFoundError, match="no table 'other'"):
        importers.import_sqlite_vec(db, tmp_path / "a.sqlite", "other")


def test_foreign_files(db, tmp_path):
    (tmp_path / "a").write_bytes(b"not an index at all" * 100)
    calls = []
    for module, call in [
        ("faiss", lambda path: importers.import_faiss(db, path, "c")),
        ("hnswlib", lambda path: importers.import_hnswlib(db, path, "c", space="l2")),
        ("sqlite_vec", lambda path: importers.import_sqlite_vec(db, path, "c")),
    ]:
        try:
            __import__(module)
        except ImportError:
            with pytest.raises(quashdb.UnsupportedError, match="pip install"):
                call(tmp_path / "a")
        else:
            calls.append(call)
    for call in calls:
        with pytest.raises((quashdb.CorruptError, quashdb.UnsupportedError)):
            call(tmp_path / "a")
        with pytest.raises(quashdb.NotFoundError):
            call(tmp_path / "absent")
    assert len(db) == 0


def test_command(vectors, tmp_path, capsys):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatL2(DIM)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "a.faiss"))
    where = [str(tmp_path / "a.faiss"), str(tmp_path / "a.qdb"), "notes"]
    assert importers.main(["faiss", *where]) == 0
    assert "notes: 300 rows of 16" in capsys.readouterr().out
    assert importers.main(["faiss", *where]) == 1  # there already
    assert "Error:" in capsys.readouterr().err
    missing = [str(tmp_path / "no.faiss"), str(tmp_path / "no.qdb"), "c"]
    assert importers.main(["faiss", *missing]) == 1
    assert "no.faiss does not exist" in capsys.readouterr().err
    assert not (tmp_path / "no.qdb").exists()
    with pytest.raises(SystemExit):
        importers.main(["hnswlib", *where])
