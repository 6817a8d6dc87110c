"""Handles and calls: lifetimes, closing, progress, and text outputs.

A handle inherited by a forked child is never touched there, not even to free
it: its locks and threads stayed in the parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from quashdb import _ffi
from quashdb._ffi import lib
from quashdb._types import Progress
from quashdb.errors import MisuseError, check


class _ThreadState(threading.local):
    progress: Progress | None = None  # of the call in flight on this thread
    error: BaseException | None = None  # raised by it
    in_callback = False


_thread = _ThreadState()
_interrupted = False  # Ctrl-C during a call


def _on_interrupt(_signal: int, _frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True


def _on_progress(_user_data: int | None, done: int, total: int) -> int:
    try:
        if _interrupted and threading.current_thread() is threading.main_thread():
            return 1
        if _thread.progress is None:
            return 0
        nested, _thread.in_callback = _thread.in_callback, True
        try:
            return int(_thread.progress(done, total) is False)
        finally:
            _thread.in_callback = nested
    except BaseException as error:
        _thread.error = error
        return 1


on_progress = _ffi.ProgressFn(_on_progress)


def call(progress: Progress | None, function: Callable[..., int], *arguments: object) -> int:
    """The status of a call that reports progress. What the callback raises
    cancels the call and is raised here, and so does Ctrl-C.

    Python runs signal handlers at the entry of the callback, where an
    exception could not be caught, so meanwhile Ctrl-C sets a flag.
    """
    global _interrupted
    holds_interrupts = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    before, interrupted = _thread.progress, False
    _thread.progress, _thread.error = progress, None
    if holds_interrupts:
        signal.signal(signal.SIGINT, _on_interrupt)
    try:
        status = function(*arguments)
    finally:
        if holds_interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            interrupted, _interrupted = _interrupted, False
        _thread.progress = before
        error, _thread.error = _thread.error, None
    if interrupted:
        raise KeyboardInterrupt
    if error is not None:
        raise error
    return status


def out_json(function: Callable[..., int], *arguments: object) -> Any:
    """JSON text that the function returns through its last argument, parsed."""
    pointer = ctypes.c_void_p()
    check(function(*arguments, ctypes.byref(pointer)))
    return take_json(pointer)


def take_json(pointer: ctypes.c_void_p) -> Any:
    """Parses and frees JSON text of the library."""
    try:
        return json.loads(ctypes.string_at(pointer_of(pointer)))
    finally:
        lib.quash_free(pointer)


def pointer_of(pointer: ctypes.c_void_p) -> int:
    """The address in an out parameter that a successful call has set."""
    if pointer.value is None:
        raise MisuseError("the library returned no handle")
    return pointer.value


class DatabaseHandle:
    """A quash_db. close() waits until no thread is in a call with it, since
    quash_close() frees it."""

    def __init__(self, pointer: int) -> None:
        self._pointer: int | None = pointer
        self._pid = os.getpid()
        self._idle = threading.Condition()
        self._users = 0

    @property
    def is_closed(self) -> bool:
        return self._pointer is None

    @contextmanager
    def use(self) -> Iterator[int]:
        """The quash_db, kept open meanwhile."""
        if os.getpid() != self._pid:  # before the lock: its state is the parent's
            raise MisuseError(
                f"the database was opened by process {self._pid}, and a forked child may not use it"
            )
        with self._idle:
            if self._pointer is None:
                raise MisuseError("the database is closed")
            self._users += 1
            pointer = self._pointer
        try:
            yield pointer
        finally:
            with self._idle:
                self._users -= 1
                if self._users == 0:
                    self._idle.notify_all()

    def close(self) -> None:
        """Closes once. In a forked child: forgets the handle."""
        if os.getpid() != self._pid:
            self._pointer = None
            return
        if _thread.in_callback:
            raise MisuseError("close() inside a progress callback")
        with self._idle:
            pointer, self._pointer = self._pointer, None
            if pointer is None:
                return
            self._idle.wait_for(lambda: self._users == 0)
        check(lib.quash_close(pointer))


class _Pointer:
    """What the function frees with the last reference."""

    def __init__(self, free: Callable[[int], None], pointer: int) -> None:
        self._free = free
        self._pointer = pointer

    def __del__(self) -> None:
        self._free(self._pointer)


class Freed:
    """A handle freed with its last reference; not in a forked child.

    A subclass names the function. Methods that use the handle hold a
    reference to self, so that no call can be in flight when it is freed.
    """

    _function: str

    def __init__(self, pointer: int) -> None:
        self._free: Callable[[int], None] = getattr(lib, self._function)
        self.pointer: int = pointer
        self._pid = os.getpid()

    def __del__(
        self,
        getpid: Callable[[], int] = os.getpid,
        make_pointer: Callable[[Callable[[int], None], int], _Pointer] = _Pointer,
    ) -> None:
        # Of a cycle the garbage collector calls every __del__, in any order, before it
        # clears anything, and those of others may use the handle: it goes as an attribute.
        if getattr(self, "_pid", None) == getpid():
            self._freed = make_pointer(self._free, self.pointer)


class CollectionHandle(Freed):
    """A quash_collection."""

    _function = "quash_collection_free"


class QueryHandle(Freed):
    """A quash_query."""

    _function = "quash_query_free"


class IteratorHandle(Freed):
    """A quash_iterator."""

    _function = "quash_iterator_free"


class ResultHandle(Freed):
    """A quash_result."""

    _function = "quash_result_free"
