"""What data workers and the rates process tell each other, in memory that both have mapped: no call, no waiting.

A delivery has a slot while it runs. Each worker that carries it writes what it has sent of it, the rates process how
fast it may go. All are aligned words of eight bytes, each with one writer, and are read as they were written.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from math import inf

from objectcache.transports.dealing import MOST_CARRIERS
from objectcache.transports.pacing import Pace

SLOTS = 16384
NICENESS = -10
_WORD = 8
_HEAD_WORDS = 512
_WORDS = _HEAD_WORDS + (1 + MOST_CARRIERS) * SLOTS
BEAT_NS, DECISIONS, DECIDING_NS, LONGEST_NS, PAUSED_NS, WAKES = range(6)
"""Words of the head, written by the rates process: when it last woke, how often it decided, how long that took in all
and at most, how long deliveries had a rate of 0, and how often it woke."""


class Board:
    """`rates[slot]` are bytes a second of the whole delivery; `sent[slot * MOST_CARRIERS + carrier]` payload bytes
    since it began; `head[word]` counters."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is `make_board`'s, and stays the caller's."""
        self._map = mmap.mmap(descriptor, _WORDS * _WORD)
        words = memoryview(self._map)
        slots_bytes = SLOTS * _WORD
        head_bytes = _HEAD_WORDS * _WORD
        self.head = words[:head_bytes].cast("Q")
        self.rates = words[head_bytes : head_bytes + slots_bytes].cast("d")
        self.sent = words[head_bytes + slots_bytes :].cast("Q")

    def pace(self, slot: int, carrier: int = 0, fraction: float = 1.0, sent_bytes: int = 0) -> Pace:
        """For what carrier number `carrier` sends of the delivery that has `slot`: at this `fraction` of its rate.
        `sent_bytes` have been sent already."""
        rates, sent, word = self.rates, self.sent, slot * MOST_CARRIERS + carrier

        def report(total_bytes: int) -> None:
            sent[word] = total_bytes

        return Pace(lambda: rates[slot] * fraction, report, sent_bytes)

    def sent_bytes(self, slot: int, carriers: int = 1) -> int:
        """What all carriers together have sent."""
        first = slot * MOST_CARRIERS
        return self.sent[first] if carriers == 1 else sum(self.sent[first : first + carriers])

    def clear(self, slot: int, bytes_s: float = inf) -> None:
        """For a delivery that begins at `bytes_s`."""
        for carrier in range(MOST_CARRIERS):
            self.sent[slot * MOST_CARRIERS + carrier] = 0
        self.rates[slot] = bytes_s

    def close(self) -> None:
        for words in (self.head, self.rates, self.sent):
            words.release()
        self._map.close()


def go_first() -> None:
    """All threads of this process, and those they start, before others that want a processor: they sleep most of the
    time, and a rate is kept by waking in time. Where that is not allowed, nothing changes."""
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), min(NICENESS, os.getpriority(os.PRIO_PROCESS, int(thread))))


def make_board() -> int:
    """A descriptor of a new board, which is gone with the last process that has it."""
    descriptor = os.memfd_create("objectcache-rates", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _WORDS * _WORD)
    return descriptor
