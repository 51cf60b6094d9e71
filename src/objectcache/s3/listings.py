"""Bodies of listings: buckets, objects (three ways), parts and uploads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from objectcache.s3.xml import document, element, group, text, timestamp
from objectcache.stores import ObjectInfo

OWNER_ID = "objectcache"


@dataclass(frozen=True, slots=True)
class ListRequest:
    """What a listing of objects was asked: `after` is where it begins (exclusive), in the request's own word.

    `encode` makes keys and prefixes percent-encoded, as `encoding-type=url` asks.
    """

    bucket: str
    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    max_keys: int = 1000
    encode: bool = False

    def text(self, key: str) -> str:
        return quote(key, safe="/~", errors="surrogatepass") if self.encode else key


@dataclass(frozen=True, slots=True)
class ListedPage:
    """One page: `objects` by their keys, `prefixes` that the delimiter made; the last of both when there is more."""

    objects: Sequence[tuple[str, ObjectInfo]]
    prefixes: Sequence[str]
    next_after: str = ""

    @property
    def is_truncated(self) -> bool:
        return bool(self.next_after)


def owner(tag: str = "Owner") -> str:
    return group(tag, [element("ID", OWNER_ID), element("DisplayName", OWNER_ID)])


def buckets_body(buckets: Iterable[tuple[str, float]]) -> bytes:
    """(name, when it was made) of each."""
    made = [
        group("Bucket", [element("Name", name), element("CreationDate", timestamp(made_s))]) for name, made_s in buckets
    ]
    return document("ListAllMyBucketsResult", [owner(), group("Buckets", made)])


def list_v1_body(asked: ListRequest, marker: str, page: ListedPage) -> bytes:
    # Clients decode all that is encoded here but the prefix.
    head = [element("Prefix", asked.prefix), *_list_head(asked, page), element("Marker", asked.text(marker))]
    if page.is_truncated and asked.delimiter:
        head.append(element("NextMarker", asked.text(page.next_after)))
    return document("ListBucketResult", [*head, *_entries(asked, page, owned=True)])


def list_v2_body(
    asked: ListRequest, page: ListedPage, *, token: str | None, next_token: str, start_after: str, owned: bool
) -> bytes:
    head = [element("Prefix", asked.text(asked.prefix)), *_list_head(asked, page)]
    head.append(element("KeyCount", len(page.objects) + len(page.prefixes)))
    if token is not None:
        head.append(element("ContinuationToken", token))
    if page.is_truncated:
        head.append(element("NextContinuationToken", next_token))
    if start_after:
        head.append(element("StartAfter", asked.text(start_after)))
    return document("ListBucketResult", [*head, *_entries(asked, page, owned=owned)])


def list_versions_body(asked: ListRequest, marker: str, page: ListedPage) -> bytes:
    """Every object is its own and only version, `null`, as in a bucket that never had versioning."""
    head = [element("Prefix", asked.text(asked.prefix)), *_list_head(asked, page)]
    head += [element("KeyMarker", asked.text(marker)), element("VersionIdMarker", "")]
    if page.is_truncated:
        head += [element("NextKeyMarker", asked.text(page.next_after)), element("NextVersionIdMarker", "null")]
    version = [element("VersionId", "null"), element("IsLatest", True), owner()]
    versions = [group("Version", [*_object(asked, key, info), *version]) for key, info in page.objects]
    return document("ListVersionsResult", [*head, *versions, *_prefixes(asked, page.prefixes)])


def _list_head(asked: ListRequest, page: ListedPage) -> list[str]:
    head = [
        element("Name", asked.bucket),
        element("MaxKeys", asked.max_keys),
        element("IsTruncated", page.is_truncated),
    ]
    if asked.delimiter:
        head.append(element("Delimiter", asked.text(asked.delimiter)))
    if asked.encode:
        head.append(element("EncodingType", "url"))
    return head


def _entries(asked: ListRequest, page: ListedPage, *, owned: bool) -> list[str]:
    tail = [owner()] if owned else []
    contents = [group("Contents", [*_object(asked, key, info), *tail]) for key, info in page.objects]
    return contents + _prefixes(asked, page.prefixes)


def _object(asked: ListRequest, key: str, info: ObjectInfo) -> list[str]:
    # In one go: a page has a thousand of them.
    return [
        f"{element('Key', asked.text(key))}<LastModified>{timestamp(info.modified_s)}</LastModified>"
        f'<ETag>"{text(info.etag)}"</ETag><Size>{info.size_bytes}</Size><StorageClass>STANDARD</StorageClass>'
    ]


def _prefixes(asked: ListRequest, prefixes: Iterable[str]) -> list[str]:
    return [group("CommonPrefixes", [element("Prefix", asked.text(prefix))]) for prefix in prefixes]
