"""A LlamaIndex vector store.

from llama_index.core import StorageContext, VectorStoreIndex
from quashdb.integrations.llama_index import QuashVectorStore

store = QuashVectorStore("notes.qdb")
index = VectorStoreIndex.from_documents(
    documents, storage_context=StorageContext.from_defaults(vector_store=store))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

import quashdb
from quashdb._types import Metric, Rerank
from quashdb.errors import InvalidError, NotFoundError, UnsupportedError
from quashdb.integrations._metadata import Fields, like_pattern

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.LT: "$lt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.ANY: "$contains_any",
    FilterOperator.ALL: "$contains_all",
    FilterOperator.CONTAINS: "$contains",
}


class QuashVectorStore(BasePydanticVectorStore):
    """Nodes in one collection.

    database: an open quashdb.Database, which stays the caller's, or a path, opened
        here and closed by close().
    collection: its name; made at the first add(), with metric, bits and rerank of
        Database.create_collection().

    Modes of queries: DEFAULT and MMR (others raise UnsupportedError). Filters take
    every operator; a text match is LIKE, which tells ASCII case apart in neither.
    """

    stores_text: bool = True
    flat_metadata: bool = False

    _database: quashdb.Database = PrivateAttr()
    _owned: bool = PrivateAttr()
    _name: str = PrivateAttr()
    _options: dict[str, Any] = PrivateAttr()
    _collection: quashdb.Collection | None = PrivateAttr(default=None)
    _fields: Fields | None = PrivateAttr(default=None)

    def __init__(
        self,
        database: quashdb.Database | str | os.PathLike[str] = ":memory:",
        collection: str = "llama_index",
        *,
        metric: Metric = "cosine",
        bits: int = 4,
        rerank: Rerank = "f16",
    ) -> None:
        super().__init__(stores_text=True)
        self._owned = not isinstance(database, quashdb.Database)
        self._database = (
            database if isinstance(database, quashdb.Database) else quashdb.open(database)
        )
        self._name = collection
        self._options = {"metric": metric, "bits": bits, "rerank": rerank}
        try:
            self._use(self._database[collection])
        except NotFoundError:
            pass

    @classmethod
    def class_name(cls) -> str:
        return "QuashVectorStore"

    @property
    def client(self) -> quashdb.Database:
        return self._database

    @property
    def collection(self) -> quashdb.Collection | None:
        """What is underneath; None before the first add()."""
        return self._collection

    def close(self) -> None:
        """Closes the database if it was opened here."""
        if self._owned:
            self._database.close()

    def _use(self, collection: quashdb.Collection) -> tuple[quashdb.Collection, Fields]:
        if collection.id_type != "string":
            raise InvalidError(f"collection {self._name!r} has integer ids, expected string ids")
        fields = Fields(collection)
        self._collection, self._fields = collection, fields
        return collection, fields

    # ---- Writing

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """Adds nodes, which have embeddings, as one atomic batch, replacing those with
        the same ids."""
        if not nodes:
            return []
        vectors = np.asarray([node.get_embedding() for node in nodes], np.float32)
        collection, fields = self._collection, self._fields
        if collection is None or fields is None:
            collection, fields = self._use(
                self._database.get_or_create_collection(
                    self._name, vectors.shape[1], id_type="string", **self._options
                )
            )
        ids = [node.node_id for node in nodes]
        collection.upsert(
            ids,
            vectors,
            [
                fields.encode(node_to_metadata_dict(node, remove_text=True, flat_metadata=False))
                for node in nodes
            ],
            [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes],
        )
        return ids

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Deletes the nodes of a document."""
        if self._collection is not None and self._fields is not None:
            self._collection.delete(where=self._fields.where({"ref_doc_id": ref_doc_id}))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        where = self._where(filters, node_ids)
        if self._collection is not None and where is not None:
            self._collection.delete(where=where)

    def clear(self) -> None:
        if self._collection is not None:
            self._collection.delete(where="TRUE")

    # ---- Reading

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        if self._collection is None:
            return []
        rows = self._collection.get(where=self._where(filters, node_ids))
        return [_node(row.document, row.metadata) for row in rows]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        modes = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR)
        if query.mode not in modes:
            raise UnsupportedError(f"query mode is {query.mode}, expected one of {modes}")
        if query.query_embedding is None:
            raise InvalidError("query_embedding is missing")
        if self._collection is None or self._fields is None:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        # Retrievers pass empty lists for no restriction.
        where = self._where(query.filters, query.node_ids or None, query.doc_ids or None)
        is_mmr = query.mode == VectorStoreQueryMode.MMR
        k = query.similarity_top_k
        fetch = kwargs.get("mmr_prefetch_k", 4 * k) if is_mmr else k
        include = ("metadatas", "documents", *(("vectors",) if is_mmr else ()))
        embedding = np.asarray(query.query_embedding, np.float32)
        hits = list(self._collection.query(embedding, fetch, where, include=include)[0])
        scores = [float(hit.score) for hit in hits]
        if is_mmr and hits:
            scores, chosen = get_top_k_mmr_embeddings(
                query.query_embedding,
                [hit.vector.tolist() for hit in hits if hit.vector is not None],
                similarity_top_k=k,
                embedding_ids=list(range(len(hits))),
                mmr_threshold=query.mmr_threshold,
            )
            hits = [hits[i] for i in chosen]
        return VectorStoreQueryResult(
            nodes=[_node(hit.document, hit.metadata) for hit in hits],
            similarities=scores,
            ids=[str(hit.id) for hit in hits],
        )

    def _where(
        self,
        filters: MetadataFilters | None,
        node_ids: Sequence[str] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> Any:
        """None: no filter."""
        if self._fields is None:
            return None
        parts: list[dict[str, Any]] = []
        if filters is not None and filters.filters:
            parts.append(_filters(filters))
        if node_ids is not None:
            parts.append({"$id": {"$in": list(node_ids)}})
        if doc_ids is not None:
            parts.append({"ref_doc_id": {"$in": list(doc_ids)}})
        return self._fields.where({"$and": parts}) if parts else None


def _filters(filters: MetadataFilters) -> dict[str, Any]:
    parts = [
        _filters(one) if isinstance(one, MetadataFilters) else _filter(one)
        for one in filters.filters
    ]
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {"$or" if filters.condition == FilterCondition.OR else "$and": parts}


def _filter(one: MetadataFilter) -> dict[str, Any]:
    if one.operator == FilterOperator.IS_EMPTY:
        return {one.key: None}
    if one.operator in (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE):
        return {one.key: {"$like": like_pattern(str(one.value))}}
    return {one.key: {_OPERATORS[one.operator]: one.value}}


def _node(text: str | None, fields: dict[str, Any] | None) -> BaseNode:
    node = metadata_dict_to_node(Fields.decode(fields))
    node.set_content(text or "")
    return node
