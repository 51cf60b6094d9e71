"""Frames: how layers travel on a byte stream, whatever carries it.

A frame is a 64-byte header, then `extra` digests, then data. DATA frames carry (a part of) one span of one layer;
spans are verified as one, so every span says its digests. A frame is at most 1 MiB. END, CANCELLED and ERROR are the
last of a delivery on their stream: nothing more of it follows there.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

import msgpack

from objectcache.errors import DeliveryError, ObjectCacheError, error_from_code
from objectcache.integrity import Buffer

FRAME_MAGIC = b"OCF1"
MAX_FRAME_BYTES = 1 << 20
_FRAME = Struct("<4sBBHQIHHIIIII16s4x")
FRAME_HEADER_BYTES = _FRAME.size
MAX_EXTRA_DIGESTS = 0xFFFF
MAX_CONTROL_BYTES = 1 << 16

PIECE = 1
"""Flag: the digest is of the whole span (a piece), not of single slices."""
PREFAULTED = 2
"""Flag of a hello that brings memory: all of its pages are there."""


class FrameType(IntEnum):
    DATA = 1
    END = 2
    CANCELLED = 3
    ERROR = 4
    CREDIT = 5  # from the receiver: so many bytes may be sent, counted from the start (see `credit_frame`)
    HELLO = 6  # from the receiver: this connection is stripe `first_chunk` of the session in `digest`
    PLACED = 7  # as DATA, but the data is in the receiver's memory already (see `Frame`)


class Frame(NamedTuple):
    """One frame's header.

    `first_chunk` and `num_chunks` are the span's, counted within the part's destination; `span_offset` is where in
    the span this frame's data begins. `digest` is the piece's, or the first slice's, whose `extra` others follow.

    A PLACED frame is of one or several whole spans: `first_chunk`, `num_chunks` and `data_bytes` are of all of them,
    and no data follows. `span_offset` says how many chunks each digest is of (1: of slices); the last may be of fewer.
    """

    type: FrameType
    delivery: int
    epoch: int
    flags: int = 0
    extra: int = 0
    part: int = 0
    layer: int = 0
    first_chunk: int = 0
    num_chunks: int = 0
    data_bytes: int = 0
    span_offset: int = 0
    unit: int = 0
    digest: bytes = bytes(16)

    def encode(self) -> bytes:
        return _FRAME.pack(
            FRAME_MAGIC,
            self.type,
            self.flags,
            self.extra,
            self.delivery,
            self.epoch,
            self.part,
            self.layer,
            self.first_chunk,
            self.num_chunks,
            self.data_bytes,
            self.span_offset,
            self.unit,
            self.digest,
        )


_TYPES = {int(kind): kind for kind in FrameType}


def decode_frame(header: Buffer) -> Frame:
    """The frame that 64 bytes encode. Raises DeliveryError when they are none, or too large."""
    magic, kind, flags, extra, delivery, epoch, part, layer, first, num, data, offset, unit, digest = _FRAME.unpack(
        header
    )
    known = _TYPES.get(kind)
    if magic != FRAME_MAGIC or known is None:
        raise DeliveryError(f"the stream is out of step: {bytes(header[:8])!r} does not begin a frame")
    if data > MAX_FRAME_BYTES and known not in (FrameType.CREDIT, FrameType.PLACED):
        raise DeliveryError(f"a frame of {data} bytes is beyond the limit of {MAX_FRAME_BYTES}")
    return Frame(known, delivery, epoch, flags, extra, part, layer, first, num, data, offset, unit, digest)


def error_frame(delivery: int, epoch: int, error: ObjectCacheError) -> bytes:
    """An ERROR frame with its payload."""
    payload = msgpack.packb({"code": error.code, "message": str(error)[:4096], "status": error.status})
    return Frame(FrameType.ERROR, delivery, epoch, data_bytes=len(payload)).encode() + bytes(payload)


def decode_error(payload: Buffer) -> ObjectCacheError:
    try:
        fields = msgpack.unpackb(payload)
        return error_from_code(str(fields["code"]), str(fields["message"]), int(fields["status"]))
    except (ValueError, KeyError, TypeError, msgpack.UnpackException):
        return DeliveryError("the gateway failed, and its error could not be read")


def credit_frame(delivery: int, epoch: int, total_bytes: int) -> bytes:
    """The receiver allows `total_bytes` of DATA frames (headers included) since the delivery's start."""
    high, low = divmod(total_bytes, 1 << 32)
    return Frame(FrameType.CREDIT, delivery, epoch, num_chunks=high, data_bytes=low).encode()


def credit_bytes(frame: Frame) -> int:
    """What a CREDIT frame allows."""
    return (frame.num_chunks << 32) | frame.data_bytes


def hello_frame(session: bytes, stream: int, *, prefaulted: bool = False) -> bytes:
    """What a receiver says first on a data connection; on one for shared memory the gateway answers with the same."""
    flags = PREFAULTED if prefaulted else 0
    return Frame(FrameType.HELLO, 0, 0, flags, first_chunk=stream, digest=session).encode()
