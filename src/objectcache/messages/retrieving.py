"""Deliveries that begin, and their cancellation; the descriptor has a module of its own."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from typing import Any

from objectcache.descriptor import (
    ID_BYTES,
    MAX_DEADLINE_S,
    MAX_PARTS,
    Descriptor,
    DescriptorPart,
    FieldReader,
    HeldChunks,
    Target,
    Versions,
    decode_target,
)
from objectcache.errors import RequestError
from objectcache.layout import MAX_LAYERS
from objectcache.messages.matching import MatchAnswer, MatchRequest
from objectcache.messages.packing import pack, parts_of, unpack
from objectcache.names import SEGMENT_TAG_BYTES

MAX_ANSWER_HEADER_BYTES = 4096
ANSWER_HEADER = "x-kv-answer"


@dataclass(frozen=True, slots=True)
class RetrieveAnswer:
    """What was accepted: the frames follow on the target."""

    layers_per_unit: int
    payload_bytes: int
    versions: tuple[Versions, ...] = ()
    """For each part of the descriptor, in order, which segments serve it."""
    rate_bytes_s: float | None = None
    """The rate to expect at first, as a MatchAnswer's."""
    reason: str = ""
    """Why it has so many layers per unit (`scheduling.modes.Reason`)."""

    def encode(self) -> bytes:
        return pack(**self.to_map())

    def to_map(self) -> dict[str, Any]:
        return {
            "layers_per_unit": self.layers_per_unit,
            "payload_bytes": self.payload_bytes,
            "versions": [[[chunks for chunks, _ in part], b"".join(tag for _, tag in part)] for part in self.versions],
            "rate_bytes_s": self.rate_bytes_s,
            "reason": self.reason,
        }

    @classmethod
    def decode(cls, data: bytes) -> RetrieveAnswer:
        return cls.of(unpack(data, "retrieve answer"))

    @classmethod
    def of(cls, fields: FieldReader) -> RetrieveAnswer:
        """The inverse of `to_map`. Raises RequestError."""
        return cls(
            fields.integer("layers_per_unit", 1, 1 << 20),
            fields.integer("payload_bytes", 0, 1 << 50),
            tuple(_versions(item) for item in fields.items("versions", MAX_PARTS)),
            fields.optional_number("rate_bytes_s", 0, 1e18),
            fields.text("reason", 32),
        )

    def to_header(self) -> str:
        """For the head of a response with frames in its body; empty when it would be too long."""
        text = b64encode(self.encode()).decode()
        return text if len(text) <= MAX_ANSWER_HEADER_BYTES else ""

    @classmethod
    def from_header(cls, text: str) -> RetrieveAnswer:
        """Raises RequestError."""
        return cls.decode(_from_header(text))


@dataclass(frozen=True, slots=True)
class MatchAndRetrieveRequest:
    """A match, and how what it finds is to be delivered: as a Descriptor has it, but that nobody knows yet what.

    The client has `room_bytes` for it. What takes more is matched only. `held` is what it has of the parts already, as
    far as it would match if all did: what does match is asked for without it. Delivered are at most `most_tokens` of
    what matches (`Match.bounded`; 0: all). An old gateway knows nothing of these two, and sends all: its answer lacks
    `held`, or `bounded`.
    """

    match: MatchRequest
    target: Target
    room_bytes: int
    delivery: int
    epoch: int = 0
    layers_per_unit: int = 0
    windows_s: tuple[float, ...] = ()
    gang: str = ""
    deadline_s: float = 30.0
    trace: str = ""
    held: tuple[HeldChunks, ...] = ()
    most_tokens: int = 0

    def encode(self) -> bytes:
        return pack(
            match=self.match.to_map(),
            target=self.target.to_map(),
            room_bytes=self.room_bytes,
            delivery=self.delivery,
            epoch=self.epoch,
            layers_per_unit=self.layers_per_unit,
            windows_s=list(self.windows_s),
            gang=self.gang,
            deadline_s=self.deadline_s,
            trace=self.trace,
            **({"held": [part.to_map() for part in self.held]} if self.held else {}),
            **({"most_tokens": self.most_tokens} if self.most_tokens else {}),
        )

    @classmethod
    def decode(cls, data: bytes) -> MatchAndRetrieveRequest:
        """Raises RequestError that names the field at fault."""
        fields = unpack(data, "match and retrieve")
        held = tuple(map(HeldChunks.of, parts_of(fields, "held"))) if fields.has("held") else ()
        if len({(part.group, part.shard) for part in held}) != len(held):
            raise RequestError("match and retrieve.held names a part twice")
        return cls(
            MatchRequest.of(fields.sub("match")),
            decode_target(fields.sub("target")),
            fields.integer("room_bytes", 0, 1 << 62),
            fields.integer("delivery", 0, (1 << 64) - 1),
            fields.integer("epoch", 0, (1 << 32) - 1),
            fields.integer("layers_per_unit", 0, 1 << 20),
            fields.numbers("windows_s", 0.0, MAX_DEADLINE_S, MAX_LAYERS),
            fields.text("gang"),
            fields.number("deadline_s", 0.0, MAX_DEADLINE_S),
            fields.text("trace"),
            held,
            fields.integer("most_tokens", 1, 1 << 62) if fields.has("most_tokens") else 0,
        )

    def descriptor(self, parts: tuple[DescriptorPart, ...], lease: bytes) -> Descriptor:
        """Of the delivery, once it is known what matched."""
        return Descriptor(
            namespace=self.match.namespace,
            parts=parts,
            target=self.target,
            delivery=self.delivery,
            epoch=self.epoch,
            layers_per_unit=self.layers_per_unit,
            windows_s=self.windows_s,
            gang=self.gang,
            deadline_s=self.deadline_s,
            lease=lease,
            trace=self.trace,
        )


@dataclass(frozen=True, slots=True)
class MatchAndRetrieveAnswer:
    """`accepted` None: nothing is delivered, because nothing matched, all that did is held, or it takes more room than
    there is. `held`: what the request says is held is not sent, as far as it matched (`DescriptorPart.holding`).
    `bounded`: no more is delivered than the request says at most. `match` is all that matched all the same."""

    match: MatchAnswer
    accepted: RetrieveAnswer | None = None
    held: bool = False
    bounded: bool = False

    def encode(self) -> bytes:
        return pack(
            match=self.match.to_map(),
            accepted=[self.accepted.to_map()] if self.accepted else [],
            **({"held": 1} if self.held else {}),
            **({"bounded": 1} if self.bounded else {}),
        )

    @classmethod
    def decode(cls, data: bytes) -> MatchAndRetrieveAnswer:
        fields = unpack(data, "match and retrieve answer")
        accepted = [FieldReader(one, "accepted", RequestError) for one in fields.items("accepted", 1)]
        return cls(
            MatchAnswer.of(fields.sub("match")),
            RetrieveAnswer.of(accepted[0]) if accepted else None,
            fields.has("held") and bool(fields.integer("held", 1, 1)),
            fields.has("bounded") and bool(fields.integer("bounded", 1, 1)),
        )

    def to_header(self) -> str:
        """As `RetrieveAnswer.to_header`, but it leaves out versions where they are too long: the rest always fits."""
        if self.accepted is not None and not self.accepted.to_header():
            return replace(self, accepted=replace(self.accepted, versions=())).to_header()
        return b64encode(self.encode()).decode()

    @classmethod
    def from_header(cls, text: str) -> MatchAndRetrieveAnswer:
        """Raises RequestError."""
        return cls.decode(_from_header(text))


def _from_header(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise RequestError(f"{ANSWER_HEADER} is not base64") from error


def _versions(item: object) -> Versions:
    match item:
        case [list(chunks), bytes(tags)] if len(tags) == SEGMENT_TAG_BYTES * len(chunks):
            if all(type(count) is int and count > 0 for count in chunks):
                starts = range(0, len(tags), SEGMENT_TAG_BYTES)
                return tuple(zip(chunks, [tags[at : at + SEGMENT_TAG_BYTES] for at in starts], strict=True))
    raise RequestError("retrieve answer.versions must be pairs of chunk counts and tags")


@dataclass(frozen=True, slots=True)
class CancelRequest:
    session: bytes
    delivery: int
    epoch: int
    timeout_s: float

    def encode(self) -> bytes:
        return pack(session=self.session, delivery=self.delivery, epoch=self.epoch, timeout_s=self.timeout_s)

    @classmethod
    def decode(cls, data: bytes) -> CancelRequest:
        fields = unpack(data, "cancel")
        return cls(
            fields.binary("session", ID_BYTES),
            fields.integer("delivery", 0, (1 << 64) - 1),
            fields.integer("epoch", 0, (1 << 32) - 1),
            fields.number("timeout_s", 0, 60),
        )


@dataclass(frozen=True, slots=True)
class CancelAnswer:
    """`quiet`: nothing more of the delivery will be written."""

    quiet: bool

    def encode(self) -> bytes:
        return pack(quiet=int(self.quiet))

    @classmethod
    def decode(cls, data: bytes) -> CancelAnswer:
        return cls(bool(unpack(data, "cancel answer").integer("quiet", 0, 1)))
