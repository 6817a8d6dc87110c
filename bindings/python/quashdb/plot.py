"""Pictures of a collection, as PNG (or what else matplotlib writes, by the file's name).

    python3 -m quashdb.plot notes.qdb notes recall.png
    python3 -m quashdb.plot notes.qdb notes map.png --kind map --by lang

Needs matplotlib. Reads beside a writer, so the shell's .plot can run it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import quashdb
from quashdb._types import Where
from quashdb.collection import Collection
from quashdb.errors import InvalidError, NotFoundError, QuashError, UnsupportedError

_WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
_COLOURS = 9  # values of a field with a colour of their own


def _figure(title: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure  # draws without a display
    except ImportError as error:
        raise UnsupportedError("this needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def _sample(
    collection: Collection, size: int, seed: int, where: Where | None = None
) -> tuple[Any, npt.NDArray[np.float32]]:
    """Ids and vectors of rows drawn at random."""
    ids = [one for batch in collection.iterate(where, 65536, None) for one in batch.ids]
    if len(ids) < 3:
        raise InvalidError(
            f"collection {collection.name!r} has {len(ids)} rows, expected 3 or more"
        )
    chosen = np.random.default_rng(seed).choice(len(ids), min(size, len(ids)), replace=False)
    rows = collection.get([ids[row] for row in np.sort(chosen)], include="vectors")
    assert rows.vectors is not None
    return rows.ids, np.array(rows.vectors)


def recall_curve(
    collection: Collection,
    path: str | os.PathLike[str],
    *,
    k: int = 10,
    queries: npt.ArrayLike | None = None,
    sample: int = 200,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Draws recall@k against the time of a query, one thread, for several widths of
    the candidate stage and for the default, and returns {width: (recall, us)}.

    queries: [nq, dim]; None: `sample` stored rows, each left out of its own results.
    Raises InvalidError with rerank "none", which has nothing exact to compare with.
    """
    drop = 0
    if queries is None:
        _, queries = _sample(collection, sample, seed)
        drop = 1
    vectors = np.asarray(queries, np.float32)
    wanted, _ = collection.search(vectors, k + drop, exact=True)
    k = min(k, len(collection) - drop)
    points: dict[str, tuple[float, float]] = {}
    rows = len(collection)
    for width in (0, *(one for one in _WIDTHS if k + drop <= one <= rows)):
        found, times = [], []
        for query in vectors:
            begin = time.perf_counter()
            found.append(collection.search(query, k + drop, candidates=width, threads=1)[0][0])
            times.append(time.perf_counter() - begin)
        hits = sum(
            len(set(one[drop:].tolist()) & set(exact[drop:].tolist()))
            for one, exact in zip(found, wanted, strict=True)
        )
        points[str(width) if width else "default"] = (
            hits / (len(vectors) * k),
            statistics.median(times) * 1e6,
        )
    figure, axes = _figure(
        f"{collection.name}: {rows:,} x {collection.dim}, {collection.bits} bits"
    )
    widths = [(us, recall) for name, (recall, us) in points.items() if name != "default"]
    if widths:
        axes.plot(*zip(*widths, strict=True), "o-", label="candidates")
        for name, (recall, us) in points.items():
            if name != "default":
                axes.annotate(name, (us, recall), xytext=(4, -10), textcoords="offset points")
    recall, us = points["default"]
    axes.plot([us], [recall], "s", markersize=9, label="default")
    axes.set_xlabel("µs per query, one thread")
    axes.set_ylabel(f"recall@{k}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path)
    return points


def projection(
    collection: Collection,
    path: str | os.PathLike[str],
    *,
    by: str | None = None,
    where: Where | None = None,
    sample: int = 5000,
    seed: int = 0,
) -> npt.NDArray[np.float32]:
    """Draws rows on the two directions in which they vary most (principal components)
    and returns their places, [n, 2].

    by: a field that gives the colours.
    """
    ids, vectors = _sample(collection, sample, seed, where)
    labels: list[Any] | None = None
    if by is not None:
        fields = [one["name"] for one in collection.describe()["fields"]]
        if by not in fields:
            raise NotFoundError(f"no field {by!r}, only {', '.join(fields)}")
        found = collection.get(ids, include="metadatas").metadatas
        labels = [(one or {}).get(by) for one in found or []]
    centred = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    places: npt.NDArray[np.float32] = np.asarray(centred @ directions[:, [-1, -2]], np.float32)
    kept = float(values[-2:].sum() / max(float(values.sum()), 1e-30))
    figure, axes = _figure(f"{collection.name}: {len(places):,} of {len(collection):,} rows")
    style = {"s": 6, "alpha": 0.7, "linewidths": 0}
    if labels is None:
        axes.scatter(*places.T, **style)
    else:
        named = [", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in labels]
        shown = [value for value, _ in Counter(named).most_common(_COLOURS)]
        is_other = np.array([one not in shown for one in named])
        if is_other.any():
            axes.scatter(*places[is_other].T, color="0.8", label="others", **style)
        for value in shown:
            axes.scatter(*places[[one == value for one in named]].T, label=value, **style)
        axes.legend(title=by, markerscale=2, fontsize="small")
    axes.set_xlabel(f"two principal components, {kept:.0%} of the variance")
    axes.set_xticks([])
    axes.set_yticks([])
    figure.savefig(path)
    return places


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m quashdb.plot", description="Draws a collection to a file."
    )
    parser.add_argument("database")
    parser.add_argument("collection")
    parser.add_argument("file", help="to write, as plot.png")
    parser.add_argument(
        "--kind", choices=["recall", "map"], default="recall",
        help="recall against latency, or rows in two dimensions",
    )  # fmt: skip
    parser.add_argument("--by", help="map: the field that gives the colours")
    parser.add_argument("--k", type=int, default=10, help="recall: results per query")
    parser.add_argument("--sample", type=int, help="rows to draw, or to search for")
    given = parser.parse_args(arguments)
    sample = {} if given.sample is None else {"sample": given.sample}
    try:
        with quashdb.open(given.database, "follower") as database:
            collection = database[given.collection]
            if given.kind == "map":
                projection(collection, given.file, by=given.by, **sample)
            else:
                points = recall_curve(collection, given.file, k=given.k, **sample)
                print(f"{'candidates':>10}  {f'recall@{given.k}':>9}  {'us':>9}")
                for name, (recall, us) in points.items():
                    print(f"{name:>10}  {recall:>9.4f}  {us:>9,.1f}")
    except (QuashError, OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
