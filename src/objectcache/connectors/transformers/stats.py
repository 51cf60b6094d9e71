"""Counters of one connector."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ConnectorStats:
    """Totals since the connector was made. Drops are prompts (or their rest) that were not stored, by reason;
    `left_alone` requests asked for nothing, since the cache had just been late or gone."""

    loads: int = 0
    hits: int = 0
    requested_tokens: int = 0
    matched_tokens: int = 0
    loaded_bytes: int = 0
    waited_s: float = 0.0
    lookup_failures: int = 0
    left_alone: int = 0
    load_failures: int = 0
    recomputed: int = 0
    stored_tokens: int = 0
    stored_bytes: int = 0
    dropped_full: int = 0
    dropped_backlog: int = 0
    dropped_failed: int = 0
    aborted: int = 0

    @property
    def dropped(self) -> int:
        return self.dropped_full + self.dropped_backlog + self.dropped_failed


class StatsCounter:
    """ConnectorStats that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # an abandoned cache may be counted while its thread is in here
        self._stats = ConnectorStats()

    def add(self, **amounts: float) -> None:
        with self._lock:
            changes = {name: getattr(self._stats, name) + amount for name, amount in amounts.items()}
            self._stats = replace(self._stats, **changes)

    @property
    def snapshot(self) -> ConnectorStats:
        return self._stats
