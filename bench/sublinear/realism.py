"""Compares generated vectors with the real ones they were fitted to.

    python3 bench/sublinear/realism.py REAL MADE

Each is a folder with base.npy and queries.npy, best of the same number of rows:
how sublinear search behaves depends on it. Prints a table. Distances and local
intrinsic dimension are of held-out queries; recall is that of FAISS IVF and
hnswlib at fixed settings, whose equality says that one data set is as hard to
search as the other. Needs faiss-cpu and hnswlib.
"""

import argparse
import pathlib
import sys

import faiss
import hnswlib
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import bench_data  # pylint: disable=wrong-import-position

K = 10
NEIGHBORS = 100
PAIRS = 2000
NPROBES = (1, 2, 4, 8, 16, 32, 64)
EFS = (10, 20, 40, 80, 160)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def words(values, digits):
    return " ".join(f"{value:.{digits}f}" for value in values)


def neighborhoods(dataset, rng):
    """(what, text) rows on distances and the spectrum; the exact neighbours."""
    _, exact = dataset.exact(NEIGHBORS)
    cosines = np.einsum("qd,qkd->qk", dataset.queries, dataset.base[exact])
    distances = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    rows = [(f"distance to neighbour {rank}, quantiles 5 25 50 75 95 %",
             words(np.quantile(distances[:, rank - 1], QUANTILES), 2)) for rank in (1, 10, 100)]
    ratios = np.maximum(distances[:, :-1], 1e-4) / distances[:, -1:]
    dimension = np.median(-1 / np.log(ratios).mean(axis=1))
    rows.append(("local intrinsic dimension, median", f"{dimension:.1f}"))
    one, other = (dataset.base[rng.choice(len(dataset.base), PAIRS)] for _ in range(2))
    rows.append(("distance of two random rows, quantiles",
                 words(np.quantile(np.linalg.norm(one - other, axis=1), QUANTILES), 2)))
    values = np.linalg.eigvalsh(np.cov(dataset.base[:50000].T))[::-1]
    shares = np.cumsum(values) / values.sum()
    rows.append(("variance in the first 1 10 50 200 directions",
                 words(shares[[0, 9, 49, 199]], 3)))
    rows.append(("length of the mean", f"{np.linalg.norm(dataset.base.mean(0)):.3f}"))
    return rows, exact[:, :K]


def recall(found, exact):
    return np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, exact)])


def ivf_recalls(dataset, exact):
    lists = round(4 * len(dataset.base) ** 0.5)
    quantizer = faiss.IndexFlatIP(dataset.dim)
    index = faiss.IndexIVFFlat(quantizer, dataset.dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(dataset.base[:40 * lists])
    index.add(dataset.base)
    recalls = []
    for index.nprobe in NPROBES:
        recalls.append(recall(index.search(dataset.queries, K)[1], exact))
    return recalls


def hnsw_recalls(dataset, exact):
    index = hnswlib.Index("ip", dataset.dim)
    index.init_index(len(dataset.base), M=16, ef_construction=200, random_seed=1)
    index.add_items(dataset.base)
    recalls = []
    for ef in EFS:
        index.set_ef(ef)
        recalls.append(recall(index.knn_query(dataset.queries, K)[0].astype(np.int64), exact))
    return recalls


def describe(path):
    dataset = bench_data.load(path)
    if dataset.metric != "cosine":
        sys.exit(f"Error: {path}: metric {dataset.metric}, expected cosine")
    rows, exact = neighborhoods(dataset, np.random.default_rng(0))
    rows.append((f"IVF recall@{K} at nprobe " + " ".join(map(str, NPROBES)),
                 words(ivf_recalls(dataset, exact), 3)))
    rows.append((f"HNSW recall@{K} at ef " + " ".join(map(str, EFS)),
                 words(hnsw_recalls(dataset, exact), 3)))
    return dict(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("real", type=pathlib.Path)
    parser.add_argument("made", type=pathlib.Path)
    arguments = parser.parse_args()
    real, made = describe(arguments.real), describe(arguments.made)
    print("| | real | made |\n|---|---|---|")
    for what, value in real.items():
        print(f"| {what} | {value} | {made[what]} |")


if __name__ == "__main__":
    main()
