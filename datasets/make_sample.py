"""Makes datasets/sample from the full set of Debian package embeddings.

    make_sample.py FULL_DATA [OUTPUT]

FULL_DATA holds base.npy [50000, 384], queries.npy [500, 384] (both float16),
docs.jsonl.xz and query_docs.jsonl.xz. The same input gives the same bytes on
every machine: rows are chosen by hash, and neighbours computed in float64.
"""

import argparse
import hashlib
import json
import pathlib

import numpy as np

import loaders

SEED = 2026
ROWS = 5000
QUERIES = 100
NEIGHBORS = 10
TEXT_CHARS = 200  # keeps the folder below 6 MB


def choose(n, count, seed):
    """`count` of n rows, ascending: those whose hashes are smallest."""
    key = lambda row: hashlib.sha256(f"{seed}:{row}".encode()).digest()
    return np.array(sorted(sorted(range(n), key=key)[:count]))


def shorten(text):
    """The sentences that fit in TEXT_CHARS, else the words that do."""
    if len(text) <= TEXT_CHARS:
        return text
    head = text[:TEXT_CHARS + 1]
    end = head.rfind(". ")
    return head[:end + 1] if end > 0 else head[:head.rfind(" ")] + " ..."


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(dict(row, text=shorten(row["text"])), ensure_ascii=False))
            file.write("\n")


def exact_neighbors(base, queries, k):
    """Rows with the k highest cosines, best first, ties by row."""
    base = base.astype(np.float64)
    queries = queries.astype(np.float64)
    scores = queries @ base.T / np.linalg.norm(base, axis=1)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype("<i4")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("full_data", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path, nargs="?",
                        default=pathlib.Path(__file__).parent / "sample")
    arguments = parser.parse_args()
    full, output = arguments.full_data, arguments.output
    output.mkdir(exist_ok=True)

    base = loaders.read_npy(full / "base.npy")
    queries = loaders.read_npy(full / "queries.npy")
    docs = list(loaders.read_jsonl(full / "docs.jsonl.xz"))
    query_docs = list(loaders.read_jsonl(full / "query_docs.jsonl.xz"))
    if len(docs) != len(base) or len(query_docs) != len(queries):
        raise SystemExit(f"{full}: {len(base)} vectors with {len(docs)} rows, {len(queries)} "
                         f"queries with {len(query_docs)}")
    rows = choose(len(base), ROWS, SEED)
    query_rows = choose(len(queries), QUERIES, SEED)
    base, queries = base[rows], queries[query_rows]
    loaders.write_npy(output / "vectors.npy", base)
    loaders.write_npy(output / "queries.npy", queries)
    loaders.write_vecs(output / "neighbors.ivecs", exact_neighbors(base, queries, NEIGHBORS))
    write_rows(output / "packages.jsonl", (docs[row] for row in rows))
    write_rows(output / "query_packages.jsonl", (query_docs[row] for row in query_rows))


if __name__ == "__main__":
    main()
