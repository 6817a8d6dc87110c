"""Calls of shards that may die meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
import ray.exceptions

from quashdb.errors import QuashError, StorageError

_LOST = (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError)


class Shards:
    """The actors of a collection, and calls that fan out over them."""

    timeout_s = 60.0
    """How long a call waits for a shard that is being started again."""
    replica_age_s = 0.1
    """A replica answers from a state that is at most so old."""

    _shards: list[Any]
    _replicas: list[list[Any]]

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout_s

    def _await_restart(self, shard: int, deadline: float, error: Exception) -> None:
        while True:
            try:
                ray.get(self._shards[shard].ping.remote())
                return
            except _LOST:
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"shard {shard} did not come back within {self.timeout_s} s: {error}"
                    ) from error
                time.sleep(0.05)
            except ray.exceptions.RayTaskError as failed:
                raise _cause(failed) from None

    def _ask(self, shard: int, method: str, *arguments: Any) -> Any:
        """A call that may be repeated."""
        deadline = self._deadline()
        while True:
            try:
                return result(getattr(self._shards[shard], method).remote(*arguments))
            except _LOST as error:
                self._await_restart(shard, deadline, error)

    def _read_all(self, method: str, *arguments: Any) -> list[Any]:
        """The answer of every shard; a replica's where the shard is gone."""
        asked = [
            getattr(actor, method).remote(self.replica_age_s, *arguments) for actor in self._shards
        ]
        return [self._answer(shard, one, method, arguments) for shard, one in enumerate(asked)]

    def _answer(self, shard: int, asked: Any, method: str, arguments: Sequence[Any]) -> Any:
        try:
            return result(asked)
        except _LOST:
            for replica in self._replicas[shard]:
                with contextlib.suppress(*_LOST):
                    return result(getattr(replica, method).remote(self.replica_age_s, *arguments))
            return self._ask(shard, method, self.replica_age_s, *arguments)

    def _write_all(
        self, parts: dict[int, tuple[Any, ...]], done: Callable[[int], Any] | None = None
    ) -> list[Any]:
        """write() or add_table() of some shards at once, again where one died.

        done: after a death, what the call would have returned if it was committed, else
            None.
        """
        asked = {
            shard: getattr(self._shards[shard], method).remote(*arguments)
            for shard, (method, *arguments) in parts.items()
        }
        answers, failed = [], None
        for shard, one in asked.items():
            deadline = self._deadline()
            while True:
                try:
                    answers.append(result(one))
                    break
                except _LOST as error:
                    self._await_restart(shard, deadline, error)
                    answer = None if done is None else done(shard)
                    if answer is not None:
                        answers.append(answer)
                        break
                    method, *arguments = parts[shard]
                    one = getattr(self._shards[shard], method).remote(*arguments)
                except QuashError as error:  # the others' writes go on
                    failed = failed or error
                    break
        if failed is not None:
            raise failed
        return answers


def result(asked: Any) -> Any:
    try:
        return ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        raise _cause(error) from None


def _cause(error: ray.exceptions.RayTaskError) -> BaseException:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
