"""A receiving process on shared memory: immune to a busy interpreter in the engine's own process.

`python -m objectcache.client.receiver_process FD MEMORY_FD SIZE BOARDS_FD SIZE INDEX COUNT LEVEL FRACTION PREFAULT`
receives for the process at the other end of the Unix socket FD into the shared file MEMORY_FD, and ends with it. It is
number INDEX of COUNT, which tell each other what has arrived in the shared file BOARDS_FD. PREFAULT is 1 where all of
the memory is there already.
"""

from __future__ import annotations

import contextlib
import mmap
import signal
import socket
import sys
import threading

from objectcache.client.orders import Order
from objectcache.client.receivers import ThreadReceivers
from objectcache.errors import DeliveryError, GatewayUnavailableError, error_from_code
from objectcache.pages import fill_page_table, shared_memory
from objectcache.transports.receiver import Expected, Member
from objectcache.transports.verification import Verification
from objectcache.workers.channel import BlockingChannel, Message, error_fields

HOLD_S = 1.0
"""How long frames of a delivery that is not known yet wait: its order may be on its way."""


class _Process:
    """The process itself."""

    def __init__(
        self,
        channel: BlockingChannel,
        memory: memoryview,
        boards: memoryview,
        member: tuple[int, int],
        verify: Verification,
    ) -> None:
        self._channel = channel
        self._memory = memory
        self._boards = boards
        self._index, self._count = member
        self._foretold: dict[int, tuple[Message, Order, Expected]] = {}
        """By slot."""
        self._receivers = ThreadReceivers(lambda: channel.send({"event": "lost"}), verify, hold_s=HOLD_S)

    def serve(self) -> None:
        while (received := self._channel.receive()) is not None:
            message, fds = received
            match message["op"]:
                case "attach":
                    sock = socket.socket(fileno=fds[0])
                    sock.setblocking(True)
                    self._receivers.attach(message["stream"], sock)
                case "foretell":
                    order = Order.of(message)
                    self._foretold[message["slot"]] = message, order, self._expected(message, order)
                    _ = order.geometry.sections
                case "confirm":
                    self._confirm(message)
                case "expect":
                    self._await(self._expected(message, Order.of(message)), message["offset"])
                case "cancel":
                    self._receivers.cancel(message["delivery"], message["epoch"])
                case "fail":
                    error = error_from_code(message["code"], message["message"], message["status"])
                    self._receivers.fail(message["delivery"], error)
                case "cut":
                    self._receivers.cut()
                case other:
                    raise DeliveryError(f"unknown order {other!r}")

    def _confirm(self, message: Message) -> None:
        """Raises DeliveryError where that was not foretold."""
        key = (message["delivery"], message["epoch"])
        found = self._foretold.pop(message["slot"], None)
        if found is None or key != (found[0]["delivery"], found[0]["epoch"]):
            raise DeliveryError(f"delivery {key} is confirmed, which was not foretold")
        told, order, expected = found
        revised = order.revised(message)
        self._await(expected if revised is order else self._expected(told, revised), told["offset"])

    def _await(self, expected: Expected, offset: int) -> None:
        with contextlib.suppress(GatewayUnavailableError):  # the streams are gone: `expected` was told
            self._receivers.expect(expected, offset)
        if expected.geometry is not None:
            _ = expected.geometry.sections  # it keeps them: for the end of the first frame, which is received meanwhile

    def _expected(self, message: Message, order: Order) -> Expected:
        about = {"delivery": message["delivery"], "epoch": message["epoch"]}
        offset = message["offset"]
        return Expected(
            delivery=message["delivery"],
            epoch=message["epoch"],
            geometry=order.geometry,
            parts=order.parts,
            memory=self._memory[offset : offset + order.geometry.total_bytes],
            streams=message["streams"],
            on_section=lambda section: self._channel.send({"event": "section", "section": section, **about}),
            on_failed=lambda error: self._channel.send({"event": "failed", **error_fields(error), **about}),
            on_fenced=lambda: self._channel.send({"event": "fenced", **about}),
            from_layer=message["from_layer"],
            member=Member(self._index, self._count, self._boards[message["board"] :]),
        )


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine; this process ends with it
    fd, memory_fd, memory_bytes, boards_fd, boards_bytes, index, count = map(int, sys.argv[1:8])
    verify = Verification(sys.argv[8], float(sys.argv[9]))
    memory, boards = memoryview(shared_memory(memory_fd, memory_bytes)), memoryview(mmap.mmap(boards_fd, boards_bytes))
    if int(sys.argv[10]):
        # Each process has page tables of its own: to fill them page by page costs more than receiving does.
        threading.Thread(target=fill_page_table, args=(memory,), name="page-table", daemon=True).start()
    with socket.socket(fileno=fd) as sock:
        _Process(BlockingChannel(sock), memory, boards, (index, count), verify).serve()


if __name__ == "__main__":
    main()
