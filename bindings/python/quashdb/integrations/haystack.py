"""A Haystack document store, and the retriever over it.

from quashdb.integrations.haystack import QuashDocumentStore, QuashEmbeddingRetriever

store = QuashDocumentStore("notes.qdb", embedding_dim=384)
pipeline.add_component("retriever", QuashEmbeddingRetriever(store, top_k=5))
pipeline.connect("embedder.embedding", "retriever.query_embedding")
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from haystack import Document, component, default_from_dict, default_to_dict
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.document_stores.types.filter_policy import apply_filter_policy

import quashdb
from quashdb._types import Metric, Rerank
from quashdb.errors import InvalidError, MisuseError
from quashdb.integrations._haystack_filters import meta_key, where
from quashdb.integrations._metadata import WHOLE, Fields

_HAS_EMBEDDING = "_has_embedding"
_NORM = "_embedding_norm"
_INCLUDE = ("metadatas", "documents", "vectors")
_ROWS = 1024


class QuashDocumentStore:
    """Documents in one collection, with and without embeddings.

    database: an open quashdb.Database, which stays the caller's, or a path, opened
        here and closed by close(). ":memory:" is gone afterwards.
    collection: its name, made if missing.
    embedding_dim: length of every embedding; one of another length raises InvalidError,
        a collection of another ExistsError.
    metric, bits, rerank: as Database.create_collection(). With rerank "f32", the
        default, embeddings come back as they were given, to float32.

    Filters take every operator of Haystack, on "id" and on meta; times are compared as
    text, which is right for ISO dates of one form. A meta key keeps the kind of value
    that it was first given. Any number of threads may use one.
    """

    def __init__(
        self,
        database: quashdb.Database | str | os.PathLike[str] = ":memory:",
        collection: str = "haystack",
        *,
        embedding_dim: int = 768,
        metric: Metric = "cosine",
        bits: int = 4,
        rerank: Rerank = "f32",
    ) -> None:
        self._owned = not isinstance(database, quashdb.Database)
        self._database = (
            database if isinstance(database, quashdb.Database) else quashdb.open(database)
        )
        self._settings = {
            "collection": collection,
            "embedding_dim": embedding_dim,
            "metric": metric,
            "bits": bits,
            "rerank": rerank,
        }
        try:
            self._collection = self._database.get_or_create_collection(
                collection,
                embedding_dim,
                metric,
                "string",
                bits=bits,
                rerank=rerank,
                fields={WHOLE: "string", _HAS_EMBEDDING: "bool", _NORM: "float"},
            )
            self._fields = Fields(self._collection)
        except BaseException:
            self.close()
            raise

    @property
    def collection(self) -> quashdb.Collection:
        """What is underneath."""
        return self._collection

    def close(self) -> None:
        """Closes the database if it was opened here."""
        if self._owned:
            self._database.close()

    def to_dict(self) -> dict[str, Any]:
        """MisuseError if it was made over an open database: nothing could open it again."""
        if not self._owned:
            raise MisuseError("a store over an open Database has no form to save: give it a path")
        data: dict[str, Any] = default_to_dict(self, database=self._database.path, **self._settings)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> QuashDocumentStore:
        made: QuashDocumentStore = default_from_dict(cls, data)
        return made

    # ---- Writing

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Writes documents as one atomic batch; returns how many. NONE is FAIL."""
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            raise InvalidError("documents is no list of Documents")
        chosen = {document.id: document for document in documents}  # of an id twice, the last
        ids = list(chosen)
        if policy != DuplicatePolicy.OVERWRITE and ids:
            stored = self._collection.contains(ids)
            if policy == DuplicatePolicy.SKIP:
                ids = [id for id, is_stored in zip(ids, stored, strict=True) if not is_stored]
            elif stored.any() or len(ids) < len(documents):
                twice = [id for id, is_stored in zip(ids, stored, strict=True) if is_stored]
                raise DuplicateDocumentError(f"ids are stored already: {', '.join(twice[:5])}")
        self._upsert([chosen[id] for id in ids])
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(ids)

    def _upsert(self, documents: Sequence[Document]) -> None:
        if not documents:
            return
        dim = self._collection.dim
        vectors = np.zeros((len(documents), dim), np.float32)
        vectors[:, 0] = 1  # of one without an embedding, which no search returns
        rows = []
        for row, document in enumerate(documents):
            fields = self._fields.encode(document.meta)
            data = document.to_dict(flatten=False)
            rest = {key: data[key] for key in ("blob", "sparse_embedding") if data.get(key)}
            try:
                fields[WHOLE] = json.dumps([document.meta, rest], ensure_ascii=False)
            except (TypeError, ValueError) as error:
                raise InvalidError(f"document {document.id} is not JSON: {error}") from error
            fields[_HAS_EMBEDDING] = document.embedding is not None
            if document.embedding is not None:
                if len(document.embedding) != dim:
                    raise InvalidError(
                        f"the embedding of document {document.id} has {len(document.embedding)} "
                        f"numbers, expected {dim}"
                    )
                vectors[row] = document.embedding
                fields[_NORM] = float(np.linalg.norm(vectors[row]))
                if fields[_NORM] == 0 and self._collection.metric == "cosine":
                    vectors[row, 0] = 1  # a search cannot tell its direction
            rows.append(fields)
        self._collection.upsert(
            [document.id for document in documents],
            vectors,
            rows,
            [document.content for document in documents],
        )

    def delete_documents(self, document_ids: list[str]) -> None:
        """Unknown ids are skipped."""
        if document_ids:
            self._collection.delete(document_ids)

    def delete_all_documents(self) -> None:
        self._collection.delete(where="TRUE")

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Deletes documents that match; returns how many."""
        return self._collection.delete(where=where(filters, self._fields) or "TRUE")

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """Sets keys of meta in documents that match, as one atomic batch; returns how many."""
        found = self.filter_documents(filters)
        self._upsert([dataclasses.replace(d, meta={**d.meta, **meta}) for d in found])
        return len(found)

    # ---- Reading

    def count_documents(self) -> int:
        return self._collection.count()

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        return self._collection.count(where(filters, self._fields))

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Documents that match, in the order in which they were written."""
        rows = self._collection.get(where=where(filters, self._fields), include=_INCLUDE)
        return [self._document(row) for row in rows]

    def embedding_retrieval(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        return_embedding: bool = False,
    ) -> list[Document]:
        """The top_k nearest documents with their scores, best first."""
        matches: dict[str, Any] = {_HAS_EMBEDDING: True}
        condition = where(filters, self._fields)
        if condition is not None:
            matches = {"$and": [matches, condition]}
        found = self._collection.query(
            np.asarray(query_embedding, np.float32),
            top_k,
            matches,
            include=_INCLUDE if return_embedding else _INCLUDE[:2],
        )
        return [dataclasses.replace(self._document(hit), score=hit.score) for hit in found[0]]

    def _document(self, row: quashdb.Row | quashdb.Hit) -> Document:
        fields = row.metadata or {}
        meta, rest = json.loads(fields[WHOLE])
        embedding = None
        if row.vector is not None and fields[_HAS_EMBEDDING]:
            scale = fields[_NORM] if self._collection.metric == "cosine" else 1.0
            embedding = (row.vector.astype(np.float64) * scale).tolist()
        data = {"id": str(row.id), "content": row.document, "meta": meta, **rest}
        made: Document = Document.from_dict({**data, "embedding": embedding})
        return made

    # ---- About meta

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """{key: {"type"}}, by the kind of value that the key holds."""
        info: dict[str, dict[str, str]] = {}
        for meta in self._metas(None):
            for key, value in meta.items():
                info.setdefault(key, {"type": type(value).__name__})
        return info

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        values = self._values(meta_key(metadata_field), None)
        return {"min": min(values, default=None), "max": max(values, default=None)}

    def count_unique_metadata_by_filter(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        return {
            field: len(set(map(_typed, self._values(meta_key(field), filters))))
            for field in metadata_fields
        }

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int | None = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """(a page of the different values, sorted as text, how many there are)

        search_term: only values that contain it, in any case.
        """
        unique = {_typed(one): one for one in self._values(meta_key(metadata_field), filters)}
        values = sorted(unique.values(), key=str)
        if search_term is not None:
            values = [one for one in values if search_term.lower() in str(one).lower()]
        end = None if size is None else from_ + size
        return values[from_:end], len(values)

    def _metas(self, filters: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        condition = where(filters, self._fields)
        with self._collection.iterate(condition, _ROWS, "metadatas") as batches:
            for batch in batches:
                for row in batch:
                    yield json.loads((row.metadata or {})[WHOLE])[0]

    def _values(self, key: str, filters: dict[str, Any] | None) -> list[Any]:
        return [meta[key] for meta in self._metas(filters) if meta.get(key) is not None]


def _typed(value: Any) -> tuple[str, str]:
    """Tells 1, 1.0, True and "1" apart, and takes lists."""
    return type(value).__name__, json.dumps(value, sort_keys=True)


@component
class QuashEmbeddingRetriever:
    """The documents of a QuashDocumentStore that are nearest to an embedding.

    filters, top_k: unless run() is given others; filter_policy says how its filters
        and these go together.
    """

    def __init__(
        self,
        document_store: QuashDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, QuashDocumentStore):
            raise InvalidError("document_store is no QuashDocumentStore")
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.filter_policy = (
            filter_policy
            if isinstance(filter_policy, FilterPolicy)
            else FilterPolicy.from_str(filter_policy)
        )

    def to_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
        )
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> QuashEmbeddingRetriever:
        parameters = data["init_parameters"]
        store = QuashDocumentStore.from_dict(parameters["document_store"])
        made: QuashEmbeddingRetriever = default_from_dict(
            cls, {**data, "init_parameters": {**parameters, "document_store": store}}
        )
        return made

    @component.output_types(documents=list[Document])
    def run(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """{"documents": best first, with scores}"""
        chosen = apply_filter_policy(self.filter_policy, self.filters, filters)
        k = self.top_k if top_k is None else top_k
        return {"documents": self.document_store.embedding_retrieval(query_embedding, chosen, k)}
