"""Which of a session's data workers sends which spans of a delivery. Pure.

Every one of them reckons the same, from the same plan: nobody has to be asked, and nothing is sent twice or left out.
"""

from __future__ import annotations

from typing import NamedTuple

MOST_CARRIERS = 8
"""Workers that one session may be spread over."""


class Portion(NamedTuple):
    """What carrier number `carrier` of `carriers` sends of a delivery. The session's `streams` are dealt out to them in
    turn, so that one more or less may be its own."""

    streams: int
    carriers: int = 1
    carrier: int = 0

    @property
    def own_streams(self) -> int:
        return own_streams(self.streams, self.carriers, self.carrier)

    @property
    def fraction(self) -> float:
        """Of the delivery's bytes, and of its rate."""
        return self.own_streams / self.streams


def own_streams(streams: int, carriers: int, carrier: int) -> int:
    """How many of a session's streams are that carrier's."""
    return len(range(carrier, streams, carriers))


class Dealing:
    """Spans are dealt out in delivery order, each to whoever has been given the least for each of its streams: at any
    moment all are within a span of each other, so that each layer is split over all."""

    def __init__(self, portion: Portion) -> None:
        self._own = portion.carrier
        self._streams = [own_streams(portion.streams, portion.carriers, each) for each in range(portion.carriers)]
        self._given = [0.0] * portion.carriers

    def deal(self, data_bytes: int) -> bool:
        """Whether the next span, of `data_bytes`, is this carrier's."""
        given = self._given
        to = given.index(min(given))
        given[to] += data_bytes / self._streams[to]
        return to == self._own
