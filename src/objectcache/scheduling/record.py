"""What a scheduler was told and what it decided, a JSON object a line: to be replayed, and looked into."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from math import inf
from typing import Any, TextIO, get_args

from objectcache.errors import IntegrityError
from objectcache.scheduling.events import Event
from objectcache.scheduling.scheduler import DEFAULT_POLICY, Decision, Scheduler

VERSION = 1
_EVENTS = {kind.__name__: kind for kind in get_args(Event)}


class RecordingScheduler(Scheduler):
    """A scheduler that writes all of it to `file`: first how it began, then what it is told and what it decides."""

    def __init__(self, file: TextIO, policy: str = DEFAULT_POLICY, caps: Mapping[str, float] | None = None) -> None:
        super().__init__(policy, caps)
        self._file = file
        self._write({"begins": VERSION, "policy": policy, "caps": dict(caps or {})})

    def apply(self, event: Event) -> None:
        self._write({"event": type(event).__name__, **asdict(event)})
        super().apply(event)

    def decide(self, now_s: float) -> Decision:
        decision = super().decide(now_s)
        rates = {str(number): _finite(rate) for number, rate in decision.bytes_s.items()}
        self._write({"decides": now_s, "bytes_s": rates, "until_s": _finite(decision.until_s)})
        return decision

    def _write(self, record: Mapping[str, Any]) -> None:
        json.dump(record, self._file, separators=(",", ":"))
        self._file.write("\n")


def replay(lines: Iterable[str]) -> Iterator[tuple[Decision, Decision]]:
    """Each decision that was recorded, and what a scheduler decides that is told the same.

    Raises IntegrityError for lines that are no such record."""
    scheduler: Scheduler | None = None
    for count, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if scheduler is None:
                if record["begins"] != VERSION:
                    raise ValueError(f"version {record['begins']} is not {VERSION}")
                scheduler = Scheduler(record["policy"], record["caps"])
            elif "event" in record:
                scheduler.apply(_event(record))
            else:
                rates = {int(number): _unbounded(rate) for number, rate in record["bytes_s"].items()}
                yield Decision(rates, _unbounded(record["until_s"])), scheduler.decide(record["decides"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"line {count} is not of a scheduler's record: {error!r}") from error


def _event(record: Mapping[str, Any]) -> Event:
    kind = _EVENTS[record["event"]]
    values = {field.name: record[field.name] for field in fields(kind)}
    event: Event = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    return event


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return None if value == inf else value


def _unbounded(value: float | None) -> float:
    return inf if value is None else value
