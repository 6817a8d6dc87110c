"""Chroma's client over QuashDB, for code that was written for it.

    from quashdb.integrations import chroma as chromadb

    client = chromadb.PersistentClient("notes.qdb")
    notes = client.get_or_create_collection("notes", embedding_function=embed)
    notes.add(ids=["a", "b"], documents=["first", "second"], metadatas=[{"year": 2020}, {}])
    notes.query(query_texts=["first"], n_results=2, where={"year": {"$gte": 2000}})

What differs: embeddings are made by the function that is given, never by a model
that is downloaded; collections are searched exhaustively with margins, so "hnsw:"
settings other than "hnsw:space" have no effect; distances of "cosine" and "ip" are
those of Chroma, 1 - score, and of "l2" squared.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import quashdb
from quashdb import _convert
from quashdb.embedding import Embed, embed_texts
from quashdb.errors import ExistsError, InvalidError, NotFoundError, UnsupportedError
from quashdb.integrations._metadata import Fields, to_json

_SPACES = {"l2": "l2", "ip": "ip", "cosine": "cosine"}
_ABOUT = "chroma_collections"  # one row per collection: its metadata, as the document
_TEXTS = ("metadatas", "documents")
_INCLUDES = ("embeddings", "metadatas", "documents", "distances", "uris", "data")


class Client:
    """Collections of one database. Any number of threads may use one.

    database: an open quashdb.Database, which stays the caller's, or a path, opened
        here and closed by close(); ":memory:" is gone afterwards.
    """

    def __init__(self, database: quashdb.Database | str | os.PathLike[str] = ":memory:") -> None:
        self._owned = not isinstance(database, quashdb.Database)
        self._database = (
            database if isinstance(database, quashdb.Database) else quashdb.open(database)
        )
        self._about = self._database.get_or_create_collection(
            _ABOUT, 1, "l2", "string", bits=1, rerank="none"
        )

    def close(self) -> None:
        """Closes the database if it was opened here."""
        if self._owned:
            self._database.close()

    def heartbeat(self) -> int:
        """Nanoseconds since the epoch."""
        import time

        return time.time_ns()

    def create_collection(
        self,
        name: str,
        schema: None = None,
        configuration: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        embedding_function: Embed | None = None,
        data_loader: None = None,
        get_or_create: bool = False,
    ) -> Collection:
        """Raises ExistsError, a ValueError, if there is one and get_or_create is not set."""
        if schema is not None or data_loader is not None:
            raise UnsupportedError("schema and data_loader are not supported, expected None")
        if name in self._about:
            if not get_or_create:
                raise ExistsError(f"collection {name!r} exists")
            return self.get_collection(name, embedding_function)
        settings = dict(metadata or {})
        space = (configuration or {}).get("hnsw", {}).get("space", settings.get("hnsw:space", "l2"))
        if space not in _SPACES:
            raise InvalidError(f"hnsw:space is {space!r}, expected one of {', '.join(_SPACES)}")
        table, taken = name, {one._table for one in self.list_collections()}
        while table in taken:  # by a collection that has another name now
            table += "_"
        if table in self._database:  # made without this client
            space = self._database[table].metric
        about = {"metadata": dict(metadata) if metadata is not None else None, "space": space}
        about["table"] = table
        self._about.add([name], [[1.0]], documents=[to_json(about)])
        return Collection(self, name, about, embedding_function)

    def get_collection(
        self, name: str, embedding_function: Embed | None = None, **kwargs: Any
    ) -> Collection:
        """Raises NotFoundError if there is none."""
        rows = self._about.get([name])
        if len(rows) == 0:
            raise NotFoundError(f"no collection {name!r}")
        return Collection(self, name, json.loads(rows[0].document or "{}"), embedding_function)

    def get_or_create_collection(self, name: str, *args: Any, **kwargs: Any) -> Collection:
        """As create_collection(); metadata of one that exists is not changed."""
        return self.create_collection(name, *args, **{**kwargs, "get_or_create": True})

    def list_collections(self, limit: int | None = None, offset: int = 0) -> list[Collection]:
        names = sorted(str(row.id) for row in self._about.get())
        end = None if limit is None else offset + limit
        return [self.get_collection(name) for name in names[offset:end]]

    def count_collections(self) -> int:
        return self._about.count()

    def delete_collection(self, name: str) -> None:
        """Raises NotFoundError if there is none."""
        table = self.get_collection(name)._table
        self._about.delete([name])
        if table in self._database:
            self._database.drop_collection(table)

    def reset(self) -> bool:
        """Deletes every collection."""
        for one in self.list_collections():
            self.delete_collection(one.name)
        return True


EphemeralClient = Client


def PersistentClient(path: str | os.PathLike[str] = "./chroma", **kwargs: Any) -> Client:
    """A client of the database directory at `path`, made if missing."""
    return Client(path)


class Collection:
    """Made by a Client. Rows have string ids, and keep their vectors as float32;
    with "cosine" those are divided by their norms."""

    def __init__(
        self,
        client: Client,
        name: str,
        about: dict[str, Any],
        embedding_function: Embed | None,
    ) -> None:
        self._client = client
        self.name = name
        self.metadata: dict[str, Any] | None = about["metadata"]
        self._space: str = about["space"]
        self._table: str = about.get("table", name)  # its name in the database
        self._embed = embedding_function
        self._stored: tuple[quashdb.Collection, Fields] | None = None

    @property
    def id(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Collection(name={self.name})"

    def modify(
        self, name: str | None = None, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Another name, ExistsError if it is taken, or other metadata for the collection."""
        about = self._client._about
        if name is not None and name != self.name and name in about:
            raise ExistsError(f"collection {name!r} exists")
        new_name = self.name if name is None else name
        new = dict(self.metadata or {}) if metadata is None else dict(metadata)
        stored = {"metadata": new, "space": self._space, "table": self._table}
        about.upsert([new_name], [[1.0]], documents=[to_json(stored)])
        if new_name != self.name:
            about.delete([self.name])
        self.name, self.metadata = new_name, new

    def _use(self, dim: int | None = None) -> tuple[quashdb.Collection, Fields] | None:
        """What is underneath; None if nothing has been added and no `dim` is given."""
        if self._stored is None:
            database = self._client._database
            try:
                collection = database[self._table]
            except NotFoundError:
                if dim is None:
                    return None
                metric: Any = self._space
                collection = database.get_or_create_collection(
                    self._table, dim, metric, "string", rerank="f32"
                )
            self._stored = collection, Fields(collection)
        return self._stored

    # ---- Writing

    def add(
        self,
        ids: str | Sequence[str],
        embeddings: npt.ArrayLike | None = None,
        metadatas: Any = None,
        documents: Any = None,
        **kwargs: Any,
    ) -> None:
        """Adds rows as one atomic batch; those whose id is stored are left as they are."""
        self._write(ids, embeddings, metadatas, documents, replace=False)

    def upsert(
        self,
        ids: str | Sequence[str],
        embeddings: npt.ArrayLike | None = None,
        metadatas: Any = None,
        documents: Any = None,
        **kwargs: Any,
    ) -> None:
        """Adds rows, and changes those whose id is stored as update() does."""
        names = _ids(ids)
        stored = self._use()
        known = np.zeros(len(names), bool) if stored is None else stored[0].contains(names)
        if not known.any() or embeddings is None and documents is None:
            self._write(names, embeddings, metadatas, documents, replace=True)
            return
        texts, given = _listed(documents), _listed(metadatas)
        vectors = self._vectors_of(embeddings, texts)
        _check_lengths(names, vectors, given, texts)
        assert stored is not None
        collection, fields = stored
        rows = {str(row.id): row for row in collection.get(names, include=_TEXTS)}
        merged, contents = [], []
        for at, name in enumerate(names):
            row = rows.get(name)
            merged.append(fields.encode(_merged(row, given[at] if given is not None else None)))
            text = None if texts is None else texts[at]
            contents.append(row.document if text is None and row is not None else text)
        collection.upsert(names, vectors, merged, contents)

    def _write(
        self, ids: Any, embeddings: Any, metadatas: Any, documents: Any, replace: bool
    ) -> None:
        names = _ids(ids)
        if len(set(names)) != len(names):
            raise InvalidError("ids has an id twice")
        texts, given = _listed(documents), _listed(metadatas)
        vectors = self._vectors_of(embeddings, texts)
        _check_lengths(names, vectors, given, texts)
        stored = self._use(vectors.shape[1])
        assert stored is not None
        collection, fields = stored
        rows = [fields.encode(one) for one in given or [None] * len(names)]
        if not replace:
            new = np.flatnonzero(~collection.contains(names))
            if len(new) == 0:
                return
            names, vectors = [names[row] for row in new], vectors[new]
            rows = [rows[row] for row in new]
            texts = None if texts is None else [texts[row] for row in new]
        collection.upsert(names, vectors, rows, texts)

    def update(
        self,
        ids: str | Sequence[str],
        embeddings: npt.ArrayLike | None = None,
        metadatas: Any = None,
        documents: Any = None,
        **kwargs: Any,
    ) -> None:
        """Changes what is given of stored rows; keys of metadata are merged, None removes
        one. Unknown ids are skipped. New documents without embeddings are embedded."""
        stored = self._use()
        if stored is None:
            return
        collection, fields = stored
        names, texts, given = _ids(ids), _listed(documents), _listed(metadatas)
        if embeddings is None and texts is not None:
            embeddings = self._embedded(texts)
        changed = None if embeddings is None else _matrix(embeddings)
        _check_lengths(names, changed, given, texts)
        place = {name: at for at, name in enumerate(names)}
        rows = list(collection.get(names, include=("metadatas", "documents", "vectors")))
        if not rows:
            return
        vectors: list[Any] = []
        metadata: list[dict[str, Any]] = []
        contents: list[str | None] = []
        for row in rows:
            at = place[str(row.id)]
            vectors.append(row.vector if changed is None else changed[at])
            metadata.append(fields.encode(_merged(row, given[at] if given is not None else None)))
            contents.append(row.document if texts is None else texts[at])
        collection.upsert([str(row.id) for row in rows], vectors, metadata, contents)

    def delete(
        self,
        ids: str | Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, int]:
        """Deletes rows by id, by filter, or by both together; {"deleted": how many}."""
        if ids is None and not where and not where_document:
            raise InvalidError("delete() takes ids, where or where_document")
        stored = self._use()
        if stored is None:
            return {"deleted": 0}
        condition = self._where(stored, ids, where, where_document)
        return {"deleted": stored[0].delete(where=condition)}

    # ---- Reading

    def count(self) -> int:
        stored = self._use()
        return 0 if stored is None else stored[0].count()

    def get(
        self,
        ids: str | Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        limit: int | None = None,
        offset: int | None = None,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("metadatas", "documents"),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """{"ids": [n], and of `include` "embeddings", "metadatas", "documents": [n]}, in
        the order of insertion; what is not included is None."""
        _check_include(include, distances=False)
        stored = self._use()
        rows: list[quashdb.Row] = []
        if stored is not None:
            condition = self._where(stored, ids, where, where_document)
            first = _convert.uint(offset or 0, "offset", 1 << 62)
            count = None if limit is None else first + limit
            found = stored[0].get(where=condition, limit=count, include=_columns(include))
            rows = list(found)[first:]
        return {
            "ids": [str(row.id) for row in rows],
            "embeddings": _stacked(rows) if "embeddings" in include else None,
            "metadatas": [_metadata(row) for row in rows] if "metadatas" in include else None,
            "documents": [row.document for row in rows] if "documents" in include else None,
            "uris": None,
            "data": None,
            "included": list(include),
        }

    def peek(self, limit: int = 10) -> dict[str, Any]:
        """The first rows."""
        return self.get(limit=limit, include=("embeddings", "metadatas", "documents"))

    def query(
        self,
        query_embeddings: npt.ArrayLike | None = None,
        query_texts: str | Sequence[str] | None = None,
        n_results: int = 10,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[str] = ("metadatas", "documents", "distances"),
        ids: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The n_results nearest rows of each query, one list per query for "ids" and
        whatever is included; distances ascend."""
        _check_include(include, distances=True)
        if (query_embeddings is None) == (query_texts is None):
            raise InvalidError("query() takes either query_embeddings or query_texts")
        if query_embeddings is None:
            query_embeddings = self._embedded(_listed(query_texts))
        queries = _matrix(query_embeddings)
        stored = self._use()
        found: list[list[quashdb.Hit]] = [[] for _ in queries]
        if stored is not None:
            condition = self._where(stored, ids, where, where_document)
            result = stored[0].query(queries, n_results, condition, include=_columns(include))
            found = [list(hits) for hits in result]
        each: dict[str, Callable[[list[quashdb.Hit]], Any]] = {
            "embeddings": _stacked,
            "metadatas": lambda hits: [_metadata(hit) for hit in hits],
            "documents": lambda hits: [hit.document for hit in hits],
            # Chroma's distance of "ip" is 1 - score, ours -score.
            "distances": lambda hits: [
                float(hit.distance) + (1.0 if self._space == "ip" else 0.0) for hit in hits
            ],
        }
        answer: dict[str, Any] = {"ids": [[str(hit.id) for hit in hits] for hits in found]}
        for what, column in each.items():
            answer[what] = [column(hits) for hits in found] if what in include else None
        return {**answer, "uris": None, "data": None, "included": list(include)}

    # ---- Internal

    def _vectors_of(self, embeddings: Any, texts: Any) -> npt.NDArray[np.float32]:
        if embeddings is None:
            if texts is None:
                raise InvalidError("embeddings and documents are missing, expected one of them")
            embeddings = self._embedded(texts)
        return _matrix(embeddings)

    def _embedded(self, texts: Any) -> npt.NDArray[np.float32]:
        if self._embed is None:
            raise InvalidError(
                f"collection {self.name!r} has no embedding_function: give one to "
                "get_collection(), or embeddings with the rows"
            )
        stored = self._use()
        return embed_texts(self._embed, texts, None if stored is None else stored[0].dim)

    def _where(
        self,
        stored: tuple[quashdb.Collection, Fields],
        ids: Any,
        where: Mapping[str, Any] | None,
        where_document: Mapping[str, Any] | None,
    ) -> Any:
        parts: list[dict[str, Any]] = []
        if ids is not None:
            parts.append({"$id": {"$in": _listed(ids)}})
        if where:
            parts.append(_with_missing(where, stored[1]))
        condition = stored[1].where({"$and": parts}) if parts else None
        if where_document:
            matching = [
                str(row.id)
                for batch in stored[0].iterate(condition, include="documents")
                for row in batch
                if _document_matches(row.document, where_document)
            ]
            condition = {"id": {"$in": matching}}
        return condition


def _with_missing(where: Any, fields: Fields) -> dict[str, Any]:
    """Chroma's $ne and $nin also take rows without the key, and a value of another type
    than the key's is that of no row."""
    if not isinstance(where, Mapping):
        raise InvalidError(f"where holds {where!r}, expected a dict")
    parts: list[dict[str, Any]] = []
    for key, value in where.items():
        if key in ("$and", "$or"):
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise InvalidError(f"{key} holds {value!r}, expected a list of dicts")
            parts.append({key: [_with_missing(part, fields) for part in value]})
            continue
        for operator, operand in (value if isinstance(value, Mapping) else {"$eq": value}).items():
            parts.append(_term(key, operator, operand, fields))
    return {"$and": parts}


def _term(key: str, operator: str, operand: Any, fields: Fields) -> dict[str, Any]:
    declared = fields.type_of(key)
    if operator in ("$eq", "$in", "$ne", "$nin") and declared is not None and operand is not None:
        values = list(operand) if operator in ("$in", "$nin") else [operand]
        same = [one for one in values if _is_of(one, declared)]
        if operator in ("$eq", "$in"):
            return {key: {"$in": same}}
        return {"$or": [{key: {"$nin": same}} if same else {key: {"$ne": None}}, {key: None}]}
    if operator in ("$ne", "$nin"):
        return {"$or": [{key: {operator: operand}}, {key: None}]}
    if operator == "$not_contains":
        return {"$or": [{"$not": {key: {"$contains": operand}}}, {key: None}]}
    return {key: {operator: operand}}


def _is_of(value: Any, declared: str) -> bool:
    if isinstance(value, (bool, str)):
        return declared == ("bool" if isinstance(value, bool) else "string")
    return not isinstance(value, (int, float)) or declared in ("int", "float")


def _document_matches(text: str | None, condition: Mapping[str, Any]) -> bool:
    import re

    content = text or ""
    for operator, operand in condition.items():
        if operator == "$and":
            matches = all(_document_matches(text, part) for part in operand)
        elif operator == "$or":
            matches = any(_document_matches(text, part) for part in operand)
        elif operator in ("$contains", "$not_contains"):
            matches = (operand in content) == (operator == "$contains")
        elif operator in ("$regex", "$not_regex"):
            matches = (re.search(operand, content) is not None) == (operator == "$regex")
        else:
            raise InvalidError(
                f"where_document has the operator {operator!r}, expected $contains, $not_contains, "
                "$regex, $not_regex, $and or $or"
            )
        if not matches:
            return False
    return True


def _merged(row: quashdb.Row | None, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata of a stored row with changes; None takes a key away."""
    merged = {**(Fields.decode(row.metadata) if row is not None else {}), **(changes or {})}
    return {key: value for key, value in merged.items() if value is not None}


def _check_lengths(names: Any, vectors: Any, metadatas: Any, documents: Any) -> None:
    columns = {"embeddings": vectors, "metadatas": metadatas, "documents": documents}
    for what, entries in columns.items():
        if entries is not None and len(entries) != len(names):
            raise InvalidError(f"{what} has {len(entries)} entries, ids has {len(names)}")


def _listed(values: Any) -> Any:
    if values is None:
        return None
    if isinstance(values, (str, Mapping)):
        return [values]
    return list(values)


def _ids(ids: Any) -> list[Any]:
    names: list[Any] = _listed(ids)
    if not names:
        raise InvalidError("ids is empty, expected at least one")
    return names


def _matrix(values: Any) -> npt.NDArray[np.float32]:
    given = _convert.array_like(values, "embeddings")
    matrix = given[None] if given.ndim == 1 and given.size else given
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise InvalidError(
            f"embeddings has shape {given.shape} and dtype {given.dtype}, expected rows of numbers"
        )
    return _convert.float32(matrix)


def _check_include(include: Iterable[str], distances: bool) -> None:
    for one in include:
        if one not in _INCLUDES or (one == "distances" and not distances):
            raise InvalidError(f"include has {one!r}, expected some of {', '.join(_INCLUDES)}")


def _columns(include: Iterable[str]) -> list[str]:
    names = {"embeddings": "vectors", "metadatas": "metadatas", "documents": "documents"}
    return [names[one] for one in include if one in names]


def _metadata(row: quashdb.Row | quashdb.Hit) -> dict[str, Any] | None:
    return Fields.decode(row.metadata) or None


def _stacked(rows: Sequence[quashdb.Row | quashdb.Hit]) -> npt.NDArray[np.float32]:
    vectors = [row.vector for row in rows if row.vector is not None]
    return np.stack(vectors) if vectors else np.empty((0, 0), np.float32)
