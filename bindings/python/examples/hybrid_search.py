"""Nearest vectors, conditions on metadata and words of the text together.

    python3 bindings/python/examples/hybrid_search.py
    python3 bindings/python/examples/hybrid_search.py --like mini-httpd-run --k 5 \
        --where "section IN ('httpd', 'net') AND size_kb < 1000" --words server proxy
    python3 bindings/python/examples/hybrid_search.py --where "tags CONTAINS 'role::program'"

The filter is exact: min(k, matching rows) come back at every selectivity. Words do not
filter: rows that have them rise, by reciprocal rank fusion of two lists, the nearest
rows and, of those with most of the words in their synopsis, the nearest.
"""

import argparse

import sample

import quashdb

_FUSION = 60  # the usual constant of reciprocal rank fusion (Cormack et al., 2009)


def hybrid(packages, vector, where=None, words=(), k=10):
    """[(fused score, Hit)], best first; only rows that match `where`."""
    depth = max(50, 4 * k)
    lists = [list(packages.query(vector, depth, where)[0])]
    if words:
        has_word = " OR ".join(f"synopsis LIKE {quoted(f'%{word}%')}" for word in words)
        both = f"({where}) AND ({has_word})" if where else has_word
        matching = packages.query(vector, depth, both)[0]
        lists.append(sorted(matching, key=lambda hit: -count(hit, words)))  # stable: then nearest
    scores, hits = {}, {}
    for ranked in lists:
        for rank, hit in enumerate(ranked, 1):
            hits[hit.id] = hit
            scores[hit.id] = scores.get(hit.id, 0.0) + 1 / (_FUSION + rank)
    best = sorted(scores, key=lambda id: (-scores[id], id))[:k]
    return [(scores[id], hits[id]) for id in best]


def quoted(text):
    """As a literal of the filter's SQL."""
    return "'" + text.replace("'", "''") + "'"


def count(hit, words):
    return sum(word.lower() in hit.metadata["synopsis"].lower() for word in words)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", default=":memory:", help="kept there; default: in memory")
    parser.add_argument("--like", default="mini-httpd-run", metavar="PACKAGE", help="the query")
    parser.add_argument("--where", default="size_kb < 2000", help="SQL; FILTERS.md has the grammar")
    parser.add_argument("--words", nargs="*", default=["server"])
    parser.add_argument("--k", type=int, default=10)
    given = parser.parse_args(arguments)
    try:
        with quashdb.open(given.database) as database:
            packages = sample.open_packages(database)
            rows = packages.get([given.like], include="vectors")
            if len(rows) == 0:
                raise quashdb.NotFoundError(f"no package {given.like!r} among the 5,000")
            print(f"{packages.count(given.where):,} of {len(packages):,} rows match")
            for score, hit in hybrid(packages, rows[0].vector, given.where, given.words, given.k):
                print(f"  {score:.4f}  {hit.score:.3f}  {hit.id:<28} {hit.metadata['synopsis']}")
    except quashdb.QuashError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
