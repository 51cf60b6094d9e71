"""Files of the store, mapped and registered: WRITEs go out of the page cache itself, and nothing is copied before."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from objectcache.errors import DeliveryError
from objectcache.pages import FileWindow
from objectcache.transports.nixl.agent import Region
from objectcache.transports.nixl.flights import Flights
from objectcache.transports.shared_memory import MappedFiles, MappedPiece
from objectcache.transports.shared_memory.placements import PlacingBody

log = logging.getLogger(__name__)


class _RegisteredWindow(FileWindow):
    def __init__(self, flights: Flights, descriptor: int, offset: int, length: int) -> None:
        """Raises OSError, and DeliveryError where NIXL will not have it."""
        super().__init__(descriptor, offset, length)
        self._flights = flights
        self._region = Region(self.address, length)
        try:
            flights.ask(lambda agent: agent.register(self._region))
        except DeliveryError:
            super().close()
            raise

    def close(self) -> None:
        self._flights.ask(lambda agent: agent.deregister(self._region))
        super().close()


class RegisteredFiles(MappedFiles):
    """Windows that an agent has registered, as long as they are mapped: as `MappedFiles` keeps them. Thread-safe."""

    def __init__(self, flights: Flights, limit_bytes: int | None = None) -> None:
        super().__init__(limit_bytes)
        self._flights = flights
        self._refused = False

    def _map(self, descriptor: int, offset: int, length: int) -> FileWindow:
        return _RegisteredWindow(self._flights, descriptor, offset, length)

    def hold_next(self, body: PlacingBody, data_bytes: int, stack: ExitStack) -> list[MappedPiece] | None:
        """As `PlacingBody.hold_mapped`; None also where the network takes no memory of files."""
        if self._refused:
            return None
        try:
            return body.hold_mapped(data_bytes, self, stack)
        except DeliveryError as error:
            with self._lock:
                first, self._refused = not self._refused, True
            if first:
                log.warning("files of the store are copied before each WRITE: none can be registered: %s", error)
            return None
