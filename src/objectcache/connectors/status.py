"""How connectors tell how they are doing: a small JSON file a process, which `objectcache doctor` reads.

Whoever runs engines owns these files; nothing of prompts is in them, and no salt but its digest.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import objectcache
from objectcache.connectors.fingerprint import cache_folder
from objectcache.errors import ObjectCacheError, RequestError
from objectcache.keys import Namespace

logger = logging.getLogger(__name__)

WRITE_EVERY_S = 1.0
"""At most, where something changed."""
ALIVE_EVERY_S = 10.0
"""At least."""
STALE_AFTER_S = 60.0
KEPT_ERRORS = 5
KEPT_NAMESPACES = 8
OUTCOME, DROPPED = "outcome:", "dropped:"
"""What counters of look-ups without a load, and of saves that were not stored, begin with; their reason follows."""
_FORMAT = "objectcache-engine-status-1"
_SUFFIX = ".json"


def default_folder() -> Path:
    """Where engines of this user write unless told otherwise."""
    return cache_folder() / "engines"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One process of one engine, as it was at `written_s` (Unix time).

    `role` is "scheduler", "worker" or "both", `rank` is of `ranks`. `namespaces` are those that it asked in, the latest
    last. `counters` are totals since `started_s`: hits, tokens, bytes, look_ups, stored_bytes and what begins with
    OUTCOME and DROPPED. `announced` says when prefixes are announced, and `announced_why` why so. `idle_reason` is
    empty where the connector works. A prompt shorter than `chunk_tokens` has nothing that could match.
    """

    engine: str
    url: str
    role: str = "both"
    rank: int = 0
    ranks: int = 1
    chunk_tokens: int = 0
    announced: str = ""
    announced_why: str = ""
    idle_reason: str = ""
    breaker_open: bool = False
    namespaces: tuple[Mapping[str, Any], ...] = ()
    counters: Mapping[str, float] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    version: str = objectcache.__version__
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    started_s: float = 0.0
    written_s: float = 0.0

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises RequestError for anything else."""
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise RequestError(f"not an engine's status of format {_FORMAT}: {data['format']!r}")
            values = {item.name: data[item.name] for item in fields(cls)}
            values["namespaces"] = tuple(dict(one) for one in values["namespaces"])
            values["errors"] = tuple(str(one) for one in values["errors"])
            values["counters"] = {str(name): float(amount) for name, amount in values["counters"].items()}
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"not an engine's status: {error!r}") from error

    def known_namespaces(self) -> list[Namespace]:
        """Those of `namespaces` that this version can read, the latest last."""
        found = []
        for data in self.namespaces:
            try:
                found.append(Namespace.from_dict(data))
            except ObjectCacheError as error:
                logger.debug("a namespace in the status of process %d is of another version: %s", self.pid, error)
        return found


def read_statuses(folder: Path) -> list[EngineStatus]:
    """All that lie in a folder, by process; files that are none are passed over. None where there is no folder."""
    found = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            found.append(EngineStatus.from_json(path.read_text()))
        except (OSError, UnicodeDecodeError, RequestError) as error:
            logger.debug("passing over %s: %s", path, error)
    return sorted(found, key=lambda status: (status.host, status.url, status.rank, status.pid))


class StatusWriter:
    """Writes one process's status in a thread of its own. Thread-safe; no call waits for the disk, but `close`.

    Where the folder cannot be written there is a warning, once.
    """

    def __init__(self, folder: Path, status: EngineStatus) -> None:
        now = time.time()
        self._folder = folder
        self._path = folder / f"{status.host}-{status.pid}-{status.role}-{status.rank}{_SUFFIX}"
        self._status = replace(status, started_s=now)
        self._counters: Counter[str] = Counter(status.counters)
        self._errors: deque[str] = deque(status.errors, KEPT_ERRORS)
        self._namespaces: dict[bytes, Mapping[str, Any]] = {}
        self._changed = threading.Condition()
        self._news = self._closed = self._warned = False
        self._thread = threading.Thread(target=self._run, name="objectcache-status", daemon=True)
        self._thread.start()

    def count(self, amounts: Mapping[str, float]) -> None:
        """On top of what was counted before."""
        if amounts:
            with self._changed:
                self._counters.update(amounts)
                self._news = True

    def asked_in(self, namespace: Namespace) -> None:
        """The namespace that is asked in at present."""
        with self._changed:
            if next(reversed(self._namespaces), None) == namespace.digest:
                return
            self._namespaces.pop(namespace.digest, None)
            self._namespaces[namespace.digest] = namespace.to_dict()
            while len(self._namespaces) > KEPT_NAMESPACES:
                del self._namespaces[next(iter(self._namespaces))]
            self._news = True

    def failed(self, error: str) -> None:
        """The last few of these are kept, one of each."""
        with self._changed:
            if error not in self._errors:
                self._errors.append(error)
                self._news = True

    def tell(self, *, breaker_open: bool | None = None, idle_reason: str | None = None) -> None:
        """What changed of these."""
        if breaker_open in (None, self._status.breaker_open) and idle_reason in (None, self._status.idle_reason):
            return  # engines say so every step
        with self._changed:
            status = self._status
            if breaker_open is not None:
                status = replace(status, breaker_open=breaker_open)
            if idle_reason is not None:
                status = replace(status, idle_reason=idle_reason)
            if status != self._status:
                self._status = status
                self._news = True

    def close(self) -> None:
        """The process ends: its status goes with it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        with suppress(OSError):
            self._path.unlink()

    def _run(self) -> None:
        written_s = -ALIVE_EVERY_S
        while True:
            with self._changed:
                if self._closed:
                    return
                due = self._news or time.monotonic() - written_s >= ALIVE_EVERY_S
                self._news = self._news and not due
                status = self._now() if due else None
            if status is not None:
                self._write(status)
                written_s = time.monotonic()
            with self._changed:
                self._changed.wait_for(lambda: self._closed, WRITE_EVERY_S)

    def _now(self) -> EngineStatus:
        return replace(
            self._status,
            counters=dict(self._counters),
            errors=tuple(self._errors),
            namespaces=tuple(self._namespaces.values()),
            written_s=time.time(),
        )

    def _write(self, status: EngineStatus) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".")
            with os.fdopen(descriptor, "w") as file:
                file.write(status.to_json())
            Path(name).replace(self._path)
        except OSError as error:
            if not self._warned:
                logger.warning("cannot write how this engine is doing to %s: %s", self._folder, error)
            self._warned = True
