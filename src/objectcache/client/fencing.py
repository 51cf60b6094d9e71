"""Done about deliveries in the background: cancelling them, so that memory can be used again; reporting damage."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from objectcache.cache.destination import Destination
from objectcache.client.http import GatewayHttp
from objectcache.client.session import DataSession
from objectcache.descriptor import Descriptor
from objectcache.errors import ObjectCacheError
from objectcache.messages import CancelAnswer, CancelRequest, MatchAndRetrieveRequest

CUT_S = 2.0
"""How long what was cut may take to let go."""

Asked = Descriptor | MatchAndRetrieveRequest
"""What names a delivery."""

log = logging.getLogger(__name__)


class Fencer:
    """Carries out cancellations: tells the gateway, and cuts connections that do not let go in time."""

    def __init__(self, bucket: str, fence_s: float) -> None:
        self._bucket = bucket
        self._fence_s = fence_s
        self._executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="fence")

    def fence(self, session: DataSession, asked: Asked, destination: Destination) -> None:
        """Stop writing at once where that can be decided here; the rest in the background."""
        session.receivers.cancel(asked.delivery, asked.epoch)
        try:
            self._executor.submit(self._fence, session, asked, destination)
        except RuntimeError:  # the cache is closed, and with it its connections
            session.receivers.cut()

    def _fence(self, session: DataSession, asked: Asked, destination: Destination) -> None:
        try:
            if not session.dead:
                body = CancelRequest(session.id, asked.delivery, asked.epoch, self._fence_s).encode()
                path = f"/{self._bucket}?kv-delivery"
                CancelAnswer.decode(session.http.request("DELETE", path, body, timeout_s=2 * self._fence_s))
        except ObjectCacheError as error:
            log.info("delivery %d could not be cancelled: %s", asked.delivery, error)
        if not destination.wait_fenced(self._fence_s):
            log.warning("delivery %d hangs in a frame: cutting its connections", asked.delivery)
            session.receivers.cut()
            if not destination.wait_fenced(CUT_S):
                session.receivers.kill()

    def report_damage(self, http: GatewayHttp, descriptor: Descriptor) -> None:
        """Tell the gateway that what arrived was not what was committed, in the background: it looks for itself."""
        body = replace(descriptor, lease=b"").encode()

        def report() -> None:
            try:
                http.request("POST", f"/{self._bucket}?kv-damage", body)
            except ObjectCacheError as error:
                log.info("damage could not be reported: %s", error)

        with suppress(RuntimeError):  # the cache is closed
            self._executor.submit(report)

    def close(self) -> None:
        self._executor.shutdown(wait=False)
