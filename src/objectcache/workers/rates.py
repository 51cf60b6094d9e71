"""The rates process: the scheduler, beside the control process, whose event loop may be busy.

`python -m objectcache.workers.rates CHANNEL BOARD` is told of admissions, windows and caps over the Unix socket
CHANNEL, reads from the board (a memfd) what workers have sent, writes there how fast each delivery may go, and ends
with the control process.
"""

from __future__ import annotations

import gc
import select
import signal
import socket
import sys
import time
from dataclasses import astuple, fields
from typing import Any

from objectcache.scheduling import (
    Admitted,
    CapChanged,
    Ended,
    Event,
    PolicyChanged,
    Scheduler,
    Sent,
    WeightChanged,
    WindowsChanged,
)
from objectcache.workers.board import BEAT_NS, DECIDING_NS, DECISIONS, LONGEST_NS, PAUSED_NS, WAKES, Board, go_first
from objectcache.workers.channel import BlockingChannel

TICK_S = 0.002
"""How often it is looked what was sent while deliveries run."""
IDLE_S = 0.25
"""As often, without any: to show that this process lives."""
MOST_MESSAGES = 1000
MOST_SHARE = 0.2
"""Of a core that deciding may take; with very many deliveries it is looked less often."""

_EVENTS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Admitted, Ended, CapChanged, PolicyChanged, WeightChanged, WindowsChanged)
}


def event_to_wire(event: Event) -> list[Any]:
    """For msgpack; `event_from_wire` reads it."""
    return [type(event).__name__, *astuple(event)]


def event_from_wire(data: list[Any]) -> Event:
    kind = _EVENTS[data[0]]
    values = (tuple(value) if isinstance(value, list) else value for value in data[1:])
    event: Event = kind(**dict(zip((item.name for item in fields(kind)), values, strict=True)))
    return event


class Rates:
    """The scheduler's ears and hands: events from messages and from the board, rates onto the board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._scheduler = Scheduler()
        self._slots: dict[int, tuple[int, int]] = {}
        self._sent: dict[int, int] = {}
        self._paused: set[int] = set()
        self._decided_s = 0.0

    @property
    def idle(self) -> bool:
        return not self._slots

    def take(self, message: dict[str, Any]) -> None:
        """What the control process says: `events`, and of those that are admitted their `slots`, each with how many
        workers carry it."""
        slots = message.get("slots", {})
        for data in message["events"]:
            event = event_from_wire(data)
            match event:
                case Admitted():
                    slot, carriers = slots[event.delivery]
                    self._slots[event.delivery] = slot, carriers
                    self._sent[event.delivery] = 0
                case Ended():
                    self._slots.pop(event.delivery, None)
                    self._sent.pop(event.delivery, None)
                    self._paused.discard(event.delivery)
            self._scheduler.apply(event)

    def decide(self, now_s: float) -> float:
        """Read what was sent, and write the rates from now on. Until when they are good."""
        board = self._board
        begun_ns = time.perf_counter_ns()
        for delivery, (slot, carriers) in self._slots.items():
            total_bytes = board.sent_bytes(slot, carriers)
            if total_bytes != self._sent[delivery]:
                self._sent[delivery] = total_bytes
                self._scheduler.apply(Sent(now_s, delivery, total_bytes))
        decision = self._scheduler.decide(now_s)
        for delivery, (slot, _) in self._slots.items():
            board.rates[slot] = decision.bytes_s[delivery]
        took_ns = time.perf_counter_ns() - begun_ns
        head = board.head
        head[PAUSED_NS] += int(len(self._paused) * max(0.0, now_s - self._decided_s) * 1e9)
        head[DECISIONS] += 1
        head[DECIDING_NS] += took_ns
        head[LONGEST_NS] = max(head[LONGEST_NS], took_ns)
        self._paused = {delivery for delivery in self._slots if decision.bytes_s[delivery] <= 0}
        self._decided_s = now_s
        soonest_s = now_s + max(TICK_S, took_ns * 1e-9 / MOST_SHARE)
        return max(soonest_s if decision.until_s > soonest_s else decision.until_s, now_s + TICK_S / 10)


def run(channel: BlockingChannel, sock: socket.socket, board: Board) -> None:
    """Until the control process is gone."""
    rates = Rates(board)
    until_s = 0.0
    while True:
        wait_s = IDLE_S if rates.idle else max(0.0, until_s - time.monotonic())
        if channel.at_hand or select.select([sock], [], [], wait_s)[0]:  # poll counts in milliseconds
            for _ in range(MOST_MESSAGES):  # before one decision: deciding takes longer than being told
                received = channel.receive()
                if received is None:
                    return
                rates.take(received[0])
                if not (channel.at_hand or select.select([sock], [], [], 0)[0]):
                    break
        board.head[BEAT_NS] = time.monotonic_ns()
        board.head[WAKES] += 1
        until_s = rates.decide(time.monotonic())


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the control process, which drains
    go_first()
    board = Board(int(sys.argv[2]))
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        run(BlockingChannel(sock), sock, board)


if __name__ == "__main__":
    main()
