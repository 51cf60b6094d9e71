"""Corrections of windows while deliveries run."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.descriptor import ID_BYTES, MAX_DEADLINE_S, FieldReader
from objectcache.errors import RequestError
from objectcache.layout import MAX_LAYERS
from objectcache.messages.packing import pack, unpack

MAX_CORRECTIONS = 1024


@dataclass(frozen=True, slots=True)
class WindowsRequest:
    """What a client now knows of one delivery: the windows of all of its layers, in compute seconds, and when the
    engine asks for unit 0: in `ready_in_s` seconds from the receipt of this; negative, so long ago.

    `session` is the delivery's, empty for one that comes in a response: its number and the access key tell which.
    """

    session: bytes
    delivery: int
    epoch: int
    windows_s: tuple[float, ...]
    ready_in_s: float


@dataclass(frozen=True, slots=True)
class WindowsBatch:
    """Corrections for deliveries of one bucket. Those that have ended are passed over."""

    corrections: tuple[WindowsRequest, ...]

    def encode(self) -> bytes:
        return pack(
            corrections=[
                {
                    "session": one.session,
                    "delivery": one.delivery,
                    "epoch": one.epoch,
                    "windows_s": list(one.windows_s),
                    "ready_in_s": one.ready_in_s,
                }
                for one in self.corrections
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> WindowsBatch:
        items = unpack(data, "windows").items("corrections", MAX_CORRECTIONS)
        found = (FieldReader(item, f"corrections[{i}]", RequestError) for i, item in enumerate(items))
        return cls(
            tuple(
                WindowsRequest(
                    one.binary("session", 0, ID_BYTES),
                    one.integer("delivery", 0, (1 << 64) - 1),
                    one.integer("epoch", 0, (1 << 32) - 1),
                    one.numbers("windows_s", 0.0, MAX_DEADLINE_S, MAX_LAYERS),
                    one.number("ready_in_s", -MAX_DEADLINE_S, MAX_DEADLINE_S),
                )
                for one in found
            )
        )
