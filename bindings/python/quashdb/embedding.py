"""Texts in and texts out, embedded on demand by a function that you give.

    from quashdb.embedding import TextCollection

    notes = TextCollection(db, "notes", embed)      # embed(list of texts) -> [n, dim]
    notes.upsert(["a", "b"], ["first text", "second text"], [{"year": 2020}, {"year": 2024}])
    for hit in notes.query("text", k=5, where="year > 2021"):
        print(hit.id, hit.score, hit.document)

Nothing here loads a model or opens a connection: `embed` may call whatever it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from quashdb._types import Id, IdType, Metadata, Where
from quashdb.collection import Collection
from quashdb.database import Database
from quashdb.errors import InvalidError, NotFoundError
from quashdb.results import Hits, QueryResult

Embed: TypeAlias = Callable[[list[str]], Any]
"""embed(texts): one vector of numbers for each text, always of the same length."""


def embed_texts(
    embed: Embed, texts: Sequence[str], dim: int | None = None
) -> npt.NDArray[np.float32]:
    """float32 [n, dim] by the function, checked.

    dim: what the vectors must have; None: anything.
    Raises InvalidError for another number of vectors, another dimension, or values that
    are no finite numbers. What `embed` raises comes through.
    """
    given = list(texts)
    for text in given:
        if not isinstance(text, str):
            raise InvalidError(f"texts hold a {type(text).__name__}, expected str")
    made = embed(given)
    try:
        vectors = np.asarray(made, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidError(
            f"the embedding function returned no rows of numbers of one length: {error}"
        ) from error
    if vectors.ndim != 2 or len(vectors) != len(given):
        raise InvalidError(
            f"the embedding function returned shape {vectors.shape} for {len(given)} texts, "
            f"expected ({len(given)}, {dim or 'dim'})"
        )
    if dim is not None and vectors.shape[1] != dim:
        raise InvalidError(
            f"the embedding function returned vectors of {vectors.shape[1]} numbers, expected "
            f"{dim} as the stored ones have: it is another model's, or has changed"
        )
    if not np.isfinite(vectors).all():
        raise InvalidError("the embedding function returned NaN or infinite numbers")
    return vectors


class TextCollection:
    """A collection whose vectors are made of its documents.

    database, name: made at the first write, with the dimension of its vectors, if there
        is none of that name.
    embed: of documents.
    embed_query: of queries, where a model tells them apart; None: embed.
    options: of Database.create_collection(), dim left out.

    Any number of threads may use one if they may use `embed`.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        embed: Embed,
        *,
        embed_query: Embed | None = None,
        id_type: IdType = "string",
        **options: Any,
    ) -> None:
        self._database = database
        self._name = name
        self._embed = embed
        self._embed_query = embed_query or embed
        self._options = {"id_type": id_type, **options}
        self._collection: Collection | None = None
        if name in database:
            self._collection = database[name]

    @property
    def collection(self) -> Collection | None:
        """What is underneath, for everything that takes no text; None before the first
        write."""
        return self._collection

    def _vectors(self, texts: Sequence[str], embed: Embed) -> npt.NDArray[np.float32]:
        dim = None if self._collection is None else self._collection.dim
        return embed_texts(embed, texts, dim)

    def add(
        self,
        ids: Sequence[Id],
        documents: Sequence[str],
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Embeds and adds documents as one atomic batch; Collection.add() has the errors.
        Nothing is written if the function fails."""
        self._write("add", ids, documents, metadatas)

    def upsert(
        self,
        ids: Sequence[Id],
        documents: Sequence[str],
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """As add(), replacing rows whose id is stored."""
        self._write("upsert", ids, documents, metadatas)

    def _write(self, verb: str, ids: Any, documents: Any, metadatas: Any) -> None:
        if isinstance(documents, str):
            raise InvalidError("documents is one text, expected a list of them")
        if len(ids) != len(documents):
            raise InvalidError(f"documents has {len(documents)} entries, ids has {len(ids)}")
        if len(documents) == 0:
            return
        vectors = self._vectors(documents, self._embed)
        if self._collection is None:
            self._collection = self._database.get_or_create_collection(
                self._name, vectors.shape[1], **self._options
            )
        getattr(self._collection, verb)(ids, vectors, metadatas, list(documents))

    def query(self, text: str, k: int = 10, where: Where | None = None, **options: Any) -> Hits:
        """The k documents nearest to one text, best first. options: of Collection.query()."""
        return self.query_all([text], k, where, **options)[0]

    def query_all(
        self, texts: Sequence[str], k: int = 10, where: Where | None = None, **options: Any
    ) -> QueryResult:
        """As Collection.query(), one query for each text. NotFoundError before the first
        write."""
        if self._collection is None:
            raise NotFoundError(f"no collection {self._name!r}: nothing has been written to it")
        vectors = self._vectors(texts, self._embed_query)
        return self._collection.query(vectors, k, where, **options)

    def get(self, id: Id) -> tuple[str | None, Metadata]:
        """(document, metadata) of one row; NotFoundError for an unknown id."""
        rows = [] if self._collection is None else list(self._collection.get(id))
        if not rows:
            raise NotFoundError(f"collection {self._name!r} has no row {id!r}")
        return rows[0].document, rows[0].metadata or {}

    def __len__(self) -> int:
        return 0 if self._collection is None else len(self._collection)
