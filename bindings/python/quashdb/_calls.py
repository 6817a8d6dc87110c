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
from collections import deque
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

# Those whose handlers tend to raise. Python runs handlers at the entry of a callback, where
# what they raise is lost, so during a call they are put off: see _put_off().
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
_handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
_arrived: deque[tuple[int, FrameType | None]] = deque()


def _put_off(number: int, frame: FrameType | None) -> None:
    """The handler of each of _SIGNALS during a call on the main thread."""
    _arrived.append((number, frame))


def _handle_signals() -> None:
    """Runs the handlers of the signals put off so far, and raises what they raise."""
    while _arrived:
        number, frame = _arrived.popleft()
        _handlers[number](number, frame)


def _on_progress(_user_data: int | None, done: int, total: int) -> int:
    try:
        nested, _thread.in_callback = _thread.in_callback, True
        try:
            if _arrived and threading.current_thread() is threading.main_thread():
                _handle_signals()
            return int(_thread.progress is not None and _thread.progress(done, total) is False)
        finally:
            _thread.in_callback = nested
    except BaseException as error:
        _thread.error = error
        return 1


on_progress = _ffi.ProgressFn(_on_progress)


def call(progress: Progress | None, function: Callable[..., int], *arguments: object) -> int:
    """The status of a call that reports progress. What the callback or the handler of a
    signal raises, as that of Ctrl-C does, cancels the call and is raised here."""
    held: list[signal.Signals] = []
    before = _thread.progress
    _thread.progress, _thread.error = progress, None
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler) and handler is not _put_off:
                    _handlers[number] = handler
                    held.append(number)
                    signal.signal(number, _put_off)
        status = function(*arguments)
    finally:
        for number in held:
            if signal.getsignal(number) is _put_off:  # no handler has set another
                signal.signal(number, _handlers[number])
        _thread.progress = before
        error, _thread.error = _thread.error, None
    if held:
        _handle_signals()
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


_NO_PICKLE = (
    "what belongs to an open database cannot be pickled or copied: open the database where it "
    "is to be used, and take to_dict() of results along"
)


class DatabaseHandle:
    """A quash_db. close() waits until no thread is in a call with it, since
    quash_close() frees it."""

    def __init__(self, pointer: int) -> None:
        self._pointer: int | None = pointer
        self._pid = os.getpid()
        self._idle = threading.Condition()
        self._users: list[int] = []  # the thread of each call

    def __reduce__(self) -> str:
        raise TypeError(_NO_PICKLE)

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
            self._users.append(threading.get_ident())
            pointer = self._pointer
        try:
            yield pointer
        finally:
            with self._idle:
                self._users.remove(threading.get_ident())
                if not self._users:
                    self._idle.notify_all()

    def close(self) -> None:
        """Closes once. In a forked child: forgets the handle."""
        if os.getpid() != self._pid:
            self._pointer = None
            return
        if _thread.in_callback:
            raise MisuseError("close() inside a progress callback")
        if threading.get_ident() in self._users:  # in the handler of a signal
            raise MisuseError("close() inside another call on the same thread")
        with self._idle:
            pointer, self._pointer = self._pointer, None
            if pointer is None:
                return
            self._idle.wait_for(lambda: not self._users)
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

    def __reduce__(self) -> str:
        raise TypeError(_NO_PICKLE)

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
