"""What a WRITE says when it has landed: the frame that would say so on a stream, with the stream and a number. Pure.

NIXL delivers a notification after the bytes it is about. Between notifications it promises no order, and says only by
name who has sent one: each stream's are numbered from 0, and taken in that order.
"""

from __future__ import annotations

from collections import defaultdict
from struct import Struct
from typing import NamedTuple

from objectcache.errors import DeliveryError
from objectcache.frames import FRAME_HEADER_BYTES, MAX_CONTROL_BYTES, Frame, FrameType, decode_frame
from objectcache.layout import DIGEST_BYTES

MAGIC = b"OCN1"
_HEAD = Struct("<4sHxxQ")
HEAD_BYTES = _HEAD.size
MAX_EARLY = 4096
"""How many of one stream may wait for one that is missing."""


class Notification(NamedTuple):
    """Number `number` of `stream`. `payload` follows the frame: further digests, or what an ERROR frame says."""

    stream: int
    number: int
    frame: Frame
    payload: bytes


def encode_notification(stream: int, number: int, head: bytes) -> bytes:
    """`head` is a frame with what follows it."""
    return _HEAD.pack(MAGIC, stream, number) + head


def decode_notification(data: bytes, streams: int) -> Notification:
    """Raises DeliveryError for what no worker of ours says to a session of so many streams."""
    if len(data) < HEAD_BYTES + FRAME_HEADER_BYTES:
        raise DeliveryError(f"a notification of {len(data)} bytes is cut short")
    magic, stream, number = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise DeliveryError(f"{data[:8]!r} does not begin a notification of this version")
    if stream >= streams:
        raise DeliveryError(f"a notification names stream {stream} of {streams}")
    frame = decode_frame(data[HEAD_BYTES : HEAD_BYTES + FRAME_HEADER_BYTES])
    payload = data[HEAD_BYTES + FRAME_HEADER_BYTES :]
    match frame.type:
        case FrameType.PLACED:
            wanted = frame.extra * DIGEST_BYTES
        case FrameType.END | FrameType.CANCELLED | FrameType.ERROR if frame.data_bytes <= MAX_CONTROL_BYTES:
            wanted = frame.data_bytes
        case _:
            raise DeliveryError(f"a worker that places does not send {frame.type.name} frames like that")
    if len(payload) != wanted:
        raise DeliveryError(f"a notification of {frame.type.name} brings {len(payload)} bytes instead of {wanted}")
    return Notification(stream, number, frame, payload)


class InOrder:
    """Notifications of a session, each stream's in its order. Not thread-safe."""

    def __init__(self) -> None:
        self._next: defaultdict[int, int] = defaultdict(int)
        self._early: defaultdict[int, dict[int, Notification]] = defaultdict(dict)

    def take(self, notification: Notification) -> list[Notification]:
        """What may be acted on now that this one has come. Raises DeliveryError: one came twice, or too many wait."""
        stream, early = notification.stream, self._early[notification.stream]
        if notification.number < self._next[stream] or notification.number in early:
            raise DeliveryError(f"notification {notification.number} of stream {stream} came twice")
        if len(early) >= MAX_EARLY:
            raise DeliveryError(f"notification {self._next[stream]} of stream {stream} does not come")
        early[notification.number] = notification
        due = []
        while (following := early.pop(self._next[stream], None)) is not None:
            due.append(following)
            self._next[stream] += 1
        return due

    @property
    def waiting(self) -> int:
        """How many have come too early."""
        return sum(map(len, self._early.values()))
