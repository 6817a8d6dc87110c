"""Makes synthetic vectors, queries, their exact neighbours, and metadata.

    generate.py clustered 100000 384 out       writes out/base.npy [n, dim] and
                                               out/queries.npy, float32;
                                               out/neighbors.ivecs [nq, k];
                                               out/rows.jsonl, row i for vector i

Kinds of data, each with the same bytes for the same arguments and NumPy:
    clustered    like embeddings: unit vectors of low intrinsic dimension in
                 clusters of uneven size, queries from the same clusters
    gaussian     independent coordinates: no structure to exploit
    adversarial  what a weak rotation or a shared scale gets wrong: one-hot,
                 constant and two-coordinate vectors, repeats, and norms from
                 1e-3 to 1e3

rows.jsonl has {"id", "bucket", "name", "tags"}: bucket is 0 to 99, so that
"bucket < s" keeps s percent of the rows; tags is correlated with the vectors
where they have clusters.
"""

import json
import pathlib

import arguments
import loaders
import numpy as np

INTRINSIC_DIM = 24
BLOCK_VALUES = 1 << 24  # of a block of scores: 128 MiB


def clustered(rng, n, dim):
    """Unit vectors and the cluster of each."""
    count = max(1, round(n**0.5 / 2))
    intrinsic = min(INTRINSIC_DIM, dim)
    weights = 1.0 / np.arange(1, count + 1)
    basis = rng.standard_normal((intrinsic, dim)) / intrinsic**0.5
    centers = rng.standard_normal((count, intrinsic))
    cluster = rng.choice(count, n, p=weights / weights.sum())
    inner = centers[cluster] + 0.5 * rng.standard_normal((n, intrinsic))
    vectors = inner @ basis + 0.1 * rng.standard_normal((n, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), cluster


def gaussian(rng, n, dim):
    """Independent standard normal coordinates, without clusters."""
    return rng.standard_normal((n, dim), np.float32), np.zeros(n, np.int64)


def adversarial(rng, n, dim):
    """Rows by turns of the kinds above, and the kind of each."""
    vectors = np.zeros((n, dim), np.float32)
    kind = np.arange(n) % 4
    axes = rng.integers(0, dim, (n, 2))
    signs = rng.choice(np.float32([-1, 1]), (n, 2))
    for row in range(n):
        if kind[row] == 0:
            vectors[row, axes[row, 0]] = signs[row, 0]
        elif kind[row] == 1:
            vectors[row] = signs[row, 0] / dim**0.5
        elif kind[row] == 2:
            vectors[row, axes[row]] += signs[row] * np.float32([1, 0.5])
        else:
            vectors[row] = vectors[row - 3]
    zero = ~vectors.any(axis=1)
    vectors[zero, 0] = 1
    vectors *= (10.0 ** rng.uniform(-3, 3, (n, 1))).astype(np.float32)
    return vectors, kind


def exact_neighbors(base, queries, k, metric):
    """int32 [nq, k]: rows with the highest scores (quashdb.h's signs), best
    first, ties by row; computed in float64."""
    base = base.astype(np.float64)
    queries = queries.astype(np.float64)
    squares = (base**2).sum(axis=1)
    neighbors = np.empty((len(queries), k), "<i4")
    step = max(1, BLOCK_VALUES // len(base))
    for begin in range(0, len(queries), step):
        scores = queries[begin : begin + step] @ base.T
        if metric == "cosine":
            scores /= np.sqrt(squares)
        elif metric == "l2":
            scores = 2 * scores - squares
        neighbors[begin : begin + step] = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return neighbors


def make_rows(rng, clusters):
    """One metadata object per vector."""
    buckets = rng.integers(0, 100, len(clusters))
    for row, (bucket, cluster) in enumerate(zip(buckets, clusters, strict=True)):
        yield {
            "id": row,
            "bucket": int(bucket),
            "name": f"row-{row:08d}",
            "tags": [f"cluster-{cluster}", "even" if row % 2 == 0 else "odd"],
        }


def write_dataset(kind, n, dim, output, queries=1000, k=100, metric="cosine", seed=2026):
    """Writes the four files to the folder `output`, made if missing."""
    rng = np.random.default_rng(seed)
    vectors, clusters = KINDS[kind](rng, n + queries, dim)
    order = rng.permutation(n + queries)  # queries from everywhere
    vectors, clusters = vectors[order], clusters[order]
    base, sample = vectors[:n], vectors[n:]
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    loaders.write_npy(output / "base.npy", base)
    loaders.write_npy(output / "queries.npy", sample)
    neighbors = exact_neighbors(base, sample, min(k, n), metric)
    loaders.write_vecs(output / "neighbors.ivecs", neighbors)
    with open(output / "rows.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for row in make_rows(rng, clusters[:n]):
            file.write(json.dumps(row) + "\n")


KINDS = {"clustered": clustered, "gaussian": gaussian, "adversarial": adversarial}


def main():
    parser = arguments.maker_parser(__doc__, "kind", choices=KINDS)
    parser.add_argument("--metric", choices=["ip", "cosine", "l2"], default="cosine")
    write_dataset(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
