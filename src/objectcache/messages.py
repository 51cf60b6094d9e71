"""Bodies of the KV sub-resources besides the descriptor: msgpack maps, versioned, validated where they are decoded."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from objectcache.descriptor import (
    ID_BYTES,
    MAX_CHUNK_INDEX,
    MAX_DEADLINE_S,
    MAX_ITEMS,
    MAX_PARTS,
    Descriptor,
    DescriptorPart,
    FieldReader,
    Target,
    Versions,
    decode_target,
    unpack_map,
)
from objectcache.errors import RequestError
from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.layout import MAX_GROUPS, MAX_LAYERS, MAX_SHARDS
from objectcache.names import SEGMENT_TAG_BYTES

MESSAGE_VERSION = 1
MAX_MESSAGE_BYTES = 64 << 20
MAX_COMMIT = MAX_ITEMS
MAX_CORRECTIONS = 1024
MAX_SEGMENT_BYTES = 1 << 44
MAX_ANSWER_HEADER_BYTES = 4096
MAX_METADATA_BYTES = 1 << 16
NIXL_MEMORIES = ("DRAM", "VRAM")
MAX_NIXL_STREAMS = 8
"""Of one session: each may hold a slot of a worker's arena for as long as the client stands still."""
ANSWER_HEADER = "x-kv-answer"


def _pack(**fields: Any) -> bytes:
    data: bytes = msgpack.packb({"version": MESSAGE_VERSION, **fields})
    return data


def _unpack(data: bytes, where: str) -> FieldReader:
    fields = unpack_map(data, where, RequestError)
    version = fields.integer("version", 0, 1 << 31)
    if version != MESSAGE_VERSION:
        raise RequestError(f"{where}.version {version} is not known here; {MESSAGE_VERSION} is")
    return fields


def _parts(fields: FieldReader, name: str) -> list[FieldReader]:
    return [FieldReader(part, f"{name}[{i}]", RequestError) for i, part in enumerate(fields.items(name, MAX_PARTS))]


@dataclass(frozen=True, slots=True)
class MatchRequest:
    """`parts` empty asks for all of the layout. `keys` are the whole chain from its start."""

    namespace: bytes
    keys: KeyChain
    parts: tuple[tuple[int, int], ...] = ()

    def encode(self) -> bytes:
        return _pack(**self.to_map())

    def to_map(self) -> dict[str, Any]:
        parts = [{"group": group, "shard": shard} for group, shard in self.parts]
        return {"namespace": self.namespace, "keys": self.keys.data, "parts": parts}

    @classmethod
    def decode(cls, data: bytes) -> MatchRequest:
        """Raises RequestError that names the field at fault."""
        return cls.of(_unpack(data, "match"))

    @classmethod
    def of(cls, fields: FieldReader) -> MatchRequest:
        """The inverse of `to_map`. Raises as `decode`."""
        parts = tuple(
            (part.integer("group", 0, MAX_GROUPS - 1), part.integer("shard", 0, MAX_SHARDS - 1))
            for part in _parts(fields, "parts")
        )
        return cls(fields.binary("namespace", KEY_BYTES), KeyChain(fields.binary("keys")), parts)


@dataclass(frozen=True, slots=True)
class MatchAnswer:
    """`parts` are (group, shard, first, stop). `lease` is empty when nothing matched. `rate_bytes_s` is to be expected:
    0 where nothing would come now, None where no link on the way has a cap."""

    tokens: int
    parts: tuple[tuple[int, int, int, int], ...] = ()
    lease: bytes = b""
    ttl_s: float = 0.0
    rate_bytes_s: float | None = None
    layers_per_unit: int = 1

    def encode(self) -> bytes:
        return _pack(**self.to_map())

    def to_map(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "parts": [dict(zip(("group", "shard", "first", "stop"), part, strict=True)) for part in self.parts],
            "lease": self.lease,
            "ttl_s": self.ttl_s,
            "rate_bytes_s": self.rate_bytes_s,
            "layers_per_unit": self.layers_per_unit,
        }

    @classmethod
    def decode(cls, data: bytes) -> MatchAnswer:
        return cls.of(_unpack(data, "match answer"))

    @classmethod
    def of(cls, fields: FieldReader) -> MatchAnswer:
        """The inverse of `to_map`. Raises RequestError."""
        return cls(
            tokens=fields.integer("tokens", 0, 1 << 40),
            parts=tuple(
                (
                    part.integer("group", 0, MAX_GROUPS - 1),
                    part.integer("shard", 0, MAX_SHARDS - 1),
                    part.integer("first", 0, MAX_CHUNK_INDEX),
                    part.integer("stop", 0, MAX_CHUNK_INDEX),
                )
                for part in _parts(fields, "parts")
            ),
            lease=fields.binary("lease", 0, ID_BYTES),
            ttl_s=fields.number("ttl_s", 0, 1e9),
            rate_bytes_s=fields.optional_number("rate_bytes_s", 0, 1e18),
            layers_per_unit=fields.integer("layers_per_unit", 0, 1 << 20),
        )


@dataclass(frozen=True, slots=True)
class SessionRequest:
    streams: int

    def encode(self) -> bytes:
        return _pack(streams=self.streams)

    @classmethod
    def decode(cls, data: bytes) -> SessionRequest:
        return cls(_unpack(data, "session").integer("streams", 1, 1 << 16))


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """`http_*` is this very gateway's own control address, `data_*` where its data connections go (port 0: nowhere).

    `shm_socket` is the name (abstract, without its leading zero) of the Unix socket at which a client on its host
    shares memory with it; "" where it does not. `nixl_agent` is what the client's NIXL agent is to be called, should it
    have one; "" where the gateway has none.
    """

    session: bytes
    http_host: str
    http_port: int
    data_host: str
    data_port: int
    shm_socket: str = ""
    nixl_agent: str = ""

    def encode(self) -> bytes:
        return _pack(
            session=self.session,
            http_host=self.http_host,
            http_port=self.http_port,
            data_host=self.data_host,
            data_port=self.data_port,
            shm_socket=self.shm_socket,
            nixl_agent=self.nixl_agent,
        )

    @classmethod
    def decode(cls, data: bytes) -> SessionAnswer:
        fields = _unpack(data, "session answer")
        return cls(
            fields.binary("session", ID_BYTES),
            fields.text("http_host"),
            fields.integer("http_port", 1, 65535),
            fields.text("data_host"),
            fields.integer("data_port", 0, 65535),
            fields.text("shm_socket", 100),
            fields.text("nixl_agent", 100),
        )


@dataclass(frozen=True, slots=True)
class NixlRequest:
    """What a session's client has registered with NIXL: `size_bytes` at `address` of its `memory` ("DRAM", "VRAM" of
    `device`), and the `metadata` of the agent that has the name which the session was told."""

    session: bytes
    metadata: bytes
    address: int
    size_bytes: int
    memory: str = "DRAM"
    device: int = 0

    def encode(self) -> bytes:
        return _pack(
            session=self.session,
            metadata=self.metadata,
            address=self.address,
            size_bytes=self.size_bytes,
            memory=self.memory,
            device=self.device,
        )

    @classmethod
    def decode(cls, data: bytes) -> NixlRequest:
        """Raises RequestError that names the field at fault."""
        fields = _unpack(data, "nixl")
        request = cls(
            fields.binary("session", ID_BYTES),
            fields.binary("metadata"),
            fields.integer("address", 1, (1 << 64) - 1),
            fields.integer("size_bytes", 1, 1 << 48),
            fields.text("memory", 16),
            fields.integer("device", 0, 1 << 16),
        )
        if not 0 < len(request.metadata) <= MAX_METADATA_BYTES:
            raise RequestError(f"nixl.metadata must be 1 to {MAX_METADATA_BYTES} bytes, got {len(request.metadata)}")
        if request.memory not in NIXL_MEMORIES:
            raise RequestError(f"nixl.memory must be one of {', '.join(NIXL_MEMORIES)}, got {request.memory!r}")
        if request.address + request.size_bytes > 1 << 64:
            raise RequestError("nixl.address and nixl.size_bytes reach past the end of memory")
        return request


@dataclass(frozen=True, slots=True)
class NixlAnswer:
    """`agent` is the name of the one that will write, and whose notifications count."""

    agent: str

    def encode(self) -> bytes:
        return _pack(agent=self.agent)

    @classmethod
    def decode(cls, data: bytes) -> NixlAnswer:
        return cls(_unpack(data, "nixl answer").text("agent", 100))


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
        return _pack(**self.to_map())

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
        return cls.of(_unpack(data, "retrieve answer"))

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

    The client has `room_bytes` for it. What takes more is matched only.
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

    def encode(self) -> bytes:
        return _pack(
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
        )

    @classmethod
    def decode(cls, data: bytes) -> MatchAndRetrieveRequest:
        """Raises RequestError that names the field at fault."""
        fields = _unpack(data, "match and retrieve")
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
    """`accepted` None: nothing is delivered, because nothing matched, or what did takes more room than there is."""

    match: MatchAnswer
    accepted: RetrieveAnswer | None = None

    def encode(self) -> bytes:
        return _pack(match=self.match.to_map(), accepted=[self.accepted.to_map()] if self.accepted else [])

    @classmethod
    def decode(cls, data: bytes) -> MatchAndRetrieveAnswer:
        fields = _unpack(data, "match and retrieve answer")
        accepted = [FieldReader(one, "accepted", RequestError) for one in fields.items("accepted", 1)]
        return cls(MatchAnswer.of(fields.sub("match")), RetrieveAnswer.of(accepted[0]) if accepted else None)

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
                return tuple(
                    (count, tags[i * SEGMENT_TAG_BYTES :][:SEGMENT_TAG_BYTES]) for i, count in enumerate(chunks)
                )
    raise RequestError("retrieve answer.versions must be pairs of chunk counts and tags")


@dataclass(frozen=True, slots=True)
class CancelRequest:
    session: bytes
    delivery: int
    epoch: int
    timeout_s: float

    def encode(self) -> bytes:
        return _pack(session=self.session, delivery=self.delivery, epoch=self.epoch, timeout_s=self.timeout_s)

    @classmethod
    def decode(cls, data: bytes) -> CancelRequest:
        fields = _unpack(data, "cancel")
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
        return _pack(quiet=int(self.quiet))

    @classmethod
    def decode(cls, data: bytes) -> CancelAnswer:
        return cls(bool(_unpack(data, "cancel answer").integer("quiet", 0, 1)))


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
        return _pack(
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
        items = _unpack(data, "windows").items("corrections", MAX_CORRECTIONS)
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


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What an upload will be; travels beside the body, in the `x-kv-store` header (base64)."""

    segment: str
    namespace: bytes
    group: int
    shard: int
    leaf: bytes
    first: int
    stop: int

    def encode(self) -> bytes:
        return _pack(
            segment=self.segment,
            namespace=self.namespace,
            group=self.group,
            shard=self.shard,
            leaf=self.leaf,
            first=self.first,
            stop=self.stop,
        )

    @classmethod
    def decode(cls, data: bytes) -> StoreRequest:
        fields = _unpack(data, "store")
        request = cls(
            fields.text("segment", 1024),
            fields.binary("namespace", KEY_BYTES),
            fields.integer("group", 0, MAX_GROUPS - 1),
            fields.integer("shard", 0, MAX_SHARDS - 1),
            fields.binary("leaf", KEY_BYTES),
            fields.integer("first", 0, MAX_CHUNK_INDEX),
            fields.integer("stop", 0, MAX_CHUNK_INDEX),
        )
        if request.first >= request.stop:
            raise RequestError(f"store: chunk range [{request.first}, {request.stop}) is empty or negative")
        return request


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """Names of finished uploads: those to make visible, all at once, and those to drop."""

    commit: tuple[str, ...]
    discard: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return _pack(commit=list(self.commit), discard=list(self.discard))

    @classmethod
    def decode(cls, data: bytes) -> CommitRequest:
        fields = _unpack(data, "commit")
        names = [fields.items(which, MAX_COMMIT) for which in ("commit", "discard")]
        if any(not isinstance(name, str) for which in names for name in which):
            raise RequestError("commit.commit and commit.discard are lists of segment names")
        return cls(tuple(names[0]), tuple(names[1]))


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    lease: bytes

    def encode(self) -> bytes:
        return _pack(lease=self.lease)

    @classmethod
    def decode(cls, data: bytes) -> ReleaseRequest:
        return cls(_unpack(data, "release").binary("lease", ID_BYTES))
