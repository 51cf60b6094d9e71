"""A participant (`tests.several`) in a process of its own, which is killed at any time and begun anew."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from objectcache.cache import KVCache
from objectcache.keys import KeyChain, Namespace
from objectcache.stores import Store, open_store
from tests.several import Participant, World, prompts_of

_SPAWN = multiprocessing.get_context("spawn")
PATIENCE_S = 120.0


@dataclass
class _World:
    """What the child knows of the others. Counts go to the parent with each answer."""

    behind: Store
    namespace: Namespace
    prompts: Sequence[KeyChain]
    counts: Counter[str] = field(default_factory=Counter)

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number


def _serve(
    pipe: Connection, name: str, open_cache: Callable[[], KVCache], behind_url: str, namespace: bytes, seed: str
) -> None:
    known = Namespace.from_json(namespace)
    world = _World(open_store(behind_url), known, prompts_of(known))
    participant = Participant(name, open_cache, world, seed)
    with suppress(EOFError):  # the parent is gone
        while True:
            method = pipe.recv()
            result: object
            try:
                result = getattr(participant, method)()
            except Exception as error:  # noqa: BLE001 - it is the parent's
                result = error
            pipe.send((result, dict(world.counts)))
            world.counts.clear()
            if method == "close":
                return


class ChildParticipant:
    """As a `Participant`; `open_cache` is called in the child, and must be picklable."""

    def __init__(self, name: str, open_cache: Callable[[], KVCache], several: World, seed: int) -> None:
        self.name = name
        self._open_cache = open_cache
        self._several = several
        self._seed = seed
        self._lives = 0
        self._begin()

    def _begin(self) -> None:
        self._pipe, theirs = _SPAWN.Pipe()
        self._lives += 1
        fields = (self._several.behind.url, self._several.namespace.to_json(), f"{self._seed} {self._lives}")
        self._process: BaseProcess = _SPAWN.Process(
            target=_serve, args=(theirs, self.name, self._open_cache, *fields), daemon=True
        )
        self._process.start()
        theirs.close()

    def _ask(self, method: str) -> Any:
        try:
            self._pipe.send(method)
            assert self._pipe.poll(PATIENCE_S), f"{self.name} does not answer {method}"
            result, counts = self._pipe.recv()
        except (EOFError, OSError):  # it was killed
            self._end()
            self._begin()
            return self._ask(method)
        for what, number in counts.items():
            self._several.count(what, number)
        if isinstance(result, Exception):
            raise result
        return result

    def _end(self) -> None:
        self._process.join()
        self._pipe.close()

    def act(self) -> None:
        self._ask("act")

    def matched(self) -> list[int]:
        found: list[int] = self._ask("matched")
        return found

    def all_there(self) -> bool:
        found: bool = self._ask("all_there")
        return found

    def kill(self) -> None:
        """From any thread. Whoever asks it next begins it anew."""
        pid = self._process.pid
        if pid is not None and self._process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self._ask("close")
        self._end()
