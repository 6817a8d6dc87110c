"""Metadata of any shape, as these libraries have it, in typed fields.

A value that a field can hold gets a field of its own, declared when it first
occurs, so that filters run on columns: text, numbers, bools, lists of text and of
integers. The whole dict is kept beside as JSON and comes back as it was given.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quashdb._ffi import FIELDS_MAX
from quashdb.collection import Collection
from quashdb.errors import ExistsError, InvalidError, LimitError

WHOLE = "metadata_json"
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_TAKEN = frozenset(
    "all and any between contains false id in is like not null or true".split() + [WHOLE]
)
_EXACT_FLOAT = 1 << 53
ALWAYS = {WHOLE: {"$ne": None}}
NEVER = {WHOLE: None}


def field_name(key: str) -> str:
    """The field of a metadata key: the key where a field may have that name, else
    "_" and the key with what is not a letter or digit as its code point."""
    if _PLAIN.match(key) and key.lower() not in _TAKEN:
        return key
    return "_" + re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found.group()):x}_", key)


def _type_of(value: Any) -> str | None:
    """The field type that holds `value`; None: only JSON does."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if abs(value) >= 1 << 63:
            return None
        # Fields of numbers are floats, which take 1 and 1.5 alike, unless that would round.
        return "float" if abs(value) <= _EXACT_FLOAT else "int"
    if isinstance(value, float):
        return "float" if math.isfinite(value) else None
    if isinstance(value, str):
        return "string"
    if isinstance(value, Sequence) and value:
        if all(isinstance(one, str) for one in value):
            return "string[]"
        if all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            return "int[]"
    return None


def to_json(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(metadata, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InvalidError(f"metadata {metadata!r} cannot be stored as JSON: {error}") from error


class Fields:
    """The fields of one collection, declared as they are needed."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._types = self._read()
        if WHOLE not in self._types:
            self._declare(WHOLE, "string")

    def _read(self) -> dict[str, str]:
        return {one["name"]: one["type"] for one in self._collection.describe()["fields"]}

    def _declare(self, field: str, type_: str) -> None:
        try:
            self._collection.add_field(field, type_)  # type: ignore[arg-type]
        except ExistsError:  # another process or thread was first
            self._types = self._read()
        self._types[field] = self._types.get(field, type_)

    def _check_room(self, metadata: Mapping[str, Any]) -> None:
        """Fields are never taken back, so none is declared for a row that cannot be stored."""
        names = {
            field_name(key)
            for key, value in metadata.items()
            if isinstance(key, str) and _type_of(value) is not None
        }
        new = names - self._types.keys()
        if len(self._types) + len(new) > FIELDS_MAX:
            raise LimitError(
                f"metadata has {len(new)} keys that no row had, {min(new)!r} among them, and "
                f"{len(self._types)} of at most {FIELDS_MAX} fields are taken: what is in a nested "
                "dict takes none"
            )

    def type_of(self, key: str) -> str | None:
        """The field type of a metadata key; None: no row has it in a field."""
        return self._types.get(field_name(key))

    def encode(self, metadata: Mapping[str, Any] | None, strict: bool = True) -> dict[str, Any]:
        """Fields of one row. A value whose field has another type raises InvalidError, or
        if not strict is kept beside, where filters do not see it."""
        given = dict(metadata or {})
        row: dict[str, Any] = {WHOLE: to_json(given)}
        for key, value in given.items():
            if not isinstance(key, str):
                raise InvalidError(f"metadata has the key {key!r}, expected text")
            type_ = _type_of(value)
            if type_ is None:
                continue
            field = field_name(key)
            if field not in self._types:
                self._check_room(given)
                self._declare(field, type_)
            declared = self._types[field]
            if declared == "float" and type_ in ("int", "float"):
                value = float(value)
            elif declared != type_ and not (
                declared == "int" and isinstance(value, (int, float)) and value == int(value)
            ):
                if not strict:
                    continue
                raise InvalidError(
                    f"metadata {key!r} is {value!r}, but earlier rows made it a field of "
                    f"type {declared}"
                )
            elif declared == "int":
                value = int(value)
            row[field] = list(value) if type_.endswith("[]") else value
        return row

    @staticmethod
    def decode(fields: Mapping[str, Any] | None) -> dict[str, Any]:
        """The metadata as it was given."""
        decoded: dict[str, Any] = json.loads((fields or {}).get(WHOLE, "{}"))
        return decoded

    def where(self, where: Mapping[str, Any] | str | None) -> Mapping[str, Any] | str | None:
        """A dict filter (quashdb.Collection) over metadata keys as one over fields. A key
        that no row has is null everywhere. SQL text is taken as it is."""
        if where is None or isinstance(where, str):
            return where
        if not isinstance(where, Mapping):
            raise TypeError(f"the filter is a {type(where).__name__}, expected a dict or SQL text")
        if not where:
            return where
        return {"$and": [self.term(key, value) for key, value in where.items()]}

    def term(self, key: str, value: Any) -> dict[str, Any]:
        """One condition of where()."""
        if key in ("$and", "$or"):
            if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
                raise InvalidError(f"{key} holds {value!r}, expected a list of dicts")
            return {key: [self.where(part) for part in value]}
        if key == "$not":
            return {key: self.where(value)}
        field = "id" if key == "$id" else field_name(key)
        if field == "id" or field in self._types:
            return {field: value}
        is_null = value is None or value == {"$eq": None}
        return dict(ALWAYS if is_null else NEVER)


def like_pattern(text: str) -> str:
    """A LIKE pattern for texts that contain `text`. The grammar has no escape: a
    literal % or _ also matches other characters."""
    return f"%{text}%"
