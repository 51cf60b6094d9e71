"""What a body's digests should be, and whether they are.

Two things are compared with: what the request announces (Content-MD5, one x-amz-checksum-…, ahead or in the trailer)
and the SHA-256 that its signature covers. Pieces of 1 MiB and more let other threads run while they are hashed.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from objectcache.errors import (
    BadDigestError,
    ContentSHA256MismatchError,
    InvalidDigestError,
    MalformedTrailerError,
    RequestError,
)
from objectcache.s3.headers import header, lowered

ALGORITHMS = {"crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32}
"""Those of x-amz-checksum-…, each with the bytes of its digest."""

_PREFIX = "x-amz-checksum-"
_NOT_VALUES = frozenset({"x-amz-checksum-algorithm", "x-amz-checksum-mode", "x-amz-checksum-type"})


class _Hash(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A CRC with hashlib's interface."""

    def __init__(self, advance: Callable[[bytes | bytearray | memoryview, int], int], size_bytes: int) -> None:
        self._advance = advance
        self._size_bytes = size_bytes
        self._value = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._value = self._advance(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size_bytes, "big")


@dataclass(frozen=True, slots=True)
class AnnouncedChecksums:
    """What a request says of its body's digests."""

    md5: bytes | None = None
    algorithm: str | None = None
    """One of ALGORITHMS; None: no x-amz-checksum-… comes."""
    value: bytes | None = None
    """Its digest; None, where there is an `algorithm`: it follows in the trailer."""

    @property
    def trailers(self) -> tuple[str, ...]:
        """The names of the trailers to come, for ChunkedDecoder."""
        return (_PREFIX + self.algorithm,) if self.algorithm and self.value is None else ()


def announced_checksums(headers: Mapping[str, str]) -> AnnouncedChecksums:
    """Raises InvalidDigestError (Content-MD5 is none) and RequestError (unknown, malformed, or more than one)."""
    ahead = [
        (name.removeprefix(_PREFIX), value.strip())
        for name, value in lowered(headers)
        if name.startswith(_PREFIX) and name not in _NOT_VALUES
    ]
    trailer = header(headers, "x-amz-trailer")
    trailing = [name.strip().lower() for name in trailer.split(",")] if trailer else []
    if any(not name.startswith(_PREFIX) for name in trailing):
        raise RequestError(f"x-amz-trailer may name one of {_PREFIX}{{{','.join(ALGORITHMS)}}}, not {trailer!r}")
    named = [*(name for name, _ in ahead), *(name.removeprefix(_PREFIX) for name in trailing)]
    if len(named) > 1:
        raise RequestError(f"one x-amz-checksum-… header or trailer is allowed, not {len(named)}: {', '.join(named)}")
    algorithm = named[0] if named else None
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise RequestError(f"checksums by {algorithm} are not known here, use one of {', '.join(ALGORITHMS)}")
    wanted = header(headers, "x-amz-sdk-checksum-algorithm")
    if wanted is not None and wanted.lower() != algorithm:
        raise RequestError(f"x-amz-sdk-checksum-algorithm is {wanted}, but no {_PREFIX}{wanted.lower()} comes with it")
    value = _checksum(ahead[0][1], algorithm) if algorithm and ahead else None
    return AnnouncedChecksums(_content_md5(header(headers, "content-md5")), algorithm, value)


class Checksums:
    """The digests of one body, piece by piece. `also` names algorithms to compute besides those announced.

    `content_sha256` (hex): the digest that the signature covers, or "" where it covers none.
    """

    def __init__(self, announced: AnnouncedChecksums, *, content_sha256: str = "", also: Iterable[str] = ()) -> None:
        self._announced = announced
        self._content_sha256 = content_sha256.lower()
        names = {*also}
        names |= {"md5"} if announced.md5 is not None else set()
        names |= {announced.algorithm} if announced.algorithm is not None else set()
        names |= {"sha256"} if content_sha256 else set()
        self._hashes = {name: _new(name) for name in sorted(names)}

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        for state in self._hashes.values():
            state.update(piece)

    def digest(self, algorithm: str) -> bytes:
        """Of what came so far, by an algorithm that was announced or asked for."""
        return self._hashes[algorithm].digest()

    def encoded(self, algorithm: str) -> str:
        """The same as S3 writes it: in base64."""
        return b64encode(self.digest(algorithm)).decode()

    def verify(self, trailers: Mapping[str, str] | None = None) -> None:
        """Returns if the whole body is what was announced. `trailers`: what ChunkedDecoder.finish returned.

        Raises ContentSHA256MismatchError, BadDigestError, MalformedTrailerError (no trailer where one was announced)
        and RequestError (it is no checksum).
        """
        if self._content_sha256 and self.digest("sha256").hex() != self._content_sha256:
            raise ContentSHA256MismatchError(
                f"the body's SHA-256 is {self.digest('sha256').hex()}, x-amz-content-sha256 is {self._content_sha256}"
            )
        if self._announced.md5 is not None:
            self._compare("Content-MD5", "md5", self._announced.md5)
        algorithm, value = self._announced.algorithm, self._announced.value
        if algorithm is None:
            return
        if value is None:
            text = (trailers or {}).get(_PREFIX + algorithm)
            if text is None:
                raise MalformedTrailerError(f"the trailer {_PREFIX}{algorithm} was announced, but did not come")
            value = _checksum(text, algorithm)
        self._compare(_PREFIX + algorithm, algorithm, value)

    def _compare(self, name: str, algorithm: str, expected: bytes) -> None:
        if not hmac.compare_digest(self.digest(algorithm), expected):
            raise BadDigestError(
                f"{name} is {b64encode(expected).decode()}, but the body that arrived has {self.encoded(algorithm)}"
            )


def _new(algorithm: str) -> _Hash:
    if algorithm == "crc32":
        return _Crc(zlib.crc32, ALGORITHMS[algorithm])
    if algorithm in ("crc32c", "crc64nvme"):
        from awscrt import checksums  # 45 ms to import, and not all bodies need it

        return _Crc(getattr(checksums, algorithm), ALGORITHMS[algorithm])
    return hashlib.new(algorithm, usedforsecurity=False)


def _checksum(text: str, algorithm: str) -> bytes:
    value = _base64(text)
    if value is None or len(value) != ALGORITHMS[algorithm]:
        raise RequestError(f"{_PREFIX}{algorithm} must be {ALGORITHMS[algorithm]} bytes in base64, not {text!r}")
    return value


def _content_md5(text: str | None) -> bytes | None:
    if text is None:
        return None
    value = _base64(text)
    if value is None or len(value) != hashlib.md5(usedforsecurity=False).digest_size:
        raise InvalidDigestError(f"Content-MD5 must be 16 bytes in base64, not {text!r}")
    return value


def _base64(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return None
