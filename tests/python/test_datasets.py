"""datasets/: the sample, the loaders and the generator."""

import importlib
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest

import quashdb

DATASETS = pathlib.Path(__file__).parents[2] / "datasets"
SAMPLE = DATASETS / "sample"
sys.path.insert(0, str(DATASETS))
loaders = importlib.import_module("loaders")
generate = importlib.import_module("generate")


def test_sample_is_whole():
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) <= 6_000_000
    vectors = loaders.load(SAMPLE / "vectors.npy")
    rows = list(loaders.read_jsonl(SAMPLE / "packages.jsonl"))
    assert vectors.shape == (5000, 384) and len(rows) == 5000
    assert set(rows[0]) == {"name", "section", "size_kb", "tags", "synopsis", "text"}
    assert len({row["name"] for row in rows}) == 5000
    queries = loaders.load(SAMPLE / "queries.npy")
    neighbors = loaders.load(SAMPLE / "neighbors.ivecs")
    assert queries.shape == (100, 384) and neighbors.shape == (100, 10)
    assert len(list(loaders.read_jsonl(SAMPLE / "query_packages.jsonl"))) == 100
    np.testing.assert_allclose(np.linalg.norm(vectors.astype("f4"), axis=1), 1, atol=2e-3)
    assert np.array_equal(generate.exact_neighbors(vectors, queries, 10, "cosine"), neighbors)


def test_recall_on_the_sample():
    vectors = loaders.load(SAMPLE / "vectors.npy")
    neighbors = loaders.load(SAMPLE / "neighbors.ivecs")
    with quashdb.open() as db:
        debs = db.create_collection("debs", 384)
        debs.add(np.arange(5000), vectors)
        found, _ = debs.search(loaders.load(SAMPLE / "queries.npy"), 10)
        shares = [len(np.intersect1d(a, b)) / 10 for a, b in zip(found, neighbors, strict=True)]
        assert np.mean(shares) >= 0.98
        assert debs.measure(sample=100).recall >= 0.98


@pytest.mark.parametrize("suffix", [".npy", ".fvecs", ".ivecs", ".bvecs"])
def test_round_trip(tmp_path, suffix):
    matrix = np.arange(12).reshape(3, 4)
    path = tmp_path / f"m{suffix}"
    write = loaders.write_npy if suffix == ".npy" else loaders.write_vecs
    write(path, matrix)
    assert loaders.load(path).tolist() == matrix.tolist()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b""),
        ("a.npy", b"\x93NUMPY\x03\x00" + bytes(20)),
        ("a.fvecs", b""),
        ("a.fvecs", b"\x01"),
        ("a.fvecs", struct.pack("<i", -1) + bytes(8)),
        ("a.fvecs", struct.pack("<i", 1 << 30) + bytes(8)),
        ("a.fvecs", struct.pack("<if", 1, 1.0) + b"x"),
        ("a.fvecs", struct.pack("<ifif", 1, 1.0, 2, 1.0)),
        ("a.txt", b"1 2 3"),
    ],
)
def test_malformed_files(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=name):
        loaders.load(path)


def test_npy_that_states_too_much(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 4), np.float32))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="63 bytes of data"):
        loaders.load(path)
    for array in (np.zeros(3), np.zeros((2, 2), object), np.asfortranarray(np.zeros((2, 3)))):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(ValueError, match="a.npy"):
            loaders.load(path)


@pytest.mark.parametrize("line", ["[1]", "{", "3", '{"a": 1}{'])
def test_malformed_jsonl(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n' + line + "\n")
    with pytest.raises(ValueError, match="line 3"):
        list(loaders.read_jsonl(path))


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    matrix, path = np.arange(12, dtype=np.float32).reshape(3, 4), tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["train"] = matrix
        file["names"] = np.array([[b"a"]])
        file.create_dataset("unwritten", (10**9, 1000), "f4", chunks=(1000, 1000))
    assert np.array_equal(loaders.load(path), matrix)
    with pytest.raises(ValueError, match="no dataset 'test'"):
        loaders.load(path, "test")
    with pytest.raises(ValueError, match="expected numbers"):
        loaders.load(path, "names")
    with pytest.raises(ValueError, match="stores 0 bytes"):
        loaders.load(path, "unwritten")
    _check_damages(path)


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    def write(**columns):
        pyarrow.parquet.write_table(arrow.table(columns), path)

    matrix, path = np.arange(12, dtype=np.float32).reshape(3, 4), tmp_path / "a.parquet"
    for kind in (arrow.list_(arrow.float32()), arrow.list_(arrow.float64(), 4),
                 arrow.large_list(arrow.int32())):  # fmt: skip
        write(v=arrow.array(matrix.tolist(), kind), name=["a", "b", "c"])
        assert np.array_equal(loaders.load(path), matrix)
    for rows, message in (
        ([[1.0], [1.0, 2.0]], "expected 1 in every row"),
        ([[1.0], None], "null rows"),
        ([[1.0], [None]], "null coordinates"),
        ([[], []], "name one as key|dimension 0"),
    ):
        write(v=rows)
        with pytest.raises(ValueError, match=message):
            loaders.load(path)
    write(v=matrix.tolist(), w=matrix.tolist())
    with pytest.raises(ValueError, match="name one as key"):
        loaders.load(path)
    assert np.array_equal(loaders.load(path, "w"), matrix)
    _check_damages(path)


def _check_damages(path):
    """Whatever is done to the file, a ValueError names it, or it still reads."""
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=path.name):
            loaders.load(path)
    random = np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            loaders.load(path)
        except ValueError as error:
            assert path.name in str(error)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        loaders.load(path)


def test_conversion(tmp_path):
    command = [sys.executable, DATASETS / "loaders.py", SAMPLE / "neighbors.ivecs"]
    done = subprocess.run(
        [*command, tmp_path / "n.npy"], capture_output=True, text=True, check=True
    )
    assert "100 x 10 float32" in done.stdout
    assert loaders.load(tmp_path / "n.npy").dtype == np.float32
    failed = subprocess.run(
        [sys.executable, DATASETS / "loaders.py", tmp_path / "none.npy", tmp_path / "x.npy"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert failed.returncode == 1 and failed.stderr.startswith("Error: ")


@pytest.mark.parametrize("kind", ["clustered", "gaussian", "adversarial"])
@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_generator(tmp_path, kind, metric):
    generate.write_dataset(kind, 500, 16, tmp_path, queries=20, k=10, metric=metric)
    base, queries = loaders.load(tmp_path / "base.npy"), loaders.load(tmp_path / "queries.npy")
    neighbors = loaders.load(tmp_path / "neighbors.ivecs")
    rows = list(loaders.read_jsonl(tmp_path / "rows.jsonl"))
    assert base.shape == (500, 16) and queries.shape == (20, 16) and neighbors.shape == (20, 10)
    assert np.isfinite(base).all() and base.any(axis=1).all()
    assert [row["id"] for row in rows] == list(range(500))
    assert all(0 <= row["bucket"] < 100 for row in rows)
    with quashdb.open() as db:
        collection = db.create_collection(
            "a", 16, metric, rerank="f32", fields={"bucket": int, "name": str, "tags": list[str]}
        )
        collection.add(
            range(500),
            base,
            [{key: row[key] for key in ("bucket", "name", "tags")} for row in rows],
        )
        scores = collection.search(queries, 10, exact=True)[1]
        expected = np.stack(
            [
                _scores(metric, query, base[near])
                for query, near in zip(queries, neighbors, strict=True)
            ]
        )
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
        assert 0 < collection.count("bucket < 50") < 500
    before = (tmp_path / "base.npy").read_bytes()
    generate.write_dataset(kind, 500, 16, tmp_path, queries=20, k=10, metric=metric)
    assert (tmp_path / "base.npy").read_bytes() == before


def _scores(metric, query, vectors):
    query, vectors = query.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return -((query - vectors) ** 2).sum(axis=1)
    products = vectors @ query
    if metric == "cosine":
        products /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return products
