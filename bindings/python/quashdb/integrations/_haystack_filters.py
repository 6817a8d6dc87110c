"""Haystack's filters as those of a collection.

Haystack knows true and false only: `!=` and `not in` also match where the key is
missing, and NOT of a comparison matches what the comparison does not. So NOT is
carried down to the comparisons, and those that match what is missing say so.
"""

from __future__ import annotations

import datetime
from typing import Any

from haystack.errors import FilterError

from quashdb.integrations._metadata import ALWAYS, NEVER, Fields

_OPPOSITE = {
    "==": "!=", "!=": "==", "in": "not in", "not in": "in",
    ">": "<=", "<=": ">", "<": ">=", ">=": "<",
}  # fmt: skip
_ORDER = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
_TOP_LEVEL = ("content", "blob", "embedding", "sparse_embedding", "score")


def meta_key(field: str) -> str:
    return field.removeprefix("meta.")


def where(filters: dict[str, Any] | None, fields: Fields) -> Any:
    """None: no filter."""
    if not filters:
        return None
    return _translate(filters, fields, False)


def _translate(one: Any, fields: Fields, negate: bool) -> dict[str, Any]:
    if not isinstance(one, dict):
        raise FilterError(f"filters hold {one!r}, expected dicts")
    if "field" in one:
        return _compare(one, fields, negate)
    operator = one.get("operator")
    conditions = one.get("conditions")
    if operator not in ("AND", "OR", "NOT"):
        raise FilterError(f"operator is {operator!r} in {one}, expected AND, OR or NOT")
    if not isinstance(conditions, list) or not conditions:
        raise FilterError(f"conditions are missing in {one}, expected a list")
    if operator == "NOT":
        negate = not negate
    parts = [_translate(part, fields, negate) for part in conditions]
    return {"$or" if (operator == "OR") != negate else "$and": parts}


def _compare(one: dict[str, Any], fields: Fields, negate: bool) -> dict[str, Any]:
    for key in ("operator", "value"):
        if key not in one:
            raise FilterError(f"{key} is missing in {one}")
    field, operator, value = one["field"], one["operator"], one["value"]
    if operator not in _OPPOSITE:
        raise FilterError(f"operator is {operator!r}, expected one of {', '.join(_OPPOSITE)}")
    if field in _TOP_LEVEL:
        raise FilterError(f"field is {field!r}, expected id or a key of meta")
    key = "$id" if field == "id" else meta_key(field)
    declared = "string" if field == "id" else fields.type_of(key)
    if operator in ("in", "not in"):
        if not isinstance(value, list):
            raise FilterError(f"value of {operator!r} is {value!r}, expected a list")
        is_in = (operator == "in") != negate
        return _among(fields, key, declared, value, is_in)
    if operator in ("==", "!="):
        return _among(fields, key, declared, [value], (operator == "==") != negate)
    _check_order(value, declared, one)
    if value is None or declared is None:
        return dict(ALWAYS if negate else NEVER)
    if not negate:
        return fields.term(key, {_ORDER[operator]: value})
    opposite = fields.term(key, {_ORDER[_OPPOSITE[operator]]: value})
    return {"$or": [opposite, fields.term(key, None)]}


def _among(
    fields: Fields, key: str, declared: str | None, values: list[Any], is_in: bool
) -> dict[str, Any]:
    if any(isinstance(one, (list, dict)) for one in values):
        raise FilterError(f"a value of {key!r} is a list or dict, expected text, numbers or bools")
    with_null = None in values
    given = [one for one in values if one is not None and _fits(one, declared)]
    if is_in:
        parts = [fields.term(key, {"$in": given})] if given else []
        parts += [fields.term(key, None)] if with_null else []
        return {"$or": parts} if parts else dict(NEVER)
    if with_null:
        return fields.term(key, {"$nin": given} if given else {"$ne": None})
    if not given:
        return dict(ALWAYS)
    return {"$or": [fields.term(key, {"$nin": given}), fields.term(key, None)]}


def _fits(value: Any, declared: str | None) -> bool:
    if isinstance(value, bool):
        return declared == "bool"
    if isinstance(value, (int, float)):
        return declared in ("int", "float")
    return declared == "string"


def _check_order(value: Any, declared: str | None, one: dict[str, Any]) -> None:
    if isinstance(value, str):
        try:
            datetime.datetime.fromisoformat(value)
        except ValueError:
            raise FilterError(f"{one} orders text that is no ISO date") from None
    elif value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise FilterError(f"{one} orders {value!r}, expected a number or an ISO date")
    if value is not None and declared is not None and not _fits(value, declared):
        raise FilterError(f"{one} orders {value!r}, but the key holds values of type {declared}")
