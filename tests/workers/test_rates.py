"""The rates process: what it is told and reads becomes rates on the board."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from math import inf

import msgpack
import pytest

from objectcache.scheduling import (
    Admitted,
    CapChanged,
    Ended,
    Event,
    PolicyChanged,
    WeightChanged,
    WindowsChanged,
)
from objectcache.transports.dealing import MOST_CARRIERS
from objectcache.workers.board import BEAT_NS, DECISIONS, PAUSED_NS, Board, make_board
from objectcache.workers.channel import BlockingChannel
from objectcache.workers.rates import Rates, event_from_wire, event_to_wire

MIB = 1 << 20
CAP = 1e8
PATIENCE_S = 20.0


@pytest.fixture
def board() -> Iterator[Board]:
    descriptor = make_board()
    found = Board(descriptor)
    os.close(descriptor)
    yield found
    found.close()


def admitted(number: int, units: int = 4, *, now_s: float = 0.0, links: tuple[str, ...] = ("gateway",)) -> Admitted:
    return Admitted(now_s, number, links, (MIB,) * units, (0.01,) * units, 0.5, "g", "t")


EVENTS: list[Event] = [
    admitted(7),
    Ended(1.0, 7),
    CapChanged(2.0, "gateway", None),
    CapChanged(2.0, "gateway", 5.0),
    PolicyChanged(3.0, "slack"),
    WeightChanged(4.0, "t", 2.0),
    WindowsChanged(5.0, 7, (0.1, 0.2), None),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_come_back_as_they_were(event: Event) -> None:
    assert event_from_wire(msgpack.unpackb(msgpack.packb(event_to_wire(event)))) == event


def told(*events: Event, **slots: int) -> dict[str, object]:
    return {
        "events": [event_to_wire(event) for event in events],
        "slots": {int(n.removeprefix("d")): (slot, 1) for n, slot in slots.items()},
    }


def test_deliveries_share_a_cap_and_what_ends_leaves_it_to_the_others(board: Board) -> None:
    rates = Rates(board)
    rates.take(told(PolicyChanged(0.0, "equal"), CapChanged(0.0, "gateway", CAP), admitted(1), admitted(2), d1=3, d2=9))
    rates.decide(0.0)
    assert [board.rates[3], board.rates[9]] == [CAP / 2, CAP / 2]
    rates.take(told(Ended(0.01, 1)))
    rates.decide(0.01)
    assert board.rates[9] == CAP
    rates.take(told(CapChanged(0.02, "gateway", None)))
    rates.decide(0.02)
    assert board.rates[9] == inf
    assert not rates.idle
    rates.take(told(Ended(0.03, 2)))
    assert rates.idle


def test_what_was_sent_and_new_windows_change_who_goes_first(board: Board) -> None:
    rates = Rates(board)
    rates.take(told(PolicyChanged(0.0, "slack"), CapChanged(0.0, "gateway", CAP)))
    rates.take(told(admitted(1, 8), admitted(2, 8), d1=0, d2=1))
    # Their engines ask at 0.5 s and 0.01 s a unit: nobody is late yet. Then the second says that it asks now.
    rates.take(told(WindowsChanged(0.0, 1, (1.0,) * 8, 10.0), WindowsChanged(0.0, 2, (0.0,) * 8, 0.0)))
    rates.decide(0.0)
    assert board.rates[1] > board.rates[0]
    board.sent[1 * MOST_CARRIERS] = 8 * MIB
    rates.decide(0.1)
    assert board.rates[0] > board.rates[1] or board.rates[0] == CAP


def test_what_all_carriers_have_sent_counts_and_each_goes_by_its_fraction(board: Board) -> None:
    carriers = 3
    paces = [board.pace(7, carrier, fraction) for carrier, fraction in enumerate((0.5, 0.25, 0.25))]
    board.clear(7, 100 * CAP)
    for pace in paces:
        assert pace.due_s(0.0) <= 0.0
        pace.take(MIB, 0.0)
        pace.take(MIB, 0.0)
    assert board.sent_bytes(7, carriers) == carriers * 2 * MIB
    assert board.sent_bytes(7) == 2 * MIB
    assert [board.sent_bytes(slot, carriers) for slot in (6, 8)] == [0, 0]
    assert paces[0].step_bytes == pytest.approx(2 * paces[1].step_bytes, rel=0.1)
    board.clear(7, 0.0)
    assert board.sent_bytes(7, carriers) == 0
    assert all(pace.due_s(1.0) > 1.0 for pace in paces)


def test_paused_time_is_counted(board: Board) -> None:
    rates = Rates(board)
    rates.take(told(PolicyChanged(0.0, "equal"), CapChanged(0.0, "gateway", 0.0), admitted(1), admitted(2), d1=0, d2=1))
    rates.decide(1.0)
    rates.decide(1.5)
    assert board.head[PAUSED_NS] == 10**9  # two of them, half a second
    assert board.head[DECISIONS] == 2


def test_the_process_looks_at_the_board_and_ends_with_its_owner() -> None:
    descriptor = make_board()
    board = Board(descriptor)
    mine, theirs = socket.socketpair()
    with theirs:
        fds = (theirs.fileno(), descriptor)
        command = [sys.executable, "-m", "objectcache.workers.rates", *map(str, fds)]
        process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL)
    try:
        BlockingChannel(mine).send(
            told(PolicyChanged(0.0, "equal"), CapChanged(0.0, "gateway", CAP), admitted(1), d1=5)
        )
        until_s = time.monotonic() + PATIENCE_S
        while board.rates[5] != CAP:
            assert time.monotonic() < until_s
            time.sleep(0.005)
        assert board.head[BEAT_NS]
    finally:
        mine.close()
        assert process.wait(PATIENCE_S) == 0
        board.close()
        os.close(descriptor)
