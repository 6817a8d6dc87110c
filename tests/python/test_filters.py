"""Filters as dicts: their text, and their meaning against a model in Python."""

import numpy as np
import pytest
from conftest import DIM, random_vectors
from hypothesis import given, settings
from hypothesis import strategies as st

import quashdb
from quashdb._filters import filter_text


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (None, None),
        ({}, None),
        ("a = 1", "a = 1"),
        ({"a": 1}, "a = 1"),
        ({"a": 1, "b": True}, "a = 1 AND b = TRUE"),
        ({"a": "it's"}, "a = 'it''s'"),
        ({"a": None}, "a IS NULL"),
        ({"a": {"$ne": None}}, "a IS NOT NULL"),
        ({"a": {"$gte": 1, "$lt": 2.5}}, "a >= 1 AND a < 2.5"),
        ({"a": np.float64(1e-7)}, "a = 0.0000001"),
        ({"a": 1e20}, "a = 100000000000000000000.0"),
        ({"a": np.int32(-3)}, "a = -3"),
        ({"a": {"$in": ["x", "y"]}}, "a IN ('x', 'y')"),
        ({"a": {"$nin": (1, 2)}}, "a NOT IN (1, 2)"),
        ({"a": {"$in": []}}, "FALSE"),
        ({"a": {"$nin": []}}, "TRUE"),
        ({"a": {"$between": [1, 2]}}, "a BETWEEN 1 AND 2"),
        ({"a": {"$like": "lib%"}}, "a LIKE 'lib%'"),
        ({"a": {"$not_like": "lib%"}}, "a NOT LIKE 'lib%'"),
        ({"a": {"$contains": "x"}}, "a CONTAINS 'x'"),
        ({"a": {"$contains_any": [1]}}, "a CONTAINS ANY (1)"),
        ({"a": {"$contains_all": [1, 2]}}, "a CONTAINS ALL (1, 2)"),
        ({"$or": [{"a": 1}, {"b": 2, "c": 3}]}, "((a = 1) OR (b = 2 AND c = 3))"),
        ({"$not": {"a": 1}}, "NOT (a = 1)"),
    ],
)
def test_text(where, text):
    assert filter_text(where) == (None if text is None else text.encode())


@pytest.mark.parametrize(
    "where",
    [
        {"a": {}},
        {"a": {"$gt": [1]}},
        {"a": {"$foo": 1}},
        {"a": {"$in": "text"}},
        {"a": {"$in": 3}},
        {"a": {"$between": [1]}},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": [1]},
        {"a": b"x"},
        {"a": "x\0"},
        {"a = 1 OR b": 1},
        {"": 1},
        {3: 1},
        {"$or": []},
        {"$or": {"a": 1}},
        {"$and": [{}]},
        {"$and": [3]},
        {"$not": None},
        {"$gt": 3},
    ],
)
def test_refuses(where):
    with pytest.raises(quashdb.InvalidError):
        filter_text(where)


# SQL's three-valued logic over rows of one nullable field of each kind.
ROWS = [
    {"i": i, "f": f, "s": s, "b": b, "t": t}
    for i, f, s, b, t in [
        (1, 0.5, "abc", True, ["x"]),
        (2, -1.25, "it's", False, ["x", "y"]),
        (-5, 1e-7, "", None, []),
        (None, None, None, True, None),
        (2**62, 1e20, "ABC", False, ["", "ü"]),
        (0, 0.0, "ü%_", None, ["y"]),
    ]
]
NUMBERS = st.sampled_from([-5, 0, 1, 2, 3, 2**62, 0.5, -1.25, 1e-7, 1e20])
TEXTS = st.sampled_from(["abc", "it's", "", "ABC", "ü%_", "b", "x", "y", "ü"])
OPERATORS = {
    "$eq": lambda a, b: a == b,
    "$ne": lambda a, b: a != b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
}


def leaves():
    numbers = st.tuples(st.sampled_from("if"), st.sampled_from(list(OPERATORS)), NUMBERS)
    texts = st.tuples(st.just("s"), st.sampled_from(["$eq", "$ne", "$lt", "$gte"]), TEXTS)
    compared = st.one_of(numbers, texts).map(lambda leaf: {leaf[0]: {leaf[1]: leaf[2]}})
    return st.one_of(
        compared,
        st.sampled_from("ifsbt").map(lambda field: {field: None}),
        st.sampled_from("ifsbt").map(lambda field: {field: {"$ne": None}}),
        st.booleans().map(lambda value: {"b": value}),
        st.lists(TEXTS, max_size=3).map(lambda values: {"s": {"$in": values}}),
        TEXTS.map(lambda value: {"t": {"$contains": value}}),
        st.lists(TEXTS, min_size=1, max_size=3).map(lambda v: {"t": {"$contains_any": v}}),
        st.lists(TEXTS, min_size=1, max_size=3).map(lambda v: {"t": {"$contains_all": v}}),
    )


FILTERS = st.recursive(
    leaves(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=8,
)


def matches(where, row):
    """True, False or None for unknown."""
    ((key, value),) = where.items()
    if key == "$not":
        inner = matches(value, row)
        return None if inner is None else not inner
    if key in ("$and", "$or"):
        parts = [matches(part, row) for part in value]
        decisive = key == "$or"
        if decisive in parts:
            return decisive
        return None if None in parts else not decisive
    stored = row[key]
    if value is None:
        return stored is None
    if not isinstance(value, dict):
        return None if stored is None else stored == value
    ((operator, operand),) = value.items()
    if operand is None:
        return stored is not None
    if operator == "$in" and not operand:
        return False
    if stored is None:
        return None
    if operator in OPERATORS:
        if isinstance(stored, str):  # bytes order, as the library
            stored, operand = stored.encode(), operand.encode()
        return OPERATORS[operator](stored, operand)
    if operator == "$in":
        return stored in operand
    if operator == "$contains":
        return operand in stored
    some = all if operator == "$contains_all" else any
    return some(value in stored for value in operand)


@pytest.fixture(scope="module")
def rows():
    with quashdb.open() as db:
        fields = {"i": int, "f": float, "s": str, "b": bool, "t": list[str]}
        collection = db.create_collection("a", DIM, fields=fields)
        collection.add(range(len(ROWS)), random_vectors(len(ROWS)), ROWS)
        yield collection


@settings(max_examples=300)
@given(FILTERS)
def test_meaning(rows, where):
    expected = [row for row, values in enumerate(ROWS) if matches(where, values) is True]
    assert rows.get(where=where).ids.tolist() == expected
    assert rows.count(where) == len(expected)
    assert sorted(rows.query(random_vectors(1), 10, where)[0].ids.tolist()) == expected


@given(st.text().map(lambda text: text.replace("\0", "")))
def test_any_text_is_only_a_value(rows, text):
    assert rows.count({"s": text}) == sum(row["s"] == text for row in ROWS)
    assert rows.count({"$not": {"s": text}}) == sum(row["s"] not in (text, None) for row in ROWS)


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
def test_any_filter_text_gives_an_answer_or_an_error(rows, text):
    try:
        assert 0 <= rows.count(text) <= len(ROWS)
    except quashdb.QuashError as error:
        assert str(error)
        assert error.status not in (quashdb.Status.INTERNAL, quashdb.Status.CORRUPT)
