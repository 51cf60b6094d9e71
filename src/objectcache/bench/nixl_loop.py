"""What NIXL can do here at best: WRITEs from one bare process into another one's memory, each with a notification.

The bytes of as many layer groups, registered once on both sides, in pieces of which several are in flight: but no
store to read them from, no digests, and nobody to be told but whoever counts notifications.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType

from objectcache.bench.children import JsonChild
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import cpu_s
from objectcache.bench.nixl_end import pieces_of
from objectcache.bench.transfer import Transfer

END = "objectcache.bench.nixl_end"


@dataclass(frozen=True, slots=True)
class Fabric:
    """What UCX travels over: `environment` of both processes says so. `piece_bytes` and `window` are the fastest of
    those tried (docs/benchmarks/nixl.md)."""

    name: str
    environment: Mapping[str, str] = field(repr=False)
    piece_bytes: int
    window: int = 4


# Without NET_DEVICES it listens on every interface, and spreads what it writes over them.
_LOOPBACK = {"UCX_NET_DEVICES": "lo"}
SHARED_MEMORY = Fabric("shm", {"UCX_TLS": "sm,tcp", **_LOOPBACK}, 16 << 20)
TCP = Fabric("tcp", {"UCX_TLS": "tcp", **_LOOPBACK}, 4 << 20)
FABRICS = (SHARED_MEMORY, TCP)


class NixlLoop(AbstractContextManager["NixlLoop"]):
    """`sets` are lists of the bytes of layer groups; `run` transfers one of them. Raises BenchmarkError, also when what
    arrives is not what was written, which is looked at once."""

    def __init__(self, sets: Sequence[Sequence[int]], fabric: Fabric) -> None:
        self._sets = sets
        self._pieces = [[pieces_of(size, fabric.piece_bytes) for size in groups] for groups in sets]
        self._stack = ExitStack()
        try:
            self._open(fabric)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, fabric: Fabric) -> None:
        most_bytes = max(map(sum, self._sets))
        self._receiver, self._sender = (
            self._stack.enter_context(JsonChild([END], environment=fabric.environment)) for _ in range(2)
        )
        reached = self._receiver.ask({"bytes": most_bytes})
        job = {"sets": [list(groups) for groups in self._sets], "bytes": most_bytes, "window": fabric.window}
        self._sender.ask({**job, **reached, "piece_bytes": fabric.piece_bytes})
        largest = max(range(len(self._sets)), key=lambda index: sum(self._sets[index]))
        self.run(largest)  # connected
        if not self._receiver.ask({"check": most_bytes})["equal"]:
            raise BenchmarkError("what NIXL wrote is not what arrived")

    def run(self, index: int) -> Transfer:
        """Transfer the set at `index`."""
        sender_cpu_s, receiver_cpu_s = cpu_s(self._sender.pid), cpu_s(self._receiver.pid)
        self._receiver.ask({"groups": self._pieces[index]})
        start_s = time.perf_counter()
        self._sender.tell({"set": index})
        landed_s = [at_s - start_s for at_s in self._receiver.read()["landed_s"]]
        return Transfer(
            started_s=start_s,
            seconds=max(landed_s),
            payload_bytes=sum(self._sets[index]),
            sender_cpu_s=cpu_s(self._sender.pid) - sender_cpu_s,
            receiver_cpu_s=cpu_s(self._receiver.pid) - receiver_cpu_s,
            landed_s=tuple(landed_s),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
