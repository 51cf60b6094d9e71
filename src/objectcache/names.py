"""Names of what this package keeps in a store, all under the reserved prefix `.kv/`.

    .kv/seg/<writer>/<sequence>     segments
    .kv/log/<writer>/<sequence>     commit records
    .kv/snap/<writer>/<sequence>    snapshots of the catalog
    .kv/ns/<hex digest>.json        namespaces, readable
    .kv/bucket                      says that this is a bucket of a gateway, and since when
    .kv/mp/<upload>/…               multipart uploads of plain objects that are under way
    .kv/clock/<writer>              written to read the store's own clock from it

A sequence is 12 decimal digits in groups of three joined by "/": names sort as their numbers do, and where names are
files no directory holds more than 1,000 of them.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

from objectcache.errors import InvalidObjectNameError

RESERVED_PREFIX = ".kv/"
SEGMENT_PREFIX = ".kv/seg/"
LOG_PREFIX = ".kv/log/"
SNAPSHOT_PREFIX = ".kv/snap/"
NAMESPACE_PREFIX = ".kv/ns/"
BUCKET_MARKER = ".kv/bucket"
MULTIPART_PREFIX = ".kv/mp/"
CLOCK_PREFIX = ".kv/clock/"

MAX_SEQUENCE = 10**12 - 1
SEGMENT_TAG_BYTES = 8

_WRITER = re.compile(r"[a-z0-9-]{1,64}")
_SEQUENCED = re.compile(r"([a-z0-9-]{1,64})/([0-9]{3})/([0-9]{3})/([0-9]{3})/([0-9]{3})")
_NAMESPACE = re.compile(r"([0-9a-f]{64})\.json")


class SequencedName(NamedTuple):
    writer: str
    sequence: int


def is_reserved(name: str) -> bool:
    """Whether `name` belongs to this package: not to be written or listed by ordinary users of the store."""
    return name.startswith(RESERVED_PREFIX)


def check_writer(writer: str) -> str:
    """`writer` itself. Raises InvalidObjectNameError unless it is 1 to 64 of a-z, 0-9 and "-"."""
    if not _WRITER.fullmatch(writer):
        raise InvalidObjectNameError(f"{writer[:80]!r} is not a writer id: 1 to 64 of a-z, 0-9 and '-'")
    return writer


def segment_name(writer: str, sequence: int) -> str:
    return SEGMENT_PREFIX + _sequenced(writer, sequence)


def segment_tag(name: str) -> bytes:
    """Short for a segment's name, which is never reused: which version of a chunk something is."""
    return blake2b(name.encode(), digest_size=SEGMENT_TAG_BYTES).digest()


def log_name(writer: str, sequence: int) -> str:
    """Sequence 0 is before the first record: something to list after."""
    return LOG_PREFIX + _sequenced(writer, sequence)


def snapshot_name(writer: str, sequence: int) -> str:
    return SNAPSHOT_PREFIX + _sequenced(writer, sequence)


def namespace_name(digest: bytes) -> str:
    """`digest` is 32 bytes, as in `Namespace.digest`."""
    return f"{NAMESPACE_PREFIX}{digest.hex()}.json"


def clock_name(writer: str) -> str:
    return CLOCK_PREFIX + check_writer(writer)


def parse_segment_name(name: str) -> SequencedName:
    """Raises InvalidObjectNameError for anything that `segment_name` does not make."""
    return _parse(name, SEGMENT_PREFIX)


def parse_log_name(name: str) -> SequencedName:
    """Raises InvalidObjectNameError for anything that `log_name` does not make."""
    return _parse(name, LOG_PREFIX)


def parse_snapshot_name(name: str) -> SequencedName:
    """Raises InvalidObjectNameError for anything that `snapshot_name` does not make."""
    return _parse(name, SNAPSHOT_PREFIX)


def parse_namespace_name(name: str) -> bytes:
    """The digest, 32 bytes. Raises InvalidObjectNameError for anything that `namespace_name` does not make."""
    found = _NAMESPACE.fullmatch(name.removeprefix(NAMESPACE_PREFIX)) if name.startswith(NAMESPACE_PREFIX) else None
    if found is None:
        raise InvalidObjectNameError(f"{name[:120]!r} is not the name of a namespace")
    return bytes.fromhex(found[1])


def _sequenced(writer: str, sequence: int) -> str:
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise InvalidObjectNameError(f"sequence {sequence} is outside 0..{MAX_SEQUENCE}")
    digits = f"{sequence:012d}"
    return f"{check_writer(writer)}/{digits[:3]}/{digits[3:6]}/{digits[6:9]}/{digits[9:]}"


def _parse(name: str, prefix: str) -> SequencedName:
    found = _SEQUENCED.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
    if found is None:
        raise InvalidObjectNameError(f"{name[:120]!r} is not a name of the form {prefix}<writer>/ddd/ddd/ddd/ddd")
    return SequencedName(found[1], int("".join(found.groups()[1:])))
