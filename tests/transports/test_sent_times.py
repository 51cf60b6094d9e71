"""When layers were sent, put together from streams and from workers."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.transports.sent_times import SentTimes, merged


@dataclass
class Turn:
    layers: list[int]


def test_a_layer_begins_with_the_first_of_its_turns_and_ends_with_the_last_on_any_stream() -> None:
    times = SentTimes()
    times.note(0, Turn([3]), 1.0, 2.0)
    times.note(1, Turn([3]), 0.5, 1.5)
    times.note(0, Turn([3, 4]), 2.0, 3.0)  # a turn of both
    times.note(1, Turn([4]), 1.5, 2.5)
    assert times.by_layer() == [(3, 0.5, 3.0), (4, 1.5, 3.0)]


def test_portions_are_put_together() -> None:
    assert merged([(0, 1.0, 2.0), (1, 2.0, 3.0), (1, 1.5, 2.5), (0, 1.2, 1.9)]) == [(0, 1.0, 2.0), (1, 1.5, 3.0)]
    assert merged([]) == []
