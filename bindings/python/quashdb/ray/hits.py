"""What a search over shards found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import quashdb
from quashdb._types import Cursor, Id
from quashdb.ray.shard import Found


class Hits(list[quashdb.Hit]):
    """The rows found for one query, best first."""

    @property
    def ids(self) -> list[Id]:
        return [hit.id for hit in self]

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32 [n], descending."""
        return np.asarray([hit.score for hit in self], np.float32)

    @property
    def cursor(self) -> Cursor | None:
        """The last row's place, for `after`; None if nothing was found."""
        return Cursor(self[-1].score, self[-1].id) if self else None


def merge(found: list[Found], query: int, k: int) -> Hits:
    """The best `k` of all shards, ties by ascending id."""
    order = sorted(
        (-float(score), id_, shard, place)
        for shard, part in enumerate(found)
        for place, (id_, score) in enumerate(zip(part.ids[query], part.scores[query], strict=True))
    )[:k]
    hits = Hits()
    for negative, id_, shard, place in order:
        part = found[shard]
        hits.append(
            quashdb.Hit(
                id_,
                -negative,
                float(part.distances[query][place]),
                None if part.metadatas is None else part.metadatas[query][place],
                None if part.documents is None else part.documents[query][place],
                None if part.vectors is None else part.vectors[query][place],
            )
        )
    return hits
