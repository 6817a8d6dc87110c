"""Filters given as a dict, in the manner of Chroma, to the library's text.

    {"lang": "en", "year": {"$gte": 2020}}           lang = 'en' AND year >= 2020
    {"$or": [{"lang": "en"}, {"note": None}]}        lang = 'en' OR note IS NULL
    {"tags": {"$contains": "c++"}}                   tags CONTAINS 'c++'

Values are quoted here, so a dict is also the safe way to filter by what a
user typed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from quashdb import _convert
from quashdb._types import Where
from quashdb.errors import InvalidError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_COMPARISONS = {"$eq": "=", "$ne": "!=", "$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">="}
_LISTS = {
    "$in": "IN",
    "$nin": "NOT IN",
    "$contains_any": "CONTAINS ANY",
    "$contains_all": "CONTAINS ALL",
}
_OPERATORS = (*_COMPARISONS, *_LISTS, "$contains", "$like", "$not_like", "$between")


def filter_text(where: Where | None) -> bytes | None:
    """The filter as UTF-8 text; None for no filter (None or an empty dict)."""
    if where is None:
        return None
    if isinstance(where, str):
        return _convert.text(where, "where")
    if not isinstance(where, Mapping):
        raise TypeError(f"where is a {type(where).__name__}, expected str or dict")
    if not where:
        return None
    return _convert.text(_all_of(where), "where")


def _all_of(where: Mapping[str, Any]) -> str:
    if not isinstance(where, Mapping) or not where:
        raise InvalidError(f"where holds {where!r}, expected a dict with at least one field")
    return " AND ".join(_term(key, value) for key, value in where.items())


def _term(key: str, value: Any) -> str:
    if key in ("$and", "$or"):
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            raise InvalidError(f"{key} holds {value!r}, expected a list of dicts")
        parts = [f"({_all_of(part)})" for part in value]
        if not parts:
            raise InvalidError(f"{key} is empty, expected at least one dict")
        return "(" + f" {key[1:].upper()} ".join(parts) + ")"
    if key == "$not":
        return f"NOT ({_all_of(value)})"
    if not isinstance(key, str) or not _NAME.match(key):
        raise InvalidError(f"where has the key {key!r}, expected a field, $and, $or or $not")
    if not isinstance(value, Mapping):
        return _compare(key, "$eq", value)
    if not value:
        raise InvalidError(f"where has no operator for field {key!r}")
    return " AND ".join(_compare(key, operator, operand) for operator, operand in value.items())


def _compare(field: str, operator: str, value: Any) -> str:
    if operator in ("$eq", "$ne") and value is None:
        return f"{field} IS NULL" if operator == "$eq" else f"{field} IS NOT NULL"
    if operator in _COMPARISONS:
        return f"{field} {_COMPARISONS[operator]} {_literal(field, value)}"
    if operator in _LISTS:
        literals = _literals(field, operator, value)
        if not literals:  # the grammar has no empty list
            return "FALSE" if operator in ("$in", "$contains_any") else "TRUE"
        return f"{field} {_LISTS[operator]} ({', '.join(literals)})"
    if operator == "$contains":
        return f"{field} CONTAINS {_literal(field, value)}"
    if operator in ("$like", "$not_like"):
        return f"{field} {operator[1:].replace('_', ' ').upper()} {_literal(field, value)}"
    if operator == "$between":
        ends = _literals(field, operator, value)
        if len(ends) != 2:
            raise InvalidError(f"$between of field {field!r} has {len(ends)} values, expected 2")
        return f"{field} BETWEEN {ends[0]} AND {ends[1]}"
    raise InvalidError(
        f"where has the operator {operator!r} for field {field!r}, expected one "
        f"of {', '.join(_OPERATORS)}"
    )


def _literals(field: str, operator: str, values: Any) -> list[str]:
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise InvalidError(f"{operator} of field {field!r} holds {values!r}, expected a list")
    return [_literal(field, value) for value in values]


def _literal(field: str, value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidError(
                f"where compares field {field!r} with {value}, expected a finite number"
            )
        # Positional, with a point: the grammar's decimals.
        return np.format_float_positional(value, trim="0")
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise InvalidError(
        f"where compares field {field!r} with {value!r}, expected a bool, int, float or str"
    )
