"""Clients that GET, in a process of their own for each server: as users have them, beside nothing of ours."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from objectcache.bench.children import JsonChild
from objectcache.bench.peers.held import HeldKV
from objectcache.bench.peers.measured import Measured
from objectcache.bench.peers.servers import Server
from objectcache.bench.stores.fetch import Fetch

THREADS, GATHER = "threads", "gather"
CLIENTS = (THREADS, GATHER)
CHUNKS, SLICES = "chunks", "slices"
_DIRECTORY = "chunks"
_TIMEOUT_S = 300.0


def chunk_key(chunk: int) -> str:
    return f"{_DIRECTORY}/{chunk:06}"


class Getter(AbstractContextManager["Getter"]):
    """Reads from `server` into the memory of `held`. Raises BenchmarkError."""

    def __init__(self, server: Server, held: HeldKV, parallel: int, sampled: list[int]) -> None:
        self._server = server
        self._child = JsonChild(["objectcache.bench.peers.getting"], pass_fds=[held.fileno()])
        try:
            self._child.ask(
                {
                    "url": server.url,
                    "environment": dict(server.environment),
                    "parallel": parallel,
                    "fd": held.fileno(),
                    "chunks": held.chunks,
                    "layers": held.layers,
                    "slice_bytes": held.slice_bytes,
                    "sampled": sampled,
                }
            )
        except BaseException:
            self._child.close()
            raise

    def put(self) -> None:
        """Store each chunk with all its layers as one object."""
        self._child.ask({"put": True}, _TIMEOUT_S)

    def get(self, client: str, what: str) -> Measured:
        """`what`: CHUNKS, each whole; SLICES, of the sampled layers, layer by layer."""
        before_s = self._server.cpu_s()
        answer = self._child.ask({"client": client, "what": what}, _TIMEOUT_S)
        return Measured(Fetch(**answer["fetch"]), self._server.cpu_s() - before_s, answer["cpu_s"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()
