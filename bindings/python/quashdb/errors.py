"""Exceptions: one class per status of quashdb.h, all of them QuashError."""

from __future__ import annotations

import enum

from quashdb._ffi import lib


class Status(enum.IntEnum):
    """quash_status"""

    OK = 0
    INVALID = 1
    NOT_FOUND = 2
    EXISTS = 3
    BUSY = 4
    READONLY = 5
    CORRUPT = 6
    IO = 7
    FULL = 8
    NOMEM = 9
    LIMIT = 10
    MISUSE = 11
    CANCELLED = 12
    VERSION = 13
    SYNTAX = 14
    TYPE = 15
    INTERNAL = 16
    UNSUPPORTED = 17


class QuashError(Exception):
    """Any error of QuashDB; str() is the library's message.

    status: the library's status code.
    offset: byte offset in the filter text where it is wrong, else None.
    rows_written: rows that add() or upsert() had stored in earlier parts of an
        input too large for one batch; 0 for every other call.
    """

    status: Status = Status.INTERNAL

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.rows_written = 0

    def __str__(self) -> str:  # KeyError would show the repr
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.message, self.offset), {"rows_written": self.rows_written})


class InvalidError(QuashError, ValueError):
    """An argument is wrong: NaN, a wrong dimension, an id twice in one batch."""

    status = Status.INVALID


class NotFoundError(QuashError, KeyError):
    """There is no such database, collection, id or field."""

    status = Status.NOT_FOUND


class ExistsError(QuashError, ValueError):
    """The collection, id or target directory is there already."""

    status = Status.EXISTS


class BusyError(QuashError, OSError):
    """Another process holds the database."""

    status = Status.BUSY


class ReadOnlyError(QuashError, OSError):
    """A write on a read-only or follower handle."""

    status = Status.READONLY


class CorruptError(QuashError, OSError):
    """Stored data is damaged, missing or foreign.

    report: what Database.verify() found, else None.
    """

    status = Status.CORRUPT
    report: dict[str, object] | None = None


class StorageError(QuashError, OSError):
    """The operating system refused a read or a write; after a failed write the
    database refuses writes until it is opened again."""

    status = Status.IO


class FullError(QuashError, OSError):
    """Too little free disk space to write safely."""

    status = Status.FULL


class OutOfMemoryError(QuashError, MemoryError):
    """An allocation failed."""

    status = Status.NOMEM


class LimitError(QuashError, ValueError):
    """Beyond a limit of quashdb.h (dimension, k, batch size, text length)."""

    status = Status.LIMIT


class MisuseError(QuashError, RuntimeError):
    """A closed handle, or one inherited by a forked child."""

    status = Status.MISUSE


class CancelledError(QuashError):
    """The progress callback returned False."""

    status = Status.CANCELLED


class VersionError(QuashError, OSError):
    """The database was written by a newer format; it is untouched."""

    status = Status.VERSION


class FilterSyntaxError(QuashError, ValueError):
    """The filter text cannot be parsed; see offset."""

    status = Status.SYNTAX


class FieldTypeError(QuashError, TypeError):
    """A metadata value or a filter literal does not fit its field's type."""

    status = Status.TYPE


class InternalError(QuashError, RuntimeError):
    """A defect in QuashDB."""

    status = Status.INTERNAL


class UnsupportedError(QuashError, NotImplementedError):
    """This build or this machine cannot do that: no GPU."""

    status = Status.UNSUPPORTED


_CLASSES: dict[int, type[QuashError]] = {
    error.status: error
    for error in (
        InvalidError,
        NotFoundError,
        ExistsError,
        BusyError,
        ReadOnlyError,
        CorruptError,
        StorageError,
        FullError,
        OutOfMemoryError,
        LimitError,
        MisuseError,
        CancelledError,
        VersionError,
        FilterSyntaxError,
        FieldTypeError,
        InternalError,
        UnsupportedError,
    )
}


def last_error(status: int) -> QuashError:
    """The exception for this thread's last failed call."""
    message = lib.quash_errmsg().decode("utf-8", "replace")
    offset = lib.quash_error_offset()
    return _CLASSES.get(status, InternalError)(message, None if offset < 0 else offset)


def check(status: int) -> None:
    """Raises what a status other than QUASH_OK stands for."""
    if status != 0:
        raise last_error(status)
