"""Objects of segments that were replaced: out of the catalog, and in the store while somebody may still read them.
Pure: time is passed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

GRACE_S = 10.0
"""How long others may go on by the old names: processes that follow the logs are not farther behind, and what they have
opened stays readable. Deliveries of this process are waited for in any case."""
FAR_GRACE_S = 180.0
"""Far away nothing is held open: a delivery asks for its segments by name until its end, and a process that had no use
for the logs is half a minute behind."""


@dataclass(frozen=True, slots=True)
class _Object:
    size_bytes: int
    needed_until_s: float
    until_s: float


class Superseded:
    """Not thread-safe; its owner locks. `now_s` is any clock that does not go back."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._planned_until_s = 0.0
        self._objects: dict[str, _Object] = {}

    def planned(self, now_s: float, deadline_s: float) -> None:
        """A delivery of this process knows its segments by name from now on, and ends within `deadline_s`."""
        self._planned_until_s = max(self._planned_until_s, now_s + deadline_s)

    def add(self, objects: Iterable[tuple[str, int]], now_s: float) -> None:
        """These (name, bytes) are replaced: what is planned from now on does without them."""
        for name, size_bytes in objects:
            needed_until_s = max(now_s, self._planned_until_s)
            self._objects[name] = _Object(size_bytes, needed_until_s, max(needed_until_s, now_s + self.grace_s))

    def due(self, now_s: float) -> list[str]:
        """Those that nobody needs any more; they are forgotten here."""
        return self._take([name for name, held in self._objects.items() if held.until_s <= now_s])

    def for_room(self, wanted_bytes: int, now_s: float) -> tuple[list[str], int]:
        """Some that no delivery of this process needs, though the time for others is not over, until they make up
        `wanted_bytes`; and how many bytes they are. Forgotten here.
        """
        chosen: list[str] = []
        freed = 0
        for name, held in self._objects.items():
            if freed >= wanted_bytes:
                break
            if held.needed_until_s <= now_s:
                chosen.append(name)
                freed += held.size_bytes
        return self._take(chosen), freed

    @property
    def total_bytes(self) -> int:
        return sum(held.size_bytes for held in self._objects.values())

    def due_in_s(self, now_s: float) -> float:
        """Seconds until the last of them is due; 0.0 when there are none."""
        return max((held.until_s - now_s for held in self._objects.values()), default=0.0)

    def _take(self, names: list[str]) -> list[str]:
        for name in names:
            del self._objects[name]
        return names

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def __len__(self) -> int:
        return len(self._objects)
