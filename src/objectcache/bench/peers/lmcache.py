"""LMCache's S3 adapter, which loads whole chunks of its own size, in an interpreter that has LMCache.

It is what its multiprocess mode reads a bucket with. It addresses buckets by host name only, so the server is nginx:
its root is the bucket, and its files are read without a look at the signature.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from objectcache.bench.children import JsonChild
from objectcache.bench.peers.held import HeldKV
from objectcache.bench.peers.measured import Measured
from objectcache.bench.peers.servers import Nginx
from objectcache.bench.stores.fetch import Fetch

_SCRIPT = Path(__file__).with_name("lmcache_child.py")
_TIMEOUT_S = 300.0


class LMCacheReader(AbstractContextManager["LMCacheReader"]):
    """Stores `held` as LMCache's objects of `chunks_each` chunks below nginx's root. Raises BenchmarkError."""

    def __init__(self, python: Path, nginx: Nginx, held: HeldKV, chunks_each: int) -> None:
        self._nginx = nginx
        # Isolated: what is on our path is not on its.
        self._child = JsonChild([str(_SCRIPT)], interpreter=(str(python), "-I"), pass_fds=[held.fileno()])
        try:
            told = self._child.ask(
                {
                    "endpoint": nginx.host,
                    "fd": held.fileno(),
                    "size_bytes": held.size_bytes,
                    "object_bytes": chunks_each * held.chunk_bytes,
                },
                _TIMEOUT_S,
            )
            self.version: str = told["version"]
            for name, begin, end in told["objects"]:
                (nginx.root / name).write_bytes(held.memory[begin:end])
        except BaseException:
            self._child.close()
            raise

    def load(self) -> Measured:
        before_s = self._nginx.server.cpu_s()
        answer = self._child.ask({}, _TIMEOUT_S)
        fetch = Fetch(
            started_s=answer["started_s"],
            total_s=answer["total_s"],
            first_layer_s=answer["total_s"],
            payload_bytes=answer["payload_bytes"],
        )
        return Measured(fetch, self._nginx.server.cpu_s() - before_s, answer["cpu_s"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()
