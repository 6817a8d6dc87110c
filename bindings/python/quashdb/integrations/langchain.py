"""A LangChain vector store.

from quashdb.integrations.langchain import QuashVectorStore

store = QuashVectorStore(embeddings, "notes.qdb")
store.add_texts(["first", "second"], metadatas=[{"year": 2020}, {"year": 2024}])
store.similarity_search("query", k=4, filter={"year": {"$gte": 2021}})
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

import quashdb
from quashdb._types import Metric, Rerank, Where
from quashdb.embedding import embed_texts
from quashdb.errors import InvalidError, NotFoundError
from quashdb.integrations._metadata import Fields


class QuashVectorStore(VectorStore):
    """Documents in one collection, found by the embeddings of their text.

    embedding: makes the vectors; nothing is downloaded. One whose dimension
        differs from that of the stored vectors raises InvalidError.
    database: an open quashdb.Database, which stays the caller's, or a path, opened
        here and closed by close(). ":memory:" is gone afterwards.
    collection: its name; made at the first add, with metric, bits and rerank of
        Database.create_collection().

    Every `filter` is a dict of metadata keys ({"year": {"$gte": 2020}}) or SQL text
    over fields. Ids are strings. Any number of threads may use one.
    """

    def __init__(
        self,
        embedding: Embeddings,
        database: quashdb.Database | str | os.PathLike[str] = ":memory:",
        collection: str = "langchain",
        *,
        metric: Metric = "cosine",
        bits: int = 4,
        rerank: Rerank = "f16",
    ) -> None:
        self._embedding = embedding
        self._owned = not isinstance(database, quashdb.Database)
        self._database = (
            database if isinstance(database, quashdb.Database) else quashdb.open(database)
        )
        self._name = collection
        self._options: dict[str, Any] = {"metric": metric, "bits": bits, "rerank": rerank}
        self._collection: quashdb.Collection | None = None
        self._fields: Fields | None = None
        try:
            self._use(self._database[collection])
        except NotFoundError:
            pass

    def _use(self, collection: quashdb.Collection) -> tuple[quashdb.Collection, Fields]:
        if collection.id_type != "string":
            raise InvalidError(f"collection {self._name!r} has integer ids, expected string ids")
        fields = Fields(collection)
        self._collection, self._fields = collection, fields
        return collection, fields

    def _made(self, dim: int) -> tuple[quashdb.Collection, Fields]:
        if self._collection is None or self._fields is None:
            return self._use(
                self._database.get_or_create_collection(
                    self._name, dim, id_type="string", **self._options
                )
            )
        return self._collection, self._fields

    @property
    def embeddings(self) -> Embeddings:
        return self._embedding

    @property
    def collection(self) -> quashdb.Collection | None:
        """What is underneath; None before the first add."""
        return self._collection

    def close(self) -> None:
        """Closes the database if it was opened here."""
        if self._owned:
            self._database.close()

    # ---- Writing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds documents as one atomic batch, replacing those with the same ids."""
        listed = list(texts)
        if not listed:
            return []
        if metadatas is not None and len(metadatas) != len(listed):
            raise InvalidError(f"metadatas has {len(metadatas)} entries, texts has {len(listed)}")
        if ids is not None and len(ids) != len(listed):
            raise InvalidError(f"ids has {len(ids)} entries, texts has {len(listed)}")
        given = [None] * len(listed) if ids is None else list(ids)
        keys = [str(uuid.uuid4()) if one is None else one for one in given]
        dim = None if self._collection is None else self._collection.dim
        vectors = embed_texts(self._embedding.embed_documents, listed, dim)
        collection, fields = self._made(vectors.shape[1])
        rows = [fields.encode(one) for one in metadatas or [{}] * len(listed)]
        last = {key: row for row, key in enumerate(keys)}  # of an id twice, the later one
        chosen = sorted(last.values())
        collection.upsert(
            [keys[row] for row in chosen],
            vectors[chosen],
            [rows[row] for row in chosen],
            [listed[row] for row in chosen],
        )
        return keys

    def delete(
        self, ids: list[str] | None = None, filter: Where | None = None, **kwargs: Any
    ) -> bool | None:
        """Deletes by id, or where `filter` matches, or with neither everything. Other
        arguments raise InvalidError: with one misspelt nothing would restrict it."""
        if kwargs:
            raise InvalidError(f"delete() has no {', '.join(kwargs)}, expected ids or filter")
        if self._collection is None or self._fields is None:
            return True
        if ids is not None:
            self._collection.delete(ids)
            return True
        self._collection.delete(where=self._fields.where(filter) or "TRUE")
        return True

    # ---- Reading

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        if self._collection is None:
            return []
        return [
            _document(row.id, row.document, row.metadata) for row in self._collection.get(list(ids))
        ]

    def _hits(
        self, vector: Sequence[float], k: int, where: Where | None, include: Iterable[str]
    ) -> list[quashdb.Hit]:
        if self._collection is None or self._fields is None:
            return []
        found = self._collection.query(
            np.asarray(vector, np.float32), k, self._fields.where(where), include=include
        )
        return list(found[0])

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: Where | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The k best documents with their scores; higher is better with every metric."""
        hits = self._hits(embedding, k, filter, ("metadatas", "documents"))
        return [(_document(hit.id, hit.document, hit.metadata), hit.score) for hit in hits]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Where | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        vector = self._embedding.embed_query(query)
        return self.similarity_search_with_score_by_vector(vector, k, filter)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Where | None = None, **kwargs: Any
    ) -> list[Document]:
        found = self.similarity_search_with_score_by_vector(embedding, k, filter)
        return [document for document, _ in found]

    def similarity_search(
        self, query: str, k: int = 4, filter: Where | None = None, **kwargs: Any
    ) -> list[Document]:
        return [document for document, _ in self.similarity_search_with_score(query, k, filter)]

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        hits = self._hits(embedding, fetch_k, filter, ("metadatas", "documents", "vectors"))
        chosen = maximal_marginal_relevance(
            np.asarray(embedding, np.float32),
            [hit.vector.tolist() for hit in hits if hit.vector is not None],
            lambda_mult,
            k,
        )
        return [_document(hits[i].id, hits[i].document, hits[i].metadata) for i in chosen]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Where | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        metric = self._options["metric"] if self._collection is None else self._collection.metric
        if metric == "l2":  # of unit vectors: the score is minus the squared distance
            return lambda score: max(0.0, 1.0 + score / 4.0)
        return lambda score: min(1.0, max(0.0, score))

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> QuashVectorStore:
        """A store with these texts; kwargs are those of the constructor."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store


def _document(id: Any, text: str | None, fields: dict[str, Any] | None) -> Document:
    return Document(id=id, page_content=text or "", metadata=Fields.decode(fields))
