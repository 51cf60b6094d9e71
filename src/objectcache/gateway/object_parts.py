"""The parts that an object was uploaded in, kept as metadata, so that each can be read by its number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from objectcache.errors import InvalidArgumentError, InvalidPartError
from objectcache.s3.multipart import MAX_PARTS
from objectcache.stores import ObjectInfo

PART_SIZES = "x-kv-part-sizes"
PARTS_ETAG = "x-kv-parts-etag"
"""What S3 itself would call the object: over a store that makes etags of its own, the object's is another."""
_MOST_CHARACTERS = 512
"""Parts are mostly alike; where they are not, and many, they cannot be read by number."""
ROOM_FOR_OWN = {
    PART_SIZES: "0" * _MOST_CHARACTERS,
    PARTS_ETAG: "0" * 38,
    "x-amz-checksum-sha256": "0" * 64,
    "x-amz-checksum-type": "0" * 16,
}
"""What a completed upload's metadata has besides the client's, at its longest."""


def with_part_sizes(metadata: Mapping[str, str], sizes: Sequence[int]) -> dict[str, str]:
    """`metadata`, and in it `sizes` (bytes): "8388608*12,1000" is twelve of 8 MiB and one of 1,000."""
    runs = ",".join(f"{size}*{len(list(same))}" for size, same in groupby(sizes))
    return {**metadata, PART_SIZES: runs} if len(runs) <= _MOST_CHARACTERS else dict(metadata)


def part_of(info: ObjectInfo, number: str) -> tuple[tuple[int, int], int]:
    """The range [first, stop) of part `number`, and how many parts there are. An object that was put whole is its only
    part. Raises InvalidArgumentError, InvalidPartError.
    """
    if not re.fullmatch("[0-9]{1,5}", number) or not 1 <= int(number) <= MAX_PARTS:
        raise InvalidArgumentError(f"partNumber must lie in 1..{MAX_PARTS}")
    sizes = _part_sizes(info)
    index = int(number) - 1
    if index >= len(sizes):
        raise InvalidPartError(f"the object has {len(sizes)} parts")
    first = sum(sizes[:index])
    return (first, first + sizes[index]), len(sizes)


def _part_sizes(info: ObjectInfo) -> list[int]:
    kept = info.metadata.get(PART_SIZES)
    if kept is None:
        return [info.size_bytes]
    return [int(size) for size, _, times in (run.partition("*") for run in kept.split(",")) for _ in range(int(times))]
