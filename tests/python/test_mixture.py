"""datasets/mixture.py: vectors like real ones."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

DATASETS = pathlib.Path(__file__).parents[2] / "datasets"
SAMPLE = DATASETS / "sample"
sys.path.insert(0, str(DATASETS))
loaders = importlib.import_module("loaders")
generate = importlib.import_module("generate")
mixture = importlib.import_module("mixture")


@pytest.fixture(scope="module")
def real():
    return loaders.load(SAMPLE / "vectors.npy").astype(np.float32)


def neighbor_distances(base, queries, k):
    scores = np.sort(queries @ base.T, axis=1)[:, ::-1][:, :k]
    return np.sqrt(np.maximum(2 - 2 * scores, 0))


def local_dimension(distances):
    """The maximum likelihood estimate, median over queries."""
    ratios = np.maximum(distances[:, :-1], 1e-4) / distances[:, -1:]
    return float(np.median(-1 / np.log(ratios).mean(axis=1)))


@pytest.mark.parametrize(("dim", "distance", "dimension"), [(384, 0.1, 9), (768, 0.15, 12)])
def test_neighborhoods_are_like_the_real_ones(real, dim, distance, dimension):
    model = mixture.Mixture(real, dim)
    # The sample is a tenth of a corpus; families thin out with it.
    made = model.sample(np.random.default_rng(1), 50000)[:5000]
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    theirs = neighbor_distances(real[200:], real[:200], 50)
    ours = neighbor_distances(made[200:], made[:200], 50)
    for rank in (0, 9, 49):
        assert abs(np.median(ours[:, rank]) - np.median(theirs[:, rank])) < distance
    assert abs(local_dimension(ours) - local_dimension(theirs)) < dimension
    assert abs(np.linalg.norm(made.mean(0)) - np.linalg.norm(real.mean(0))) < 0.05
    assert np.linalg.matrix_rank(made) > dim - 8


def test_the_spectrum_is_the_real_one(real):
    made = mixture.Mixture(real, 384).sample(np.random.default_rng(2), 5000)
    spectra = [np.linalg.eigvalsh(np.cov(x.T))[::-1] for x in (made, real)]
    ours, theirs = (np.cumsum(x) / x.sum() for x in spectra)
    assert np.abs(ours - theirs).max() < 0.1


def test_the_written_files(tmp_path):
    kinds = []
    for seed in (1, 1, 2):
        mixture.write_dataset(SAMPLE, 40000, 384, tmp_path / "out", queries=30, k=20, seed=seed)
        base, queries, neighbors = (
            np.array(loaders.load(tmp_path / "out" / name))
            for name in ("base.npy", "queries.npy", "neighbors.ivecs"))
        kinds.append(base)
    assert base.shape == (40000, 384) and base.dtype == np.float16
    assert queries.shape == (30, 384) and neighbors.shape == (30, 20)
    assert np.array_equal(kinds[0], kinds[1]) and not np.array_equal(kinds[1], kinds[2])
    np.testing.assert_allclose(np.linalg.norm(base.astype("f4"), axis=1), 1, atol=2e-3)
    exact = generate.exact_neighbors(base, queries, 20, "cosine")
    shared = [len(np.intersect1d(a, b)) for a, b in zip(neighbors, exact, strict=True)]
    assert np.mean(shared) >= 19.9  # float32 sums may order near-ties otherwise


def test_nearest_over_blocks():
    rng = np.random.default_rng(3)
    base = rng.integers(-3, 4, (500, 4)).astype(np.float32)  # many ties, a few zero rows
    queries = np.eye(4, dtype=np.float32)
    found = mixture.nearest(base, queries, 30, rows=64)
    assert all(len(set(row)) == 30 for row in found.tolist())
    cosines = mixture.normalize(base.copy()) @ queries.T
    scores = np.take_along_axis(cosines.T, found.astype(np.int64), axis=1)
    np.testing.assert_array_equal(scores, -np.sort(-cosines.T, axis=1)[:, :30])
    assert mixture.nearest(base[:5], queries, 30, rows=2).shape == (4, 5)


def test_what_it_refuses(tmp_path, real):
    with pytest.raises(ValueError, match="dimension 200, expected at least the data's 384"):
        mixture.Mixture(real, 200)
    with pytest.raises(ValueError, match="999 vectors, expected at least 1000"):
        mixture.Mixture(real[:999], 384)
    with pytest.raises(ValueError, match="neither base.npy nor vectors.npy"):
        mixture.read_real(tmp_path)
