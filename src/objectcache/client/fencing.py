"""Carrying out cancellations, so that destinations can be used again."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

from objectcache.cache.destination import Destination
from objectcache.client.session import DataSession
from objectcache.descriptor import Descriptor
from objectcache.errors import ObjectCacheError
from objectcache.messages import CancelAnswer, CancelRequest

log = logging.getLogger(__name__)


class Fencer:
    """Carries out cancellations: tells the gateway, and cuts connections that do not let go in time."""

    def __init__(self, bucket: str, fence_s: float) -> None:
        self._bucket = bucket
        self._fence_s = fence_s
        self._executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="fence")

    def fence(self, session: DataSession, descriptor: Descriptor, destination: Destination) -> None:
        """Stop writing at once where that can be decided here; the rest in the background."""
        session.receivers.cancel(descriptor.delivery, descriptor.epoch)
        try:
            self._executor.submit(self._fence, session, descriptor, destination)
        except RuntimeError:  # the cache is closed, and with it its connections
            session.receivers.cut()

    def _fence(self, session: DataSession, descriptor: Descriptor, destination: Destination) -> None:
        try:
            if not session.dead:
                body = CancelRequest(session.id, descriptor.delivery, descriptor.epoch, self._fence_s).encode()
                path = f"/{self._bucket}?kv-delivery"
                CancelAnswer.decode(session.http.request("DELETE", path, body, timeout_s=2 * self._fence_s))
        except ObjectCacheError as error:
            log.info("delivery %d could not be cancelled: %s", descriptor.delivery, error)
        if not destination.wait_fenced(self._fence_s):
            log.warning("delivery %d hangs in a frame: cutting its connections", descriptor.delivery)
            session.receivers.cut()

    def close(self) -> None:
        self._executor.shutdown(wait=False)
