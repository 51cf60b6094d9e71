"""The last cap goes while the rates process is deciding."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path
from types import SimpleNamespace

from objectcache.config import GatewayConfig
from objectcache.gateway.bandwidth import Bandwidth
from objectcache.workers.board import Board
from objectcache.workers.pool import WorkerPool
from objectcache.workers.rates_process import RatesProcess

SLOT = 5


class Deciding(RatesProcess):
    """As one that pauses a delivery once more before it sees that it is to end."""

    def __init__(self, descriptor: int, board: Board) -> None:
        super().__init__(descriptor, board, lambda: None)
        self._shared = board

    async def stop(self) -> None:
        self._shared.rates[SLOT] = 0.0


def test_what_it_decides_at_last_does_not_stay(tmp_path: Path) -> None:
    async def change() -> float:
        bandwidth = Bandwidth(GatewayConfig(tmp_path), WorkerPool(1))
        await bandwidth.change({"gateway": 0.0})
        await bandwidth.stop()
        board = bandwidth.board
        assert board is not None
        bandwidth._process = Deciding(bandwidth._descriptor, board)
        bandwidth._running[1] = SimpleNamespace(slot=SLOT, links=("gateway",))  # type: ignore[assignment]
        await bandwidth.change({"gateway": None})
        rate = board.rates[SLOT]
        bandwidth.close()
        return rate

    assert asyncio.run(change()) == inf
