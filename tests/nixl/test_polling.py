"""Looking for notifications: soon enough, and without a core."""

from __future__ import annotations

import resource
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from objectcache.buffers import BufferPool
from objectcache.client.nixl_receivers import NixlReceivers
from objectcache.frames import Frame
from objectcache.messages import NixlRequest
from objectcache.transports.nixl import Agent
from objectcache.transports.verification import Verification
from tests.gateway.process import eventually

ADDED_S = 0.0002
"""What looking may add to a layer."""
COUNT = 300

SAYING = """
import random, struct, sys, time
from objectcache.frames import Frame, FrameType
from objectcache.transports.nixl import Agent, encode_notification

agent = Agent("writer")
client = agent.add_peer(bytes.fromhex(sys.stdin.readline()))
print("ready", flush=True)
sys.stdin.readline()
choose = random.Random(1)
for number in range(int(sys.argv[1])):
    time.sleep(0.001 + 0.002 * choose.random())
    now_ns = time.monotonic_ns()  # the same clock in all processes
    frame = Frame(FrameType.END, now_ns, 0)
    agent.notify(client, encode_notification(0, number, frame.encode()))
    agent.notifications()
sys.stdin.readline()
"""


@contextmanager
def saying(metadata: bytes) -> Iterator[subprocess.Popen[str]]:
    """A process that says when it says something, COUNT times."""
    command = [sys.executable, "-c", SAYING, str(COUNT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(metadata.hex() + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        yield process
        process.kill()


def busy_delays_s() -> list[float]:
    """Of notifications that somebody looks for all the time."""
    agent = Agent("client")
    delays_s: list[float] = []
    with saying(agent.metadata()):
        while len(delays_s) < COUNT:
            for found in agent.notifications().values():
                now_ns = time.monotonic_ns()
                delays_s += [(now_ns - struct.unpack_from("<8xQ", one[16:])[0]) / 1e9 for one in found]
    agent.close()
    return delays_s


class Awaiting(NixlReceivers):
    """As if a delivery were awaited, or none."""

    def __init__(self, *, awaited: bool) -> None:
        self.pool = BufferPool(1 << 20)
        super().__init__(lambda: None, Verification(), "client", self.pool, 1)
        self.accept("writer")
        self.delays_s: list[float] = []
        self._receiver.take = self._took  # type: ignore[method-assign]
        if awaited:
            self._awaited.add((1, 0))
            self._wanted.add((1, 0))

    def _took(self, stream: int, frame: Frame, payload: bytes) -> None:
        self.delays_s.append((time.monotonic_ns() - frame.delivery) / 1e9)

    def heard_all(self) -> bool:
        return len(self.delays_s) == COUNT

    def end(self) -> None:
        agent = self._agent
        self.close()
        eventually(lambda: agent.usage == (0, 0, 0), "it has ended")
        self.pool.close()


def test_a_layer_is_noticed_within_200_microseconds_of_looking_all_the_time() -> None:
    """Other programs may want the cores: it is tried a few times, and once is enough."""
    for _ in range(4):
        receivers = Awaiting(awaited=True)
        metadata = NixlRequest.decode(receivers.registration(bytes(16))).metadata
        with saying(metadata):
            eventually(receivers.heard_all, "all have come")
        receivers.end()
        busy_s, found_s = statistics.median(busy_delays_s()), statistics.median(receivers.delays_s)
        if found_s - busy_s < ADDED_S:
            return
    raise AssertionError(f"{found_s * 1e6:.0f} µs, and {busy_s * 1e6:.0f} µs for who looks all the time")


def test_it_takes_no_core() -> None:
    for awaited, share in ((True, 0.5), (False, 0.05)):
        receivers = Awaiting(awaited=awaited)
        time.sleep(0.1)
        before, started_s = cpu_s(), time.monotonic()
        time.sleep(1.0)
        used = (cpu_s() - before) / (time.monotonic() - started_s)
        receivers.end()
        assert used < share, f"{used:.2f} of a core while {'one' if awaited else 'none'} is awaited"


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def test_threads_end_with_their_session() -> None:
    before = threading.active_count()
    for _ in range(3):
        Awaiting(awaited=False).end()
    eventually(lambda: threading.active_count() <= before, "none is left")
