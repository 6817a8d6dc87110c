"""Python and NumPy values to what the C calls read, checked.

ctypes truncates integers and strings silently, so every range and every NUL
is checked here; what needs the data itself (NaN, duplicate ids, UTF-8 of
fields, limits) is left to the library.
"""

from __future__ import annotations

import ctypes
import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quashdb import _ffi
from quashdb._types import Id, Ids
from quashdb.errors import InvalidError, LimitError

_FLOAT32 = np.dtype(np.float32)
_INCLUDES = {
    "metadatas": _ffi.INCLUDE_METADATA,
    "documents": _ffi.INCLUDE_DOCUMENTS,
    "vectors": _ffi.INCLUDE_VECTORS,
}
_PYTHON_FIELD_TYPES: list[tuple[object, str]] = [
    (bool, "bool"),
    (int, "int"),
    (float, "float"),
    (str, "string"),
    (list[int], "int[]"),
    (list[str], "string[]"),
]


def text(value: object, what: str) -> bytes:
    """A str as UTF-8 without NUL."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a {type(value).__name__}, expected str")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"{what} is not valid Unicode: {error}") from error
    if b"\0" in encoded:
        raise InvalidError(f"{what} holds a NUL character")
    return encoded


def path(value: str | os.PathLike[str], what: str = "path") -> bytes:
    """A file system path."""
    encoded = os.fsencode(value)
    if b"\0" in encoded:
        raise InvalidError(f"{what} holds a NUL character")
    return encoded


def uint(value: object, what: str, largest: int, smallest: int = 0) -> int:
    """An integer from smallest to largest."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} is a {type(value).__name__}, expected an integer") from None
    if number < smallest:
        raise InvalidError(f"{what} is {number}, expected {smallest} to {largest}")
    if number > largest:
        raise LimitError(f"{what} is {number}, expected {smallest} to {largest}")
    return number


def choice(value: object, what: str, choices: Mapping[str, int]) -> int:
    """The code of one of the names of an enumeration."""
    if isinstance(value, str) and value in choices:
        return choices[value]
    raise InvalidError(f"{what} is {value!r}, expected one of {', '.join(choices)}")


def field_type(value: object, name: str) -> int:
    """The code of a field type, by its name or as a Python type."""
    for python_type, type_name in _PYTHON_FIELD_TYPES:
        if value == python_type:
            return _ffi.FIELD_TYPES[type_name]
    return choice(value, f"type of field {name!r}", _ffi.FIELD_TYPES)


def fields(declared: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """{name: type} of metadata fields, checked to be a mapping."""
    if declared is None:
        return {}
    if not isinstance(declared, Mapping):
        raise TypeError(f"fields is a {type(declared).__name__}, expected a dict of name and type")
    return declared


def include_flags(include: str | Iterable[str] | None) -> int:
    """QUASH_INCLUDE_ flags of "metadatas", "documents" and "vectors"."""
    if include is None:
        return 0
    names = [include] if isinstance(include, str) else include
    if not isinstance(names, Iterable):
        raise TypeError(f"include is {include!r}, expected names of {', '.join(_INCLUDES)}")
    flags = 0
    for name in names:
        flags |= choice(name, "include", _INCLUDES)
    return flags


def array_like(values: object, what: str) -> npt.NDArray[Any]:
    """numpy.asarray with a message that names the argument, and for iterators and arrays
    of objects, as a data frame's column of vectors is, too."""
    try:
        array = np.asarray(values)
        if array.dtype.kind != "O":
            return array
        if array.ndim > 0:
            return np.asarray(array.tolist())
        is_list = isinstance(values, Iterable) and not isinstance(values, (Mapping, np.ndarray))
        return np.asarray(list(values)) if is_list else array  # type: ignore[call-overload]
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidError(f"{what} is no array of numbers: {error}") from error


def _held(array: npt.NDArray[Any]) -> str:
    """What an array holds that should be numbers, for messages."""
    if array.dtype.kind != "O":
        return f"has dtype {array.dtype}"
    odd = next((value for value in array.ravel() if not isinstance(value, (int, float))), None)
    return f"holds a {type(odd).__name__}"


def matrix(values: object, dim: int, what: str) -> npt.NDArray[Any]:
    """[n, dim] of a real type, not yet float32; one vector becomes [1, dim]."""
    array = array_like(values, what)
    if array.dtype.kind not in "fiu":
        if array.size == 0 and array.dtype.kind == "O":
            array = array.astype(np.float32)
        else:
            raise TypeError(f"{what} {_held(array)}, expected floats or integers")
    if array.shape == (0,):
        return np.empty((0, dim), np.float32)
    if array.ndim == 1:
        array = array[np.newaxis, :]
    if array.ndim != 2 or array.shape[1] != dim:
        raise InvalidError(f"{what} has shape {array.shape}, expected [n, {dim}] or [{dim}]")
    return array


def float32(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The array itself if float32, C-contiguous and aligned, else a copy.

    What exceeds float32 becomes infinite, and the library says where.
    """
    if array.dtype == _FLOAT32 and array.flags.c_contiguous and array.flags.aligned:
        return array
    with np.errstate(over="ignore"):
        return np.require(array, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def address(array: npt.NDArray[Any]) -> int:
    """Address of the first element; the caller keeps the array alive."""
    if array.flags.writeable and array.size:  # several times as fast as what follows
        buffer: Any = array  # which it is to type checkers from Python 3.12 on
        try:
            return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        except (TypeError, ValueError):  # not contiguous
            pass
    data: int = array.__array_interface__["data"][0]
    return data


def strings(values: Sequence[bytes | None]) -> ctypes.Array[ctypes.c_char_p]:
    """A char*[]; None becomes NULL."""
    return (ctypes.c_char_p * len(values))(*values)


def is_one_id(ids: object) -> bool:
    """Whether the argument is an id and not a list of them."""
    return isinstance(ids, (str, bytes, int, np.integer)) or (
        isinstance(ids, np.ndarray) and ids.ndim == 0
    )


def int_ids(ids: object) -> npt.NDArray[np.int64]:
    """int64 [n] of an id or of a sequence of ids."""
    array = array_like(ids, "ids")
    if array.ndim == 0:
        array = array[np.newaxis]
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int64)
    if array.ndim != 1:
        raise InvalidError(f"ids has shape {array.shape}, expected one dimension")
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidError(f"id {array.max()} is greater than {np.iinfo(np.int64).max}")
    if array.dtype.kind not in "iu":
        given = ids if isinstance(ids, Sequence) else array.tolist()
        large = [value for value in given if isinstance(value, int) and abs(value) >> 63]
        if large and all(isinstance(value, int) for value in given):
            raise InvalidError(f"id {large[0]} does not fit 64 bits")
        raise TypeError(f"ids {_held(array)}, expected integers: the collection's id type is int64")
    return np.ascontiguousarray(array, np.int64)


def string_ids(ids: object) -> list[bytes]:
    """UTF-8 ids of one str or of a sequence of them."""
    if isinstance(ids, str):
        return [text(ids, "id")]
    if isinstance(ids, np.ndarray):
        if ids.ndim > 1:
            raise InvalidError(f"ids has shape {ids.shape}, expected one dimension")
        ids = ids.reshape(-1).tolist()
    if isinstance(ids, (int, bytes, np.integer)) or not isinstance(ids, Iterable):
        raise TypeError(
            f"ids is a {type(ids).__name__}, expected str or a sequence of str: the "
            "collection's id type is string"
        )
    return [text(value, f"id {row}") for row, value in enumerate(ids)]


class IdList:
    """A quash_ids and the memory it points to."""

    def __init__(self, ids: Id | Ids, id_type: str) -> None:
        self.struct = _ffi.Ids()
        if id_type == "int64":
            self._ints = int_ids(ids)
            self.struct.n = len(self._ints)
            self.struct.int_ids = address(self._ints)
        else:
            encoded = string_ids(ids)
            self._strings = strings(encoded)
            self.struct.n = len(encoded)
            self.struct.string_ids = self._strings

    def __len__(self) -> int:
        return int(self.struct.n)


def _json_value(value: object) -> object:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError(f"a value of type {type(value).__name__}")


_encode_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_value
).encode


def metadata(row: int, values: Mapping[str, object] | None) -> bytes | None:
    """The JSON text of one row's metadata; None if it has none."""
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise TypeError(f"metadata of row {row} is a {type(values).__name__}, expected a dict")
    if not values:
        return None
    try:
        return _encode_json(values if isinstance(values, dict) else dict(values)).encode()
    except (TypeError, ValueError, RecursionError):
        pass
    for key, value in values.items():  # which one it was
        try:
            _encode_json({key: value}).encode()
        except TypeError as error:
            raise TypeError(
                f"metadata of row {row}: field {key!r} holds {error}, expected bool, int, float, "
                "str, a list of int or str, or None"
            ) from error
        except (ValueError, RecursionError) as error:
            reason: object = error
            if isinstance(value, (float, np.floating)):
                reason = f"{value}, expected a finite number, or None for no value"
            raise InvalidError(f"metadata of row {row}: field {key!r} is {reason}") from error
    raise InvalidError(f"metadata of row {row} cannot be written as JSON")


def document(row: int, value: object) -> bytes | None:
    """The UTF-8 text of one row's document; None if it has none."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"document of row {row} is a {type(value).__name__}, expected str or None")
    return None if value is None else text(value, f"document of row {row}")
