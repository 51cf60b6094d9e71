"""When each layer of a delivery was sent, for whoever looks where its time goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

LayerTimes = tuple[int, float, float]
"""A layer, when its first turn began, and when its last one was with the kernel, or in place: seconds of
time.monotonic, which all processes of a host share."""


class Layered(Protocol):
    """A turn, as far as it is of interest here."""

    @property
    def layers(self) -> Sequence[int]: ...


class SentTimes:
    """Of one delivery, or a portion. Each stream notes its own turns; they are read when all streams have ended: which
    layers a turn has is looked at then, when nobody waits for it."""

    def __init__(self) -> None:
        self._noted: dict[int, list[tuple[Layered, float, float]]] = {}

    def note(self, stream: int, turn: Layered, begun_s: float, ended_s: float) -> None:
        """A turn is sent."""
        self._noted.setdefault(stream, []).append((turn, begun_s, ended_s))

    def by_layer(self) -> list[LayerTimes]:
        return merged(self._parts())

    def _parts(self) -> Iterator[LayerTimes]:
        for noted in self._noted.values():
            for turn, begun_s, ended_s in noted:
                for layer in turn.layers:
                    yield layer, begun_s, ended_s


def merged(parts: Iterable[LayerTimes]) -> list[LayerTimes]:
    """Each layer once, by number, from whoever sent a part of it."""
    found: dict[int, tuple[float, float]] = {}
    for layer, begun_s, ended_s in parts:
        first_s, last_s = found.get(layer, (begun_s, ended_s))
        found[layer] = min(first_s, begun_s), max(last_s, ended_s)
    return [(layer, *times) for layer, times in sorted(found.items())]
