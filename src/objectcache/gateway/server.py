"""Running a gateway until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable

from objectcache.config import GatewayConfig
from objectcache.gateway.app import Gateway

SWITCH_INTERVAL_S = 0.0005


def serve(config: GatewayConfig, on_ready: Callable[[Gateway], None] = lambda gateway: None) -> None:
    """Serve until SIGTERM or SIGINT; drain; return. A second signal ends the drain at once.

    Raises ConfigError, CatalogError, StoreError, OSError when it cannot start.
    """
    asyncio.run(_serve(config, on_ready))


async def _serve(config: GatewayConfig, on_ready: Callable[[Gateway], None]) -> None:
    gateway = Gateway(config)
    stop = asyncio.Event()
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    # Requests are answered on one thread while others list and commit: a waiting request must not wait long.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        await gateway.start()
        gc.freeze()  # what is here now stays: a full collection need not look at it
        on_ready(gateway)
        await stop.wait()
        ways_out = {asyncio.create_task(gateway.drain()), asyncio.create_task(hurry.wait())}
        _, other = await asyncio.wait(ways_out, return_when=asyncio.FIRST_COMPLETED)
        for task in other:
            task.cancel()
        await asyncio.gather(*other, return_exceptions=True)
    finally:
        await gateway.close()
