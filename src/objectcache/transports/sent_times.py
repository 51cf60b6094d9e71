"""When each layer of a delivery was sent, for whoever looks where its time goes."""

from __future__ import annotations

from collections.abc import Collection, Iterable

LayerTimes = tuple[int, float, float]
"""A layer, when its first turn began, and when its last one was with the kernel, or in place: seconds of
time.monotonic, which all processes of a host share."""


class SentTimes:
    """Of one delivery, or a portion. Each stream notes its own turns; they are read when all streams have ended."""

    def __init__(self) -> None:
        self._noted: dict[int, list[LayerTimes]] = {}

    def note(self, stream: int, layers: Collection[int], begun_s: float, ended_s: float) -> None:
        """A turn with frames of these layers is sent."""
        noted = self._noted.setdefault(stream, [])
        for layer in layers:
            if noted and noted[-1][0] == layer:
                noted[-1] = layer, noted[-1][1], ended_s
            else:
                noted.append((layer, begun_s, ended_s))

    def by_layer(self) -> list[LayerTimes]:
        return merged(times for noted in self._noted.values() for times in noted)


def merged(parts: Iterable[LayerTimes]) -> list[LayerTimes]:
    """Each layer once, by number, from whoever sent a part of it."""
    found: dict[int, tuple[float, float]] = {}
    for layer, begun_s, ended_s in parts:
        first_s, last_s = found.get(layer, (begun_s, ended_s))
        found[layer] = min(first_s, begun_s), max(last_s, ended_s)
    return [(layer, *times) for layer, times in sorted(found.items())]
