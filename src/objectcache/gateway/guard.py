"""Who asks, and what they may: signatures, access keys, and bodies that are what was signed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from aiohttp import hdrs, web

from objectcache.config import DEFAULT_KEYS_FILE, GatewayConfig
from objectcache.errors import AccessDeniedError, ConfigError, MissingContentLengthError
from objectcache.s3 import (
    AccessKeys,
    AnnouncedChecksums,
    ChunkSigning,
    Grant,
    PayloadKind,
    announced_checksums,
    decoded_length_bytes,
    parse_authorization,
    unsigned_payload_kind,
    verify,
)
from objectcache.workers.bodies import BodySpec, check_whole


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of one request, authenticated; `access_key` is "" for nobody in particular."""

    access_key: str
    guard: Guard
    payload: PayloadKind
    content_sha256: str = ""
    signing: ChunkSigning | None = None

    def may(self, bucket: str, wanted: Grant) -> bool:
        grant = self.guard.grant(self.access_key, bucket)
        return grant is not None and grant >= wanted

    def secret(self) -> str | None:
        """The access key's, as it is now; None: there is none."""
        return self.guard.secret(self.access_key)

    @property
    def is_stranger(self) -> bool:
        """Not signed, where that gives no access to anything."""
        return not self.access_key and self.guard.grant("", "") is None

    def require(self, bucket: str, wanted: Grant) -> None:
        """Raises AccessDeniedError."""
        if not self.may(bucket, wanted):
            who = f"access key {self.access_key}" if self.access_key else "a request that is not signed"
            raise AccessDeniedError(f"{who} has no {wanted.name.lower()} access to bucket {bucket!r}")

    def body_spec(self, request: web.Request) -> BodySpec:
        """How the request's body comes, and what it must be. Raises MissingContentLengthError, RequestError."""
        headers = request.headers
        chunked = "chunked" in headers.get(hdrs.TRANSFER_ENCODING, "").lower()
        wire_bytes = None if chunked else request.content_length
        if self.payload.is_chunked:
            decoded_bytes: int | None = decoded_length_bytes(headers)
        else:
            if wire_bytes is None and not chunked:
                raise MissingContentLengthError("a body needs a Content-Length")
            decoded_bytes = wire_bytes
        return BodySpec(
            decoded_bytes,
            wire_bytes,
            self.payload.is_chunked,
            self.signing,
            announced_checksums(headers),
            self.content_sha256 if self.payload is PayloadKind.HASH else "",
        )

    async def checked_body(self, request: web.Request, *, checksums: bool = True) -> bytes:
        """A small body, whole. Raises what is wrong with it."""
        data = await request.read()
        says_more = checksums and _says_of_body(request.headers)
        if not says_more and self._is_plainly(data):
            return data
        spec = BodySpec(
            decoded_length_bytes(request.headers) if self.payload.is_chunked else len(data),
            len(data),
            self.payload.is_chunked,
            self.signing,
            announced_checksums(request.headers) if says_more else AnnouncedChecksums(),
            self.content_sha256 if self.payload is PayloadKind.HASH else "",
        )
        return check_whole(data, spec)

    def _is_plainly(self, data: bytes) -> bool:
        """Whether a body as most are, with nothing around it, is what was signed."""
        if self.payload is PayloadKind.HASH:
            return sha256(data).hexdigest() == self.content_sha256.lower()
        return self.payload is PayloadKind.UNSIGNED


def _says_of_body(headers: Mapping[str, str]) -> bool:
    return any(name.lower().startswith(("x-amz-checksum-", "x-amz-trailer", "content-md5")) for name in headers)


class Guard:
    """`keys` None: nobody signs. `anonymous` is what requests without a signature may do in any bucket."""

    def __init__(self, keys: AccessKeys | None, anonymous: Grant | None) -> None:
        self._keys = keys
        self._anonymous = anonymous

    def grant(self, access_key: str, bucket: str) -> Grant | None:
        if not access_key or self._keys is None:
            return self._anonymous
        return max(filter(None, (self._keys.grant(access_key, bucket), self._anonymous)), default=None)

    def secret(self, access_key: str) -> str | None:
        return self._keys.secret(access_key) if self._keys and access_key else None

    def admit(self, request: web.Request) -> Caller:
        """Who sent the request. Raises what is wrong with its signature; nothing of the body has been asked for."""
        path, _, query = request.raw_path.partition("?")
        signed = parse_authorization(request.method, path, query, request.headers)
        if signed is None:
            said = request.headers.get("x-amz-content-sha256", "")
            return Caller("", self, unsigned_payload_kind(request.headers), said)
        secret = self._keys.secret(signed.access_key) if self._keys else None
        verify(signed, secret, time.time())
        signing = signed.chunk_signing(secret) if signed.payload.is_signed and secret else None
        return Caller(signed.access_key, self, signed.payload, signed.content_sha256, signing)


class FoundKeys(NamedTuple):
    """`keys` are those of `path`; both None: nobody signs. `made`: there were none, and one was made."""

    keys: AccessKeys | None
    path: Path | None
    made: bool = False


def open_keys(config: GatewayConfig) -> FoundKeys:
    """The configured access keys. Where none are, and strangers may not do everything, a key is made on the first
    start, in `access-keys.toml` in the data directory. Raises ConfigError.
    """
    path = config.access_keys or config.data / DEFAULT_KEYS_FILE
    if config.access_keys is not None or path.exists():
        return FoundKeys(AccessKeys.load(path), path)
    if config.anonymous is Grant.ADMIN:
        return FoundKeys(None, None)
    try:
        config.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{config.data} cannot be made: {error.strerror}") from error
    return FoundKeys(AccessKeys.create(path), path, made=True)
