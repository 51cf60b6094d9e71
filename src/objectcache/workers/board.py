"""What data workers and the rates process tell each other, in memory that both have mapped: no call, no waiting.

A delivery has a slot while it runs. A worker writes what it has sent of it, the rates process how fast it may go. Both
are aligned words of eight bytes, each with one writer, and are read as they were written.
"""

from __future__ import annotations

import mmap
import os
from math import inf

from objectcache.transports.pacing import Pace

SLOTS = 16384
_WORD = 8
_HEAD_WORDS = 512
BEAT_NS, DECISIONS, DECIDING_NS, LONGEST_NS, PAUSED_NS, WAKES = range(6)
"""Words of the head, written by the rates process: when it last woke, how often it decided, how long that took in all
and at most, how long deliveries had a rate of 0, and how often it woke."""


class Board:
    """`rates[slot]` are bytes a second, `sent[slot]` payload bytes since the delivery began, `head[word]` counters."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is `make_board`'s, and stays the caller's."""
        self._map = mmap.mmap(descriptor, (_HEAD_WORDS + 2 * SLOTS) * _WORD)
        words = memoryview(self._map)
        slots_bytes = SLOTS * _WORD
        head_bytes = _HEAD_WORDS * _WORD
        self.head = words[:head_bytes].cast("Q")
        self.rates = words[head_bytes : head_bytes + slots_bytes].cast("d")
        self.sent = words[head_bytes + slots_bytes :].cast("Q")

    def pace(self, slot: int, sent_bytes: int = 0) -> Pace:
        """For the sending of the delivery that has `slot`, of which `sent_bytes` have been sent already."""
        rates, sent = self.rates, self.sent

        def report(total_bytes: int) -> None:
            sent[slot] = total_bytes

        return Pace(lambda: rates[slot], report, sent_bytes)

    def clear(self, slot: int, bytes_s: float = inf) -> None:
        """For a delivery that begins at `bytes_s`."""
        self.sent[slot] = 0
        self.rates[slot] = bytes_s

    def close(self) -> None:
        for words in (self.head, self.rates, self.sent):
            words.release()
        self._map.close()


def make_board() -> int:
    """A descriptor of a new board, which is gone with the last process that has it."""
    descriptor = os.memfd_create("objectcache-rates", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, (_HEAD_WORDS + 2 * SLOTS) * _WORD)
    return descriptor
