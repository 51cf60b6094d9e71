"""Which prefix of a chain is stored, and the lease that keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from objectcache.descriptor import ID_BYTES, MAX_CHUNK_INDEX, FieldReader
from objectcache.keys import KEY_BYTES, KeyChain
from objectcache.layout import MAX_GROUPS, MAX_SHARDS
from objectcache.messages.packing import pack, parts_of, unpack


@dataclass(frozen=True, slots=True)
class MatchRequest:
    """`parts` empty asks for all of the layout. `keys` are the whole chain from its start."""

    namespace: bytes
    keys: KeyChain
    parts: tuple[tuple[int, int], ...] = ()

    def encode(self) -> bytes:
        return pack(**self.to_map())

    def to_map(self) -> dict[str, Any]:
        parts = [{"group": group, "shard": shard} for group, shard in self.parts]
        return {"namespace": self.namespace, "keys": self.keys.data, "parts": parts}

    @classmethod
    def decode(cls, data: bytes) -> MatchRequest:
        """Raises RequestError that names the field at fault."""
        return cls.of(unpack(data, "match"))

    @classmethod
    def of(cls, fields: FieldReader) -> MatchRequest:
        """The inverse of `to_map`. Raises as `decode`."""
        parts = tuple(
            (part.integer("group", 0, MAX_GROUPS - 1), part.integer("shard", 0, MAX_SHARDS - 1))
            for part in parts_of(fields, "parts")
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
        return pack(**self.to_map())

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
        return cls.of(unpack(data, "match answer"))

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
                for part in parts_of(fields, "parts")
            ),
            lease=fields.binary("lease", 0, ID_BYTES),
            ttl_s=fields.number("ttl_s", 0, 1e9),
            rate_bytes_s=fields.optional_number("rate_bytes_s", 0, 1e18),
            layers_per_unit=fields.integer("layers_per_unit", 0, 1 << 20),
        )


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    lease: bytes

    def encode(self) -> bytes:
        return pack(lease=self.lease)

    @classmethod
    def decode(cls, data: bytes) -> ReleaseRequest:
        return cls(unpack(data, "release").binary("lease", ID_BYTES))
