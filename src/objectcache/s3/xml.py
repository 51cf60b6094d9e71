"""S3's XML bodies: errors and listings, written and read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from objectcache.errors import ObjectCacheError, error_from_code
from objectcache.stores import ObjectInfo

_UNPRINTABLE = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def error_body(error: ObjectCacheError, resource: str, request_id: str) -> bytes:
    fields = {"Code": error.code, "Message": str(error), "Resource": resource, "RequestId": request_id}
    inner = "".join(f"<{name}>{escape(_printable(value))}</{name}>" for name, value in fields.items())
    return f"{_DECLARATION}<Error>{inner}</Error>".encode()


def parse_error(status: int, body: bytes) -> ObjectCacheError:
    """The error in a response; where the body is none, what the status says."""
    try:
        root = ElementTree.fromstring(body)
        code, message = root.findtext("Code"), root.findtext("Message")
    except ElementTree.ParseError:
        code = message = None
    if code is None:
        return ObjectCacheError(f"HTTP {status} without an S3 error body")
    return error_from_code(code, message or "", status)


def list_body(
    bucket: str,
    prefix: str,
    delimiter: str,
    objects: Iterable[ObjectInfo],
    prefixes: Iterable[str],
    max_keys: int,
    next_token: str,
) -> bytes:
    """A ListObjectsV2 result."""
    parts = [
        f"<Name>{escape(bucket)}</Name><Prefix>{escape(prefix)}</Prefix><MaxKeys>{max_keys}</MaxKeys>",
        f"<Delimiter>{escape(delimiter)}</Delimiter>" if delimiter else "",
        f"<IsTruncated>{'true' if next_token else 'false'}</IsTruncated>",
        f"<NextContinuationToken>{escape(next_token)}</NextContinuationToken>" if next_token else "",
    ]
    count = 0
    for info in objects:
        modified = datetime.fromtimestamp(info.modified_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        parts.append(
            f"<Contents><Key>{escape(info.name)}</Key><LastModified>{modified}</LastModified>"
            f"<ETag>&quot;{escape(info.etag)}&quot;</ETag><Size>{info.size_bytes}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
        count += 1
    for common in prefixes:
        parts.append(f"<CommonPrefixes><Prefix>{escape(common)}</Prefix></CommonPrefixes>")
        count += 1
    parts.append(f"<KeyCount>{count}</KeyCount>")
    return f'{_DECLARATION}<ListBucketResult xmlns="{_NAMESPACE}">{"".join(parts)}</ListBucketResult>'.encode()


def _printable(text: str) -> str:
    """XML 1.0 has no control characters and no lone surrogates (header bytes that are no UTF-8), escaped or not."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
