"""Bodies in S3's `aws-chunked` encoding, decoded as they arrive.

    size in hex[;chunk-signature=…] CRLF  payload CRLF  …  0[;chunk-signature=…] CRLF  [name:value CRLF …] CRLF

Each chunk's signature covers the one before it, the first the request's own. Payload is let go before its signature is
seen, so that memory stays constant: nothing may be published before `finish` has returned.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum, auto
from typing import Any

from objectcache.errors import (
    InvalidArgumentError,
    MalformedTrailerError,
    RequestError,
    SignatureDoesNotMatchError,
    TruncatedBodyError,
)
from objectcache.s3.headers import header

MAX_LINE_BYTES = 512
"""Of a chunk's header, or of one trailer."""
MAX_TRAILERS = 16
TRAILER_SIGNATURE = "x-amz-trailer-signature"

_EMPTY_SHA256 = hashlib.sha256().hexdigest()
_HEADER = re.compile(rb"([0-9a-fA-F]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?")


@dataclass(frozen=True, slots=True)
class ChunkSigning:
    """What it takes to check the signatures of one body's chunks: less than the secret key, good for a day at most."""

    key: bytes = field(repr=False)
    """Derived from the secret for one day, region and service."""
    scope: str
    """`20130524/us-east-1/s3/aws4_request`."""
    timestamp: str
    """The request's x-amz-date."""
    seed: str
    """The signature of the request."""

    def to_map(self) -> dict[str, Any]:
        """For msgpack; `ChunkSigning(**map)` reads it."""
        return asdict(self)

    def chunk(self, previous: str, sha256_hex: str) -> str:
        """The signature of a chunk whose payload has this SHA-256, after a chunk with the signature `previous`."""
        return self._sign("AWS4-HMAC-SHA256-PAYLOAD", previous, _EMPTY_SHA256, sha256_hex)

    def trailer(self, previous: str, trailer: bytes) -> str:
        """The signature of the trailer, as `name:value` lines that each end in a line feed."""
        return self._sign("AWS4-HMAC-SHA256-TRAILER", previous, hashlib.sha256(trailer).hexdigest())

    def _sign(self, kind: str, *parts: str) -> str:
        text = "\n".join((kind, self.timestamp, self.scope, *parts))
        return hmac.digest(self.key, text.encode(), "sha256").hex()


class _At(Enum):
    """What comes next in the body."""

    HEADER = auto()
    PAYLOAD = auto()
    PAYLOAD_END = auto()  # the line end after a chunk's payload
    TRAILER = auto()
    END = auto()


class ChunkedDecoder:
    """Decodes one body of `decoded_bytes` payload bytes. Not for use by two threads.

    With `signing`, every chunk must be signed; a trailer too, if `trailers` names any. `trailers` are the names (lower
    case) announced in x-amz-trailer.
    """

    def __init__(
        self, decoded_bytes: int, *, signing: ChunkSigning | None = None, trailers: Collection[str] = ()
    ) -> None:
        self._expected_bytes = decoded_bytes
        self._signing = signing
        self._announced = frozenset(trailers)
        self._at = _At.HEADER
        self._line = b""  # the beginning of a line whose end has not come yet
        self._decoded_bytes = 0
        self._chunk_left_bytes = 0
        self._chunk_hash = hashlib.sha256()
        self._chunk_signature = ""
        self._previous = signing.seed if signing else ""
        self._trailers: dict[str, str] = {}
        self._trailer_signature = ""
        self._saw_empty_line = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[memoryview]:
        """The payload in `data`, as views of it.

        Raises RequestError (no aws-chunked encoding, or something after its end), SignatureDoesNotMatchError,
        TruncatedBodyError (more payload than announced) and MalformedTrailerError. After an error there is no going on.
        """
        view = memoryview(data)
        pieces = []
        position = 0
        while position < len(view):
            if self._at is _At.PAYLOAD:
                piece = view[position : position + self._chunk_left_bytes]
                position += len(piece)
                self._take_payload(piece)
                pieces.append(piece)
            elif self._at is _At.END:
                raise RequestError(f"{len(view) - position} bytes follow the end of the chunked body")
            else:
                position = self._take_line(view, position)
        return pieces

    def finish(self) -> Mapping[str, str]:
        """The trailers by lower-case name, once the body has ended.

        Raises TruncatedBodyError (it ends too early, or holds less than announced), MalformedTrailerError (a trailer
        that was announced is missing) and SignatureDoesNotMatchError.
        """
        # Some clients leave out the empty line at the end, where nothing can be missing but it.
        complete = bool(self._trailers) and not self._missing()
        if self._at is _At.TRAILER and not self._line and (complete or self._saw_empty_line):
            self._end()
        if self._at is not _At.END:
            raise TruncatedBodyError(f"the chunked body ends early, after {self._decoded_bytes} bytes of payload")
        return self._trailers

    # -- lines

    def _take_line(self, view: memoryview, position: int) -> int:
        """Takes a line, or as much of it as there is, and returns the position after it."""
        rest = bytes(view[position : position + MAX_LINE_BYTES + 1 - len(self._line)])
        length = rest.find(b"\n") + 1
        self._line += rest[:length] if length else rest
        if len(self._line) > MAX_LINE_BYTES:
            raise RequestError(f"a line of the chunked body is longer than {MAX_LINE_BYTES} bytes")
        if length:
            line, self._line = self._line, b""
            self._take_whole_line(line)
        return position + (length or len(rest))

    def _take_whole_line(self, line: bytes) -> None:
        if self._at is _At.TRAILER:
            self._take_trailer(line.strip())
        elif not line.endswith(b"\r\n"):
            raise RequestError("a line of the chunked body does not end in CRLF")
        elif self._at is _At.HEADER:
            self._take_header(line[:-2])
        elif line != b"\r\n":
            raise RequestError("a chunk is longer than its header says")
        else:
            self._at = _At.HEADER

    # -- chunks

    def _take_header(self, line: bytes) -> None:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise RequestError("a chunk of the body begins with neither a size nor a size and chunk-signature")
        if self._signing is not None and found[2] is None:
            raise SignatureDoesNotMatchError("a chunk of the body is not signed")
        self._chunk_left_bytes = int(found[1], 16)
        self._chunk_signature = (found[2] or b"").decode()
        self._chunk_hash = hashlib.sha256()
        if self._decoded_bytes + self._chunk_left_bytes > self._expected_bytes:
            raise TruncatedBodyError(f"the body holds more than the {self._expected_bytes} bytes that were announced")
        if self._chunk_left_bytes:
            self._at = _At.PAYLOAD
            return
        self._check_chunk()
        if self._decoded_bytes != self._expected_bytes:
            raise TruncatedBodyError(
                f"the body holds {self._decoded_bytes} of the {self._expected_bytes} bytes that were announced"
            )
        self._at = _At.TRAILER

    def _take_payload(self, piece: memoryview) -> None:
        if self._signing is not None:
            self._chunk_hash.update(piece)
        self._decoded_bytes += len(piece)
        self._chunk_left_bytes -= len(piece)
        if not self._chunk_left_bytes:
            self._check_chunk()
            self._at = _At.PAYLOAD_END

    def _check_chunk(self) -> None:
        if self._signing is None:
            return
        expected = self._signing.chunk(self._previous, self._chunk_hash.hexdigest())
        if not hmac.compare_digest(expected, self._chunk_signature):
            raise SignatureDoesNotMatchError(
                f"the chunk that ends at byte {self._decoded_bytes} is not what its signature says"
            )
        self._previous = expected

    # -- the trailer

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            # Before the trailer's signature some clients send an empty line, too.
            self._saw_empty_line = True
            if not self._signs_trailer() or self._trailer_signature:
                self._end()
            return
        try:
            name, colon, value = line.decode("ascii").partition(":")
        except UnicodeDecodeError:
            name = colon = value = ""
        name, value = name.strip().lower(), value.strip()
        if not colon or name in self._trailers or len(self._trailers) >= MAX_TRAILERS:
            raise MalformedTrailerError("what follows the last chunk is not a list of different `name:value` lines")
        if name == TRAILER_SIGNATURE:
            self._trailer_signature = value
        elif name in self._announced:
            self._trailers[name] = value
        else:
            raise MalformedTrailerError(f"the trailer {name!r} was not announced in x-amz-trailer")

    def _signs_trailer(self) -> bool:
        return self._signing is not None and bool(self._announced)

    def _missing(self) -> list[str]:
        signature = [TRAILER_SIGNATURE] if self._signs_trailer() and not self._trailer_signature else []
        return sorted(self._announced - self._trailers.keys()) + signature

    def _end(self) -> None:
        missing = self._missing()
        if missing:
            raise MalformedTrailerError(f"the trailer {missing[0]!r} was announced, but did not come")
        if self._signing is not None and self._signs_trailer():
            trailer = "".join(f"{name}:{value}\n" for name, value in self._trailers.items())
            expected = self._signing.trailer(self._previous, trailer.encode())
            if not hmac.compare_digest(expected, self._trailer_signature):
                raise SignatureDoesNotMatchError("the trailer is not what its signature says")
        self._at = _At.END


def decoded_length_bytes(headers: Mapping[str, str]) -> int:
    """The length in x-amz-decoded-content-length, which a chunked body must come with. Raises InvalidArgumentError."""
    text = header(headers, "x-amz-decoded-content-length") or ""
    if not re.fullmatch(r"[0-9]{1,16}", text):
        raise InvalidArgumentError(f"a chunked body needs its length in x-amz-decoded-content-length, not {text!r}")
    return int(text)
