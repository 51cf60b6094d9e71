"""One segment on its way to a gateway, layer by layer, over a connection of its own."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from objectcache.cache.base import ForeignUpload, SegmentUpload, UploadTicket
from objectcache.client.http import GatewayHttp
from objectcache.client.responses import awaited
from objectcache.errors import GatewayUnavailableError, NamespaceMismatchError, ObjectCacheError
from objectcache.integrity import Buffer
from objectcache.messages import StoreRequest
from objectcache.segment import SegmentHeader, SegmentWriter

STORE_HEADER = "x-kv-store"


class GatewayUpload(SegmentUpload):
    """Not thread-safe."""

    def __init__(self, http_side: GatewayHttp, connection: http.client.HTTPConnection, header: SegmentHeader) -> None:
        self.header = header
        self._http = http_side
        self._connection: http.client.HTTPConnection | None = connection
        self._writer = SegmentWriter(header, self._send)

    @classmethod
    def begin(cls, http_side: GatewayHttp, bucket: str, header: SegmentHeader) -> GatewayUpload | None:
        """None when the gateway has all these chunks already. Raises what it answers."""
        request = StoreRequest(
            segment=header.name,
            namespace=header.namespace,
            group=header.group,
            shard=header.shard,
            leaf=header.leaf,
            first=header.depth,
            stop=header.depth + header.num_chunks,
        )
        connection = http_side.connect()
        try:
            target = f"/{bucket}?kv-store"
            described = {STORE_HEADER: base64.b64encode(request.encode()).decode()}
            connection.putrequest("PUT", target, skip_host=True, skip_accept_encoding=True)
            # The body is not signed: it is not known yet, and has digests of its own.
            for name, value in http_side.endpoint.headers("PUT", target, None, described).items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(header.total_bytes))
            connection.putheader("Expect", "100-continue")
            connection.endheaders()
            response = awaited(connection, "PUT")
            if response is None:
                return cls(http_side, connection, header)
            http_side.check(connection, response, keeps=False)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise GatewayUnavailableError(f"the upload of {header.name} was not answered: {error!r}") from error
        except BaseException:
            connection.close()
            raise
        connection.close()
        return None

    def write_layer(self, data: Buffer) -> None:
        self._writer.write_layer(data)

    def _send(self, data: Buffer) -> None:
        if self._connection is None:
            raise GatewayUnavailableError("the upload is over")
        try:
            self._connection.sock.sendall(data)
        except OSError as error:
            # The gateway may have said why before it hung up.
            self._refused(error)

    def _refused(self, cause: OSError) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        try:
            self._http.check(connection, connection.getresponse(), keeps=False)
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        raise GatewayUnavailableError(f"the upload of {self.header.name} broke off: {cause}") from cause

    def finish(self) -> UploadTicket:
        row_digests = self._writer.finish()
        connection, self._connection = self._connection, None
        assert connection is not None
        try:
            self._http.check(connection, connection.getresponse(), keeps=False)
        except (OSError, http.client.HTTPException) as error:
            raise GatewayUnavailableError(f"the upload of {self.header.name} broke off: {error!r}") from error
        finally:
            connection.close()
        return UploadTicket(self.header, self.header.total_bytes, row_digests)

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class GatewayElsewhere(ForeignUpload):
    """Another process speaks to the gateway itself; `where` is how. The commit comes from here, by name."""

    def __init__(
        self,
        where: Mapping[str, Any],
        bucket: str,
        header: SegmentHeader,
        on_unknown_namespace: Callable[[bytes], None],
    ) -> None:
        self.header = header
        self.recipe = {"kind": "gateway", **where, "bucket": bucket, "header": header.encoded}
        self._on_unknown_namespace = on_unknown_namespace

    def finished(self, row_digests: Sequence[bytes]) -> UploadTicket:
        return UploadTicket(self.header, self.header.total_bytes, tuple(row_digests))

    def close(self, error: ObjectCacheError | None = None) -> None:
        if isinstance(error, NamespaceMismatchError):  # the gateway's store was emptied since
            self._on_unknown_namespace(self.header.namespace)
