"""Frames of a control stream: what a gateway is asked for a session, and what it answers, with no HTTP around it.

Both ways a head of 16 bytes and a body. What is asked has a number (`Asked`) and the client's id; an answer has HTTP's
status in its place, the same id, and the body that HTTP would have: of an error S3's XML. An error with id 0 is about
the stream, which ends with it.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from objectcache.errors import EntityTooLargeError, RequestError
from objectcache.messages.packing import MAX_MESSAGE_BYTES

CONTROL_PROTOCOL = "kv-control"
"""As `Upgrade` names it, and the sub-resource that is upgraded."""
SESSION_HEADER = "x-kv-session"

_HEAD = Struct("<2sHIQ")
_MAGIC = b"KC"


class Asked(IntEnum):
    MATCH_AND_RETRIEVE = 1


class ControlFrame(NamedTuple):
    """`code` is a number of `Asked`, or an answer's status."""

    code: int
    id: int
    body: bytes


def control_frame(code: int, id: int, body: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, code, len(body), id) + body


class ControlReader:
    """Frames out of bytes, however these are cut. Pure."""

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""

    def feed(self, data: bytes) -> None:
        if self._data:
            if isinstance(self._data, bytes):  # which is copied whole for whatever is added
                self._data = bytearray(self._data)
            self._data += data
        else:
            self._data = data

    @property
    def holds(self) -> bool:
        """Whether anything is left that was fed."""
        return bool(self._data)

    def take(self) -> ControlFrame | None:
        """The next frame, once all of it is there. Raises RequestError for what is none, and EntityTooLargeError for
        one that is too large, before it is there: no more can be taken then."""
        if len(self._data) < _HEAD.size:
            if not _MAGIC.startswith(self._data[: len(_MAGIC)]):
                raise RequestError("what came is no frame of a control stream")
            return None
        magic, code, size, id = _HEAD.unpack_from(self._data)
        if magic != _MAGIC:
            raise RequestError("what came is no frame of a control stream")
        if size > MAX_MESSAGE_BYTES:
            raise EntityTooLargeError(f"a message has at most {MAX_MESSAGE_BYTES} bytes, not {size}")
        stop = _HEAD.size + size
        if len(self._data) < stop:
            return None
        body = bytes(self._data[_HEAD.size : stop])
        if isinstance(self._data, bytearray):
            del self._data[:stop]
        else:
            self._data = self._data[stop:]
        return ControlFrame(code, id, body)
