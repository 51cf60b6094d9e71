"""Other bodies: copies, deletions of many, and what a bucket says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from objectcache.errors import MalformedXMLError, ObjectCacheError
from objectcache.s3.listings import OWNER_ID, owner
from objectcache.s3.xml import document, element, group, parse, timestamp

MAX_DELETES = 1000
_XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"'


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """A DeleteObjects: (key, version id or "") each, and whether only errors are to be told."""

    keys: Sequence[tuple[str, str]]
    quiet: bool


def parse_delete(body: bytes) -> DeleteRequest:
    """Raises MalformedXMLError."""
    root = parse(body, "Delete")
    keys = [(item.findtext("Key") or "", item.findtext("VersionId") or "") for item in root.findall("Object")]
    if not 1 <= len(keys) <= MAX_DELETES or not all(key for key, _ in keys):
        raise MalformedXMLError(f"a Delete names 1 to {MAX_DELETES} objects, each by its Key")
    return DeleteRequest(keys, root.findtext("Quiet", "").lower() == "true")


def deleted_body(deleted: Iterable[str], failed: Iterable[tuple[str, ObjectCacheError]]) -> bytes:
    gone = [group("Deleted", [element("Key", key)]) for key in deleted]
    left = [
        group("Error", [element("Key", key), element("Code", error.code), element("Message", str(error))])
        for key, error in failed
    ]
    return document("DeleteResult", gone + left)


def copied_body(etag: str, modified_s: float, *, part: bool = False) -> bytes:
    fields = [element("LastModified", timestamp(modified_s)), element("ETag", f'"{etag}"')]
    return document("CopyPartResult" if part else "CopyObjectResult", fields)


def location_body(region: str) -> bytes:
    """us-east-1 is written as nothing."""
    return document("LocationConstraint", [] if region == "us-east-1" else [region])


def versioning_body() -> bytes:
    """Never enabled."""
    return document("VersioningConfiguration", [])


def tagging_body() -> bytes:
    """No tags."""
    return document("Tagging", [group("TagSet", [])])


def acl_body() -> bytes:
    """The owner has full control; who may do what is in the gateway's access keys."""
    grantee = f"<Grantee {_XSI}>{element('ID', OWNER_ID)}{element('DisplayName', OWNER_ID)}</Grantee>"
    grant = group("Grant", [grantee, element("Permission", "FULL_CONTROL")])
    return document("AccessControlPolicy", [owner(), group("AccessControlList", [grant])])
