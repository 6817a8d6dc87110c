"""Exceptions of quashdb.kv: those of quashdb.errors and two more."""

from __future__ import annotations

from quashdb.errors import (
    CorruptError,
    InternalError,
    InvalidError,
    NotFoundError,
    OutOfMemoryError,
    QuashError,
    Status,
)
from quashdb.kv._ffi import lib


class BudgetError(QuashError, MemoryError):
    """The memory budget of the cache is used up; nothing was stored."""

    status = Status.FULL


class UnsupportedError(QuashError, NotImplementedError):
    """What was asked for is not in this build or not in this format."""

    status = Status.INVALID


# By quash_kv_status.
_CLASSES: dict[int, type[QuashError]] = {
    1: InvalidError,
    2: NotFoundError,
    3: BudgetError,
    4: OutOfMemoryError,
    5: CorruptError,
    6: UnsupportedError,
    7: InternalError,
}


def check(status: int) -> None:
    """Raises what a status other than QUASH_KV_OK stands for, with the message
    of this thread's last failed call."""
    if status != 0:
        message = lib.quash_kv_errmsg().decode("utf-8", "replace")
        raise _CLASSES.get(status, InternalError)(message)


__all__ = [
    "BudgetError",
    "CorruptError",
    "InternalError",
    "InvalidError",
    "NotFoundError",
    "OutOfMemoryError",
    "QuashError",
    "UnsupportedError",
    "check",
]
