"""Multipart uploads that are under way, as they lie in the store.

    .kv/mp/<upload id>/begun          key, metadata, and what checksum it is to have
    .kv/mp/<upload id>/part/<number>  the parts
    .kv/mp/<upload id>/sum/<number>   the etag of a part that came with a checksum of that kind, and that, in base64

So any gateway on the same store can go on with what another has begun.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

import msgpack

from objectcache.errors import EntityTooSmallError, InvalidPartError, ObjectNotFoundError, UploadNotFoundError
from objectcache.gateway.object_headers import CHECKSUM_PREFIX
from objectcache.gateway.object_parts import PARTS_ETAG
from objectcache.names import MULTIPART_PREFIX
from objectcache.s3.multipart import CompletedPart
from objectcache.s3.part_checksums import CHECKSUM_TYPE, whole_checksum
from objectcache.stores import ObjectInfo, Store

MIN_PART_BYTES = 5 << 20
_ID = re.compile(r"[0-9a-f]{32}")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class BegunUpload:
    """An upload that is under way."""

    id: str
    key: str
    metadata: dict[str, str]
    algorithm: str
    checksum_type: str
    begun_s: float


def running_uploads(store: Store) -> list[BegunUpload]:
    """All that are under way, by key and then by id, which is by age. Raises StoreError."""
    found = []
    for prefix in store.list_prefixes(MULTIPART_PREFIX):
        id = prefix.removeprefix(MULTIPART_PREFIX).removesuffix("/")
        try:
            found.append(_read_begun(store, id))
        except ObjectNotFoundError:
            continue  # just completed or aborted
    return sorted(found, key=lambda begun: (begun.key, begun.id))


def new_upload_id(now_ns: int) -> str:
    """Never given out twice; of two, the later sorts behind."""
    return f"{now_ns:016x}{secrets.token_hex(8)}"


def remove_upload(store: Store, id: str) -> None:
    """What says that it is under way goes last: a removal that breaks off can be done again."""
    for info in list(store.list(f"{MULTIPART_PREFIX}{id}/")):
        if info.name != begun_name(id):
            store.delete(info.name)
    store.delete(begun_name(id))


def find_upload(store: Store, id: str, key: str) -> BegunUpload:
    """The upload of `key` that is called `id`. Raises UploadNotFoundError."""
    try:
        begun = _read_begun(store, id) if _ID.fullmatch(id) else None
    except ObjectNotFoundError:
        begun = None
    if begun is None or begun.key != key:
        raise UploadNotFoundError("there is no such upload of this key: it was completed, aborted or never begun")
    return begun


def keep_part(store: Store, begun: BegunUpload, number: int, etag: str, checksum: str) -> None:
    """A part is whole; with the `checksum` it came with, or "". Raises UploadNotFoundError, StoreError.

    Where the upload was completed or aborted meanwhile, nothing may stay that nobody would ever remove.
    """
    if checksum:
        store.put(_sum_name(begun.id, number), f"{etag} {checksum}".encode())
    try:
        store.head(begun_name(begun.id))
    except ObjectNotFoundError:
        remove_upload(store, begun.id)
        raise UploadNotFoundError("the upload was completed or aborted while this part was on its way") from None


def _read_begun(store: Store, id: str) -> BegunUpload:
    with store.open(begun_name(id)) as reader:
        content: tuple[str, dict[str, str], str, str] = msgpack.unpackb(reader.read(0, reader.info.size_bytes))
        return BegunUpload(id, *content, reader.info.modified_s)


def chosen_parts(store: Store, begun: BegunUpload, asked: list[CompletedPart]) -> list[ObjectInfo]:
    """The parts that a completion names. Raises InvalidPartError, EntityTooSmallError."""
    there = {number_of(info): info for info in store.list(part_prefix(begun.id))}
    parts = []
    for item in asked:
        info = there.get(item.number)
        if info is None or info.etag != item.etag:
            raise InvalidPartError(f"part {item.number} was not uploaded, or has another ETag than {item.etag[:80]}")
        parts.append(info)
    small = [info for info in parts[:-1] if info.size_bytes < MIN_PART_BYTES]
    if small:
        raise EntityTooSmallError(f"all parts but the last have at least {MIN_PART_BYTES} bytes")
    return parts


def checksum_of(store: Store, begun: BegunUpload, asked: list[CompletedPart], parts: list[ObjectInfo]) -> str:
    """Of all parts, in base64; "" where not each came with one. Raises InvalidPartError for another part's."""
    sums: list[tuple[str, int]] = []
    for item, info in zip(asked, parts, strict=True):
        try:
            etag, _, value = store.get(_sum_name(begun.id, item.number)).decode().partition(" ")
        except ObjectNotFoundError:
            return ""
        if etag != info.etag:
            return ""  # of the part that was there before this one
        if item.checksums.get(begun.algorithm, value) != value:
            raise InvalidPartError(f"the checksum of part {item.number} is {value}")
        sums.append((value, info.size_bytes))
    return whole_checksum(begun.algorithm, begun.checksum_type, sums) if begun.algorithm else ""


def checksum_kept(info: ObjectInfo) -> tuple[str, str, str]:
    """Algorithm, checksum and its type, as an object has them in its metadata."""
    for name, value in info.metadata.items():
        if name.startswith(CHECKSUM_PREFIX) and name != CHECKSUM_TYPE:
            return name.removeprefix(CHECKSUM_PREFIX), value, info.metadata.get(CHECKSUM_TYPE, "")
    return "", "", ""


def completed_before(store: Store, name: str, asked: list[CompletedPart]) -> ObjectInfo | None:
    """The object, if it is what these parts make: the answer to the first completion was lost."""
    try:
        info = store.head(name)
    except ObjectNotFoundError:
        return None
    etag = etag_of([part.etag for part in asked])
    return info if etag in (info.etag, info.metadata.get(PARTS_ETAG)) else None


def etag_of(parts: list[str]) -> str:
    """As S3 makes it of the parts' etags: the MD5 of their MD5s, and how many they are."""
    digests = (bytes.fromhex(etag) if _MD5.fullmatch(etag) else etag.encode() for etag in parts)
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(parts)}"


def begun_name(id: str) -> str:
    return f"{MULTIPART_PREFIX}{id}/begun"


def _sum_name(id: str, number: int) -> str:
    return f"{MULTIPART_PREFIX}{id}/sum/{number:05d}"


def part_prefix(id: str) -> str:
    return f"{MULTIPART_PREFIX}{id}/part/"


def part_name(id: str, number: int) -> str:
    return f"{part_prefix(id)}{number:05d}"


def number_of(info: ObjectInfo) -> int:
    return int(info.name.rpartition("/")[2])
