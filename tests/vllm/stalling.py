"""A gateway that does nothing any more, and is not gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.gateway.process import GatewayProcess, stopped


@contextmanager
def stalled(gateway: GatewayProcess) -> Iterator[None]:
    """With all of its processes: connections stay open, and nothing comes."""
    with ExitStack() as stack:
        for pid in [gateway.pid, *gateway.worker_pids]:
            stack.enter_context(stopped(pid))
        yield
