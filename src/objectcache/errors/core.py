"""The one hierarchy of errors, but for those of S3 requests only (`s3`).

Each class carries the S3-style `code` and HTTP `status` it travels under, so that a gateway turns it into a
response, and a client the response back into the same class, without looking at message text.
"""

from __future__ import annotations

from typing import ClassVar

_BY_CODE: dict[str, type[ObjectCacheError]] = {}


class ObjectCacheError(Exception):
    """Base of everything this package raises on purpose."""

    code: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500

    def __init_subclass__(cls) -> None:
        if "code" in cls.__dict__:
            if cls.code in _BY_CODE:
                raise TypeError(f"error code {cls.code} is taken by {_BY_CODE[cls.code].__name__}")
            _BY_CODE[cls.code] = cls


class ConfigError(ObjectCacheError):
    """A setting or a URL is wrong; the message says what would be right."""

    code = "InvalidConfiguration"
    status = 400


class NotReadyError(ObjectCacheError):
    """What this takes is still being made: the same may be asked again soon."""

    code = "NotReady"
    status = 503


class LayoutError(ObjectCacheError):
    """A KV layout, group or shard that cannot be."""

    code = "InvalidLayout"
    status = 400


# -- stored bytes -----------------------------------------------------------------------------------


class IntegrityError(ObjectCacheError):
    """Stored or delivered bytes are not what their digests, names or lengths say. Always a miss.

    `segment` names the stored segment at fault, where that is known.
    """

    code = "IntegrityError"
    status = 502

    def __init__(self, message: str = "", *, segment: str = "") -> None:
        super().__init__(message)
        self.segment = segment


class NotSupportedError(ObjectCacheError):
    """A feature, or a use of one, that is not there: not in S3 as it is served here, or not in this store."""

    code = "NotImplemented"
    status = 501


class StoreError(ObjectCacheError):
    """Base of what a store can answer."""

    code = "StoreError"
    status = 502


class ObjectNotFoundError(StoreError):
    code = "NoSuchObject"
    status = 404


class PreconditionFailedError(StoreError):
    """A condition that the request made does not hold."""

    code = "PreconditionFailed"
    status = 412


class ObjectExistsError(PreconditionFailedError):
    """`if_absent` was asked for and the name is taken."""


class ObjectChangedError(PreconditionFailedError):
    """`if_match` was asked for and the object has another etag."""


class MetadataError(StoreError):
    """More, or other, metadata than is kept with an object."""

    code = "MetadataTooLarge"
    status = 400


class InvalidObjectNameError(StoreError):
    code = "InvalidObjectName"
    status = 400


class RangeError(StoreError):
    """A read past the end of an object."""

    code = "InvalidRange"
    status = 416


class StoreFullError(StoreError):
    """The byte limit or the disk is reached. Stores are dropped, reads go on."""

    code = "StoreFull"
    status = 507


class StoreUnavailableError(StoreError):
    """The store failed for a reason of its own (I/O error, connection, server error)."""

    code = "StoreUnavailable"
    status = 503


class StoreAccessError(StoreError):
    """The store refuses the credentials it was given, or what they may do."""

    code = "StoreAccessDenied"
    status = 502


class BucketMissingError(StoreError):
    """The bucket that a store's URL names does not exist."""

    code = "StoreBucketMissing"
    status = 502


class CatalogError(ObjectCacheError):
    """The catalog cannot be opened or used as asked."""

    code = "CatalogError"
    status = 500


# -- requests ---------------------------------------------------------------------------------------


class RequestError(ObjectCacheError):
    """A request that is wrong in itself. Nothing was read."""

    code = "InvalidRequest"
    status = 400


class DescriptorError(RequestError):
    """The descriptor is malformed, of an unknown version, or asks for what its layout cannot hold."""

    code = "InvalidDescriptor"
    status = 400


class NamespaceMismatchError(RequestError):
    """The namespace is not known here, or is not the one that the keys belong to."""

    code = "NoSuchNamespace"
    status = 404


class KeyNotFoundError(RequestError):
    """A chunk key, or a part of the chain before it, is not stored (any more)."""

    code = "NoSuchKey"
    status = 404


class SegmentGoneError(KeyNotFoundError):
    """A segment that the catalog knows is not in the store. `segment` names it."""

    code = "NoSuchSegment"

    def __init__(self, message: str = "", *, segment: str = "") -> None:
        super().__init__(message)
        self.segment = segment


class BucketNotFoundError(RequestError):
    code = "NoSuchBucket"
    status = 404


class LeaseExpiredError(RequestError):
    """The lease is unknown or too old: match again."""

    code = "LeaseExpired"
    status = 410


class HeldVersionError(RequestError):
    """What the receiver holds of a prefix is of other segments than those that would be sent: ask for all of it."""

    code = "HeldVersionChanged"
    status = 409


class UploadNotFoundError(RequestError):
    """A commit names an upload that was never finished here, was discarded, or has timed out."""

    code = "NoSuchUpload"
    status = 404


class SessionNotFoundError(RequestError):
    """The data session is unknown (the gateway restarted, or the session idled out): open a new one."""

    code = "NoSuchSession"
    status = 404


class DataConnectionsRefusedError(RequestError):
    """This gateway opens no data connections, which have no TLS: take KV from HTTP responses."""

    code = "DataConnectionsRefused"
    status = 403


class SharedMemoryRefusedError(RequestError):
    """KV cannot be placed in the client's memory: not by this gateway, not from this host, not for this user, or not
    in memory like that."""

    code = "SharedMemoryRefused"
    status = 403


class NixlRefusedError(RequestError):
    """KV cannot be written to the client's registered memory: this gateway has no NIXL, or no use for what was
    registered."""

    code = "NixlRefused"
    status = 403


class BadDigestError(RequestError):
    """An uploaded body is not what its own digests say."""

    code = "BadDigest"
    status = 400


class TruncatedBodyError(RequestError):
    """The body ended before the length that was announced."""

    code = "IncompleteBody"
    status = 400


class DrainingError(ObjectCacheError):
    """The gateway is shutting down, or too busy; ask another or come back."""

    code = "SlowDown"
    status = 503


# -- deliveries -------------------------------------------------------------------------------------


class DeliveryError(ObjectCacheError):
    """A delivery ended without all its layers. What had landed before is good."""

    code = "DeliveryFailed"
    status = 502


class DeliveryTimeoutError(DeliveryError):
    """A layer did not land before its deadline: late, which is neither absent nor failed."""

    code = "RequestTimeout"
    status = 504


class DeliveryCancelledError(DeliveryError):
    """The delivery was cancelled by its receiver."""

    code = "DeliveryCancelled"
    status = 409


class GatewayUnavailableError(ObjectCacheError):
    """The gateway could not be reached, or hung up."""

    code = "GatewayUnavailable"
    status = 503


class BufferPoolExhaustedError(ObjectCacheError):
    """No destination memory is free: all of it is in use or in quarantine."""

    code = "BufferPoolExhausted"
    status = 503


def error_from_code(code: str, message: str, status: int = 500) -> ObjectCacheError:
    """The error a gateway meant by `code`; unknown codes become the base class."""
    found = _BY_CODE.get(code)
    if found is None:
        return ObjectCacheError(f"{code} (HTTP {status}): {message}")
    return found(message)
