"""Bodies of multipart uploads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree

from objectcache.errors import InvalidPartOrderError, MalformedXMLError
from objectcache.s3.listings import ListRequest, owner
from objectcache.s3.xml import document, element, group, parse, timestamp
from objectcache.stores import ObjectInfo

MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class CompletedPart:
    """A part as a CompleteMultipartUpload names it; `checksums` by lower-case algorithm (crc32, …), base64."""

    number: int
    etag: str
    checksums: Mapping[str, str]


def created_body(bucket: str, key: str, upload_id: str) -> bytes:
    fields = [element("Bucket", bucket), element("Key", key), element("UploadId", upload_id)]
    return document("InitiateMultipartUploadResult", fields)


def completed_body(
    location: str, bucket: str, key: str, etag: str, algorithm: str = "", checksum: str = "", kind: str = ""
) -> bytes:
    """`checksum` in base64 by `algorithm` (lower case), of a type."""
    fields = [
        element("Location", location),
        element("Bucket", bucket),
        element("Key", key),
        element("ETag", f'"{etag}"'),
    ]
    if checksum:
        fields += [element(f"Checksum{algorithm.upper()}", checksum), element("ChecksumType", kind)]
    return document("CompleteMultipartUploadResult", fields)


def parse_complete(body: bytes) -> list[CompletedPart]:
    """Of a part that is named twice, the latter. Raises MalformedXMLError, InvalidPartOrderError."""
    parts = [_completed(item) for item in parse(body, "CompleteMultipartUpload").findall("Part")]
    if not parts:
        raise MalformedXMLError("a multipart upload is completed with at least one part")
    if any(later.number < earlier.number for earlier, later in pairwise(parts)):
        raise InvalidPartOrderError("parts must be named in ascending order of their numbers")
    return list({part.number: part for part in parts}.values())


def _completed(item: ElementTree.Element) -> CompletedPart:
    try:
        number = int(item.findtext("PartNumber", ""))
    except ValueError as error:
        raise MalformedXMLError("a part has no PartNumber") from error
    etag = item.findtext("ETag", "").strip().strip('"')
    if not etag or not 1 <= number <= MAX_PARTS:
        raise MalformedXMLError(f"a part has an ETag and a number from 1 to {MAX_PARTS}")
    sums = {
        child.tag.removeprefix("Checksum").lower(): (child.text or "").strip()
        for child in item
        if child.tag.startswith("Checksum")
    }
    return CompletedPart(number, etag, sums)


def parts_body(
    bucket: str,
    key: str,
    upload_id: str,
    parts: Sequence[tuple[int, ObjectInfo]],
    *,
    after: int,
    max_parts: int,
    truncated: bool,
) -> bytes:
    """A page of the parts that are there, by number."""
    head = [
        element("Bucket", bucket),
        element("Key", key),
        element("UploadId", upload_id),
        element("PartNumberMarker", after),
        element("NextPartNumberMarker", parts[-1][0] if parts else 0),
        element("MaxParts", max_parts),
        element("IsTruncated", truncated),
        owner("Initiator"),
        owner(),
        element("StorageClass", "STANDARD"),
    ]
    return document("ListPartsResult", [*head, *(_part(number, info) for number, info in parts)])


def _part(number: int, info: ObjectInfo) -> str:
    fields = [
        element("PartNumber", number),
        element("LastModified", timestamp(info.modified_s)),
        element("ETag", f'"{info.etag}"'),
        element("Size", info.size_bytes),
    ]
    return group("Part", fields)


def uploads_body(
    asked: ListRequest,
    uploads: Iterable[tuple[str, str, float]],
    prefixes: Iterable[str],
    *,
    id_marker: str,
    next_key: str,
    next_id: str,
) -> bytes:
    """(key, upload id, when it began) of uploads that are under way."""
    head = [
        element("Bucket", asked.bucket),
        element("KeyMarker", asked.text(asked.after)),
        element("UploadIdMarker", id_marker),
        element("Prefix", asked.text(asked.prefix)),
        element("MaxUploads", asked.max_keys),
        element("IsTruncated", bool(next_key)),
    ]
    if next_key:
        head += [element("NextKeyMarker", asked.text(next_key)), element("NextUploadIdMarker", next_id)]
    if asked.delimiter:
        head.append(element("Delimiter", asked.text(asked.delimiter)))
    if asked.encode:
        head.append(element("EncodingType", "url"))
    running = [
        group(
            "Upload",
            [
                element("Key", asked.text(key)),
                element("UploadId", upload_id),
                owner("Initiator"),
                owner(),
                element("StorageClass", "STANDARD"),
                element("Initiated", timestamp(begun_s)),
            ],
        )
        for key, upload_id, begun_s in uploads
    ]
    common = [group("CommonPrefixes", [element("Prefix", asked.text(prefix))]) for prefix in prefixes]
    return document("ListMultipartUploadsResult", [*head, *running, *common])
