"""The storing side of a gateway's bucket: this client's own segment names, and namespaces that the gateway knows."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from objectcache.cache.base import ForeignUpload, PartId, SegmentUpload, UploadTicket, group_chain
from objectcache.client.http import GatewayHttp
from objectcache.client.upload import GatewayElsewhere, GatewayUpload
from objectcache.errors import NamespaceMismatchError
from objectcache.keys import KeyChain, Namespace
from objectcache.messages import CommitRequest
from objectcache.names import segment_name
from objectcache.segment import SegmentHeader


class GatewayStoring:
    """Begins uploads and commits them. Thread-safe."""

    def __init__(self, http: GatewayHttp, bucket: str, where: Mapping[str, Any]) -> None:
        """`where`: how another process reaches the gateway, as for `GatewayElsewhere`."""
        self._http = http
        self._bucket = bucket
        self._where = where
        self._writer = f"c-{secrets.token_hex(12)}"
        self._segments = itertools.count()
        self._registered: set[bytes] = set()

    def begin(
        self, namespace: Namespace, chain: KeyChain, part: PartId, first: int, stop: int | None
    ) -> SegmentUpload | None:
        """None: all of it is covered."""
        header = self._header(namespace, chain, part, first, stop)
        try:
            return GatewayUpload.begin(self._http, self._bucket, header)
        except NamespaceMismatchError:
            self._register(namespace)  # the gateway's store was emptied since
            return GatewayUpload.begin(self._http, self._bucket, header)

    def elsewhere(
        self, namespace: Namespace, chain: KeyChain, part: PartId, first: int, stop: int | None
    ) -> ForeignUpload:
        header = self._header(namespace, chain, part, first, stop)
        return GatewayElsewhere(self._where, self._bucket, header, self._registered.discard)

    def commit(self, tickets: Sequence[UploadTicket], discard: Sequence[UploadTicket]) -> None:
        names = [tuple(ticket.header.name for ticket in which) for which in (tickets, discard)]
        self._request("POST", "kv-commit", CommitRequest(names[0], names[1]).encode())

    def _header(
        self, namespace: Namespace, chain: KeyChain, part: PartId, first: int, stop: int | None
    ) -> SegmentHeader:
        """Of a new segment, in a namespace that the gateway knows."""
        keys = group_chain(namespace, chain, part.group)
        header = SegmentHeader.for_layout(
            namespace.layout,
            name=segment_name(self._writer, next(self._segments)),
            namespace=namespace.digest,
            group=part.group,
            shard=part.shard,
            chain=keys,
            first=first,
            stop=len(keys) if stop is None else stop,
        )
        if namespace.digest not in self._registered:
            self._register(namespace)
        return header

    def _register(self, namespace: Namespace) -> None:
        self._request("PUT", "kv-namespace", namespace.to_json())
        self._registered.add(namespace.digest)

    def _request(self, method: str, resource: str, body: bytes) -> None:
        self._http.request(method, f"/{self._bucket}?{resource}", body)
