"""Makes an HDF5 file in the format of ann-benchmarks.

    python3 bench/ann_benchmarks/make_hdf5.py datasets/sample sample-384-angular.hdf5

Input: a folder with base.npy (or vectors.npy) and queries.npy, [n, dim].
Output: train, test, neighbors [nq, count] int32 and distances [nq, count]
float32, nearest first, exact; attributes distance, dimension, type, point_type.
Angular distance is 1 - cosine, euclidean the length of the difference.
"""

import argparse
import pathlib
import sys

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import bench_data  # pylint: disable=wrong-import-position


def exact_distances(dataset, ids):
    """[nq, count] float32 in float64 arithmetic, and ids, both nearest first."""
    distances = np.empty(ids.shape, np.float64)
    for row, (query, neighbors) in enumerate(zip(dataset.queries.astype(np.float64), ids)):
        vectors = dataset.base[neighbors].astype(np.float64)
        if dataset.metric == "cosine":
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
            distances[row] = 1 - vectors @ query / norms
        else:
            distances[row] = np.linalg.norm(vectors - query, axis=1)
    order = np.argsort(distances, axis=1, kind="stable")
    return (np.take_along_axis(distances, order, 1).astype(np.float32),
            np.take_along_axis(ids, order, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--distance", choices=["angular", "euclidean"], default="angular")
    parser.add_argument("--count", type=int, default=100, help="neighbours per query")
    arguments = parser.parse_args()
    try:
        dataset = bench_data.load(arguments.folder)
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
    if arguments.distance == "euclidean":
        dataset.metric = "l2"
    count = min(arguments.count, len(dataset.base))
    distances, neighbors = exact_distances(dataset, dataset.exact(count)[1])
    with h5py.File(arguments.output, "w") as file:
        file.attrs["distance"] = arguments.distance
        file.attrs["dimension"] = dataset.dim
        file.attrs["type"] = "dense"
        file.attrs["point_type"] = "float"
        file["train"], file["test"] = dataset.base, dataset.queries
        file["neighbors"], file["distances"] = neighbors.astype(np.int32), distances
    print(f"{arguments.output}: train {dataset.base.shape}, test {dataset.queries.shape}, "
          f"{count} neighbours, {arguments.distance}")


if __name__ == "__main__":
    main()
