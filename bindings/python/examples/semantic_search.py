"""Semantic search over 5,000 descriptions of Debian packages.

    python3 bindings/python/examples/semantic_search.py
    python3 bindings/python/examples/semantic_search.py --like pssh --k 5
    python3 bindings/python/examples/semantic_search.py --database packages.qdb

Queries are 100 packages that are not among the 5,000, embedded by the same model
(all-MiniLM-L6-v2), so that nothing has to be downloaded; their exact neighbours are
known, and the recall is printed.
"""

import argparse

import numpy as np
import sample

import quashdb


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", default=":memory:", help="kept there; default: in memory")
    parser.add_argument("--like", metavar="PACKAGE", help="one of the 5,000, as the query")
    parser.add_argument("--k", type=int, default=10)
    given = parser.parse_args(arguments)
    try:
        with quashdb.open(given.database) as database:
            search(sample.open_packages(database), given.like, given.k)
    except quashdb.QuashError as error:
        raise SystemExit(f"Error: {error}") from None


def search(packages, like, k):
    if like is not None:
        show(f"like {like}", packages.query_by_id(like, k)[0])
        return
    queries = sample.vectors("queries.npy")
    texts = sample.packages("query_packages.jsonl")
    found = packages.query(queries, k)
    for row in range(3):
        show(f"{texts[row]['name']}: {texts[row]['synopsis']}", found[row])
    # .ivecs: each row an int32 count, 10 here, and as many int32 numbers.
    exact = np.fromfile(sample.FOLDER / "neighbors.ivecs", "<i4").reshape(len(queries), -1)[:, 1:]
    names = np.asarray([row["name"] for row in sample.packages()])
    depth = min(k, exact.shape[1])
    recall = np.mean([
        len(set(hits.ids[:depth]) & set(names[truth[:depth]])) / depth
        for hits, truth in zip(found, exact, strict=True)
    ])  # fmt: skip
    print(f"recall@{depth} of {len(queries)} queries: {recall:.3f}")


def show(query, hits):
    print(query)
    for hit in hits:
        print(f"  {hit.score:.3f}  {hit.id:<32} {hit.metadata['synopsis']}")
    print()


if __name__ == "__main__":
    main()
