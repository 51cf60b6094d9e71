"""Bodies of plain objects, from a socket, decoded and checked as they come."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from objectcache.errors import EntityTooLargeError, GatewayUnavailableError, TruncatedBodyError
from objectcache.s3 import AnnouncedChecksums, Checksums, ChunkedDecoder, ChunkSigning
from objectcache.transports.sockets import recv_exact

MAX_OBJECT_BYTES = 5 << 30
"""Of one PUT or copy, as S3 has it; multipart uploads go beyond."""
MAX_UNANNOUNCED_BYTES = 64 << 20
"""Of one whose length is not told: so much room is made for it ahead."""
BODY_FRAME = Struct("<I")
"""Before each piece of a body without a length: the piece's bytes; 0 at the end."""
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class BodySpec:
    """How a body comes and what it must be. `decoded_bytes` is its length without `aws-chunked` around it.

    None: not known before its end. `content_sha256` (hex) is what a signature covers, "" for nothing.
    """

    decoded_bytes: int | None
    wire_bytes: int | None
    chunked: bool = False
    signing: ChunkSigning | None = None
    announced: AnnouncedChecksums = field(default_factory=AnnouncedChecksums)
    content_sha256: str = ""

    def to_wire(self) -> dict[str, Any]:
        announced = self.announced
        return {
            "decoded_bytes": self.decoded_bytes,
            "wire_bytes": self.wire_bytes,
            "chunked": self.chunked,
            "signing": None if self.signing is None else self.signing.to_map(),
            "announced": [announced.md5, announced.algorithm, announced.value],
            "content_sha256": self.content_sha256,
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> BodySpec:
        signing = data["signing"]
        return cls(
            data["decoded_bytes"],
            data["wire_bytes"],
            data["chunked"],
            None if signing is None else ChunkSigning(**signing),
            AnnouncedChecksums(*data["announced"]),
            data["content_sha256"],
        )


class CheckedBody:
    """One body on its way through. Feed what arrives to `take`, and `finish`; digests are there afterwards."""

    def __init__(self, spec: BodySpec) -> None:
        self._spec = spec
        self._trailers: Mapping[str, str] = {}
        self._decoder = (
            ChunkedDecoder(spec.decoded_bytes, signing=spec.signing, trailers=spec.announced.trailers)
            if spec.chunked and spec.decoded_bytes is not None
            else None
        )
        self._checksums = Checksums(spec.announced, content_sha256=spec.content_sha256, also=("md5",))
        self._taken_bytes = 0

    def take(self, data: memoryview) -> Iterator[memoryview]:
        """The payload in `data`. Raises RequestError and its kinds."""
        for piece in [data] if self._decoder is None else self._decoder.feed(data):
            self._taken_bytes += len(piece)
            if self._taken_bytes > MAX_OBJECT_BYTES:
                raise EntityTooLargeError(f"one PUT carries at most {MAX_OBJECT_BYTES} bytes: use a multipart upload")
            if self._spec.decoded_bytes is None and self._taken_bytes > MAX_UNANNOUNCED_BYTES:
                raise EntityTooLargeError(f"a body of more than {MAX_UNANNOUNCED_BYTES} bytes needs a Content-Length")
            if self._spec.decoded_bytes is not None and self._taken_bytes > self._spec.decoded_bytes:
                raise TruncatedBodyError(f"the body is longer than the {self._spec.decoded_bytes} bytes announced")
            self._checksums.update(piece)
            yield piece

    def finish(self) -> None:
        """Raises what is wrong with the whole: TruncatedBodyError, BadDigestError, SignatureDoesNotMatchError, …"""
        if self._decoder is not None:
            self._trailers = self._decoder.finish()
        elif self._spec.decoded_bytes not in (None, self._taken_bytes):
            raise TruncatedBodyError(f"{self._taken_bytes} of {self._spec.decoded_bytes} bytes of the body arrived")
        self._checksums.verify(self._trailers)

    @property
    def md5_hex(self) -> str:
        return self._checksums.digest("md5").hex()

    @property
    def checksum(self) -> tuple[str, str]:
        """Algorithm and base64 of the checksum that was announced and is right; ("", "") where none was."""
        algorithm = self._spec.announced.algorithm
        return ("", "") if algorithm is None else (algorithm, self._checksums.encoded(algorithm))


def read_pieces(sock: socket.socket, spec: BodySpec) -> Iterator[memoryview]:
    """What arrives on the wire, each piece valid until the next. A body without a length comes in frames.

    Raises TruncatedBodyError.
    """
    if spec.wire_bytes is not None:
        yield from _exactly(sock, spec.wire_bytes)
        return
    head = memoryview(bytearray(BODY_FRAME.size))
    while True:
        _fill(sock, head)
        size_bytes = BODY_FRAME.unpack(head)[0]
        if not size_bytes:
            return
        yield from _exactly(sock, size_bytes)


def _exactly(sock: socket.socket, size_bytes: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(size_bytes, _PIECE_BYTES)))
    left = size_bytes
    while left:
        piece = buffer[: min(left, len(buffer))]
        _fill(sock, piece)
        yield piece
        left -= len(piece)


def _fill(sock: socket.socket, out: memoryview) -> None:
    try:
        recv_exact(sock, out)
    except GatewayUnavailableError as error:
        raise TruncatedBodyError("the body broke off before its end") from error


def check_whole(data: bytes, spec: BodySpec) -> bytes:
    """The payload of a small body that is in memory. Raises RequestError and its kinds."""
    body = CheckedBody(spec)
    payload = b"".join(body.take(memoryview(data)))
    body.finish()
    return payload
