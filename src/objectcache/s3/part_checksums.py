"""The checksum of an object from those of the parts that it was uploaded in, as S3 defines it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence

from objectcache.errors import InvalidArgumentError
from objectcache.s3.checksums import ALGORITHMS, AnnouncedChecksums, Checksums

CHECKSUM_TYPE = "x-amz-checksum-type"
COMPOSITE, FULL_OBJECT = "COMPOSITE", "FULL_OBJECT"
_COMBINABLE = {"crc32": "combine_crc32", "crc32c": "combine_crc32c", "crc64nvme": "combine_crc64nvme"}


def check_kind(algorithm: str, kind: str) -> str:
    """`kind`, or the one that `algorithm` (lower case) has by default. Raises InvalidArgumentError."""
    if algorithm not in ALGORITHMS:
        raise InvalidArgumentError(f"{algorithm[:40]} is not known here, use one of {', '.join(ALGORITHMS)}")
    kind = kind.upper() or (FULL_OBJECT if algorithm == "crc64nvme" else COMPOSITE)
    possible = {COMPOSITE} if algorithm in ("sha1", "sha256") else {FULL_OBJECT}
    if algorithm in ("crc32", "crc32c"):
        possible = {COMPOSITE, FULL_OBJECT}
    if kind not in possible:
        names = " or ".join(sorted(possible))
        raise InvalidArgumentError(f"x-amz-checksum-type of {algorithm} is {names}, not {kind[:40]}")
    return kind


def whole_checksum(algorithm: str, kind: str, parts: Sequence[tuple[str, int]]) -> str:
    """Of parts given by checksum (base64) and size (bytes): a CRC of all bytes, or a checksum of the checksums."""
    digests = [b64decode(text) for text, _ in parts]
    if kind == COMPOSITE:
        checksums = Checksums(AnnouncedChecksums(), also=(algorithm,))
        checksums.update(b"".join(digests))
        return f"{checksums.encoded(algorithm)}-{len(parts)}"
    from awscrt import checksums as crt  # 45 ms to import, and few uploads need it

    combine = getattr(crt, _COMBINABLE[algorithm])
    value = int.from_bytes(digests[0])
    for digest, (_, size_bytes) in zip(digests[1:], parts[1:], strict=True):
        value = combine(value, int.from_bytes(digest), size_bytes)
    return b64encode(value.to_bytes(ALGORITHMS[algorithm])).decode()
