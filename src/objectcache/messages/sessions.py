"""Data connections, and memory that is registered with NIXL."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.descriptor import ID_BYTES
from objectcache.errors import RequestError
from objectcache.messages.packing import pack, unpack

MAX_METADATA_BYTES = 1 << 16
NIXL_MEMORIES = ("DRAM", "VRAM")
MAX_NIXL_STREAMS = 8
"""Of one session: each may hold a slot of a worker's arena for as long as the client stands still."""


@dataclass(frozen=True, slots=True)
class SessionRequest:
    streams: int

    def encode(self) -> bytes:
        return pack(streams=self.streams)

    @classmethod
    def decode(cls, data: bytes) -> SessionRequest:
        return cls(unpack(data, "session").integer("streams", 1, 1 << 16))


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
        return pack(
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
        fields = unpack(data, "session answer")
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
        return pack(
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
        fields = unpack(data, "nixl")
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
        return pack(agent=self.agent)

    @classmethod
    def decode(cls, data: bytes) -> NixlAnswer:
        return cls(unpack(data, "nixl answer").text("agent", 100))
