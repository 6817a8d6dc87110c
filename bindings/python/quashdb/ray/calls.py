"""Calls of shards that may die meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
import ray.exceptions

from quashdb.errors import BusyError, InvalidError, QuashError, StorageError

LOST = (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError)
_GONE = (ray.exceptions.RaySystemError, ConnectionError)

Part = tuple[Any, ...]
"""A method of a shard and its arguments."""


class Shards:
    """The actors of one state of a collection, and calls that fan out over them. Its
    handles work in every process of the cluster. Any number of threads may use one.

    timeout_s: how long a call waits for a shard that is being started again.
    """

    def __init__(self, actors: list[Any], timeout_s: float) -> None:
        self.actors = actors
        self.replicas: list[list[Any]] = [[] for _ in actors]
        self.timeout_s = timeout_s
        self.retired = False
        """Other shards have taken over."""
        self._turn = itertools.count()

    def __len__(self) -> int:
        return len(self.actors)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_turn": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._turn = itertools.count()

    def _await_restart(self, shard: int, deadline: float, error: Exception) -> None:
        while True:
            try:
                result(self.actors[shard].started.remote())
                return
            except LOST:
                if self.retired:
                    raise BusyError("the collection has been resharded; try again") from error
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"shard {shard} did not come back within {self.timeout_s} s: {error}"
                    ) from error
                time.sleep(0.05)

    def await_start(self, shard: int, actor: Any, resources: dict[str, float]) -> None:
        """The first call of an actor, which no node may be able to take."""
        asked = actor.started.remote()
        ready, _ = ray.wait([asked], timeout=self.timeout_s)
        if not ready:
            offered: Any = ray.cluster_resources()
            raise StorageError(
                f"shard {shard} was not started within {self.timeout_s} s: it needs a node with "
                f"{resources or 'nothing special'}, the cluster has {offered}"
            )
        result(asked)

    def ask(self, shard: int, method: str, *arguments: Any) -> Any:
        """A call that may be repeated."""
        return self.finish(shard, self.start(shard, method, *arguments), method, *arguments)

    def start(self, shard: int, method: str, *arguments: Any) -> Any:
        return getattr(self.actors[shard], method).remote(*arguments)

    def finish(self, shard: int, asked: Any, method: str, *arguments: Any) -> Any:
        """What start() of the same call returns in the end."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                return result(asked)
            except LOST as error:
                self._await_restart(shard, deadline, error)
                asked = self.start(shard, method, *arguments)

    def ask_all(self, method: str, arguments: Callable[[int], Sequence[Any]]) -> list[Any]:
        """ask() of every shard at once, each with its own arguments."""
        asked = [self.start(shard, method, *arguments(shard)) for shard in range(len(self))]
        return [
            self.finish(shard, one, method, *arguments(shard)) for shard, one in enumerate(asked)
        ]

    def read_all(self, age_s: float, spread: bool, method: str, *arguments: Any) -> list[Any]:
        """The answer of every shard, of a replica where the shard is gone.

        spread: replicas take their turns as well, from a state at most `age_s` old.
        """
        turn = next(self._turn)
        orders = []
        for actor, replicas in zip(self.actors, self.replicas, strict=True):
            order = [actor, *replicas]
            first = turn % len(order) if spread else 0
            orders.append(order[first:] + order[:first])
        asked = [getattr(order[0], method).remote(age_s, *arguments) for order in orders]
        with contextlib.suppress(*LOST):
            answers: list[Any] = result(asked)
            return answers
        return [
            self._answer(shard, one, orders[shard][1:], method, (age_s, *arguments))
            for shard, one in enumerate(asked)
        ]

    def _answer(
        self, shard: int, asked: Any, others: list[Any], method: str, arguments: Sequence[Any]
    ) -> Any:
        try:
            return result(asked)
        except LOST:
            for other in others:
                with contextlib.suppress(*LOST):
                    return result(getattr(other, method).remote(*arguments))
            return self.ask(shard, method, *arguments)

    def write_all(
        self, parts: dict[int, Part], done: Callable[[int], Any] | None = None
    ) -> list[Any]:
        """Writes to some shards at once, again where one died. An error of one leaves
        the others' writes as they are.

        done: after a death, what the call would have returned if it was committed, else
            None.
        """
        asked = {shard: self.start(shard, *part) for shard, part in parts.items()}
        answers: list[Any] = []
        failed: Exception | None = None
        for shard, one in asked.items():
            deadline = time.monotonic() + self.timeout_s
            while True:
                try:
                    answers.append(result(one))
                    break
                except LOST as error:
                    try:
                        self._await_restart(shard, deadline, error)
                        answer = None if done is None else done(shard)
                    except QuashError as lost:
                        failed = failed or lost
                        break
                    if answer is not None:
                        answers.append(answer)
                        break
                    one = self.start(shard, *parts[shard])
                except Exception as error:  # the others' writes go on
                    failed = failed or error
                    break
        if failed is not None:
            raise failed
        return answers

    def kill(self) -> None:
        for actor in [*self.actors, *(one for some in self.replicas for one in some)]:
            with contextlib.suppress(Exception):
                ray.kill(actor)


def check_connected() -> None:
    if not ray.is_initialized():
        raise InvalidError("Ray is not connected: call quashdb.ray.connect() or ray.init() first")


def result(asked: Any) -> Any:
    """ray.get() of one call or a list, with the errors of quashdb as they were raised."""
    try:
        return ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None
    except _GONE as error:
        raise StorageError(f"the Ray cluster does not answer: {error}") from error


def _cause(error: ray.exceptions.RayTaskError) -> BaseException:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
