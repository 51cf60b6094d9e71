"""Namespaces and chunk keys: what must match for KV to be reusable, and the names that follow from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from objectcache.errors import LayoutError, RequestError
from objectcache.layout import KVLayout

KEY_BYTES = 32
_NAMESPACE_FORMAT = "objectcache-namespace-1"
_SALT_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")


def salt_digest(salt: str) -> str:
    """A tenant's salt as it may be written down: empty for no salt, otherwise its SHA-256 in hex."""
    return hashlib.sha256(b"objectcache-salt\0" + salt.encode()).hexdigest() if salt else ""


def _canonical_json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Namespace:
    """Everything that must match for KV to be reusable. Its digest is the root key H_0.

    `model` is a fingerprint of the weights, never a path. `salt_sha256` comes from `salt_digest`: the salt itself is
    never stored. `epoch` is bumped by whoever changes weights in place. `extra` holds what an engine adds.
    """

    model: str
    layout: KVLayout
    kv_dtype: str
    adapter: str = ""
    kv_scales: str = ""
    attention: str = ""
    hash_algorithm: str = "sha256"
    hash_seed: str = ""
    salt_sha256: str = ""
    epoch: int = 0
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not _SALT_DIGEST.fullmatch(self.salt_sha256):
            raise RequestError("salt_sha256 is what salt_digest returns, so that a salt itself is never written down")
        object.__setattr__(self, "extra", dict(self.extra))  # the digest must not change under its user

    def to_dict(self) -> dict[str, Any]:
        """Readable form, as it is written beside the data."""
        data: dict[str, Any] = {"format": _NAMESPACE_FORMAT}
        for item in fields(self):
            data[item.name] = getattr(self, item.name)
        data["layout"] = self.layout.to_dict()
        data["extra"] = dict(self.extra)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Namespace:
        """The inverse of `to_dict`. Raises RequestError for anything else."""
        if data.get("format") != _NAMESPACE_FORMAT:
            raise RequestError(f"not a namespace of format {_NAMESPACE_FORMAT}: {data.get('format')!r}")
        try:
            namespace = cls(
                model=str(data["model"]),
                layout=KVLayout.from_dict(data["layout"]),
                kv_dtype=str(data["kv_dtype"]),
                adapter=str(data["adapter"]),
                kv_scales=str(data["kv_scales"]),
                attention=str(data["attention"]),
                hash_algorithm=str(data["hash_algorithm"]),
                hash_seed=str(data["hash_seed"]),
                salt_sha256=str(data["salt_sha256"]),
                epoch=int(data["epoch"]),
                extra={str(k): str(v) for k, v in data["extra"].items()},
            )
            # The digest is of the written form, so one that only means the same is another namespace.
            same = namespace.to_json() == _canonical_json(data)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, LayoutError) as error:
            raise RequestError(f"not a namespace: {error!r}") from error
        if not same:
            raise RequestError("not a namespace: a field is unknown here, or of another type")
        return namespace

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, ASCII. This is what is digested."""
        return _canonical_json(self.to_dict())

    @classmethod
    def from_json(cls, data: bytes) -> Namespace:
        try:
            decoded = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"a namespace is JSON: {error}") from error
        if not isinstance(decoded, dict):
            raise RequestError("a namespace is a JSON object")
        return cls.from_dict(decoded)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON, 32 bytes: the root key H_0."""
        return hashlib.sha256(self.to_json()).digest()

    def differences(self, other: Namespace) -> dict[str, tuple[Any, Any]]:
        """Fields that differ, as {name: (mine, theirs)}: the answer to "why does this not match"."""
        mine, theirs = self.to_dict(), other.to_dict()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}


class KeyChain(Sequence[bytes]):
    """Consecutive chunk keys of one chain, packed 32 bytes each.

    `chain[i]` is a key; `chain[a:b]` (step 1) is a KeyChain over the same bytes.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes = b"") -> None:
        if len(data) % KEY_BYTES:
            raise RequestError(f"chunk keys are {KEY_BYTES} bytes each, got {len(data)} bytes")
        self._data = data

    @property
    def data(self) -> bytes:
        return self._data

    def __len__(self) -> int:
        return len(self._data) // KEY_BYTES

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> KeyChain: ...
    def __getitem__(self, index: int | slice) -> bytes | KeyChain:
        data = self._data
        size = len(data) // KEY_BYTES
        if isinstance(index, slice):
            start, stop, step = index.indices(size)
            if step != 1:
                return KeyChain(b"".join(self[i] for i in range(start, stop, step)))
            return KeyChain(data[start * KEY_BYTES : stop * KEY_BYTES])
        if index < 0:
            index += size
        if not 0 <= index < size:
            raise IndexError(index)
        return data[index * KEY_BYTES : (index + 1) * KEY_BYTES]

    def __iter__(self) -> Iterator[bytes]:
        data = self._data
        return (data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyChain) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self._data)

    def __repr__(self) -> str:
        if not self._data:
            return "KeyChain()"
        return f"KeyChain({len(self)} keys, {self[0].hex()[:12]}…{self[-1].hex()[:12]})"

    def coarsen(self, stride: int) -> KeyChain:
        """Keys of chunks `stride` times as long: every stride-th key, since a key names its whole prefix."""
        if stride == 1:
            return self
        return KeyChain(b"".join(self[i] for i in range(stride - 1, len(self), stride)))


def chain_keys(
    namespace: Namespace, token_ids: Sequence[int] | npt.NDArray[Any], chunk_tokens: int | None = None
) -> KeyChain:
    """Chunk keys of a prompt: H_i = SHA-256(H_{i-1} ‖ tokens_i), tokens as little-endian uint32, H_0 the namespace.

    Only whole chunks (of the layout's `key_tokens`, or `chunk_tokens`) have a key; a shorter tail has none.
    Raises RequestError for token ids outside 0 … 2^32-1.
    """
    size = namespace.layout.key_tokens if chunk_tokens is None else chunk_tokens
    if size < 1:
        raise LayoutError(f"chunk_tokens must be positive, got {size}")
    try:
        tokens = np.asarray(token_ids)
    except (OverflowError, ValueError) as error:
        raise RequestError(f"token ids must be a flat sequence of integers: {error}") from error
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
        raise RequestError(f"token ids must be a flat sequence of integers, got {tokens.dtype} {tokens.shape}")
    if tokens.size and (tokens.min() < 0 or tokens.max() > 0xFFFFFFFF):
        raise RequestError("token ids must lie in 0 … 4294967295")
    packed = tokens.astype("<u4").tobytes()
    key, keys, step = namespace.digest, [], size * 4
    sha256 = hashlib.sha256
    for at in range(0, len(packed) - step + 1, step):
        key = sha256(key + packed[at : at + step]).digest()
        keys.append(key)
    return KeyChain(b"".join(keys))


def keys_from_block_hashes(namespace: Namespace, block_hashes: Sequence[bytes]) -> KeyChain:
    """Chunk keys from an engine's own chained block hashes, rooted in the namespace.

    An engine's hash already names the prefix up to its block, so each is digested with the namespace alone.
    Raises RequestError when a hash is no bytes, or shorter than 16, which is too short to be a name.
    """
    root, keys = namespace.digest, []
    for block_hash in block_hashes:
        if not isinstance(block_hash, bytes) or len(block_hash) < 16:
            raise RequestError(f"a block hash that names KV is at least 16 bytes, got {block_hash!r}")
        keys.append(hashlib.sha256(root + b"block" + block_hash).digest())
    return KeyChain(b"".join(keys))
