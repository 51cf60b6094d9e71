"""From a request line and Host header to bucket, key and operation. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from objectcache.errors import InvalidArgumentError, MethodNotAllowedError, NotSupportedError
from objectcache.s3 import Grant


class Operation(NamedTuple):
    """`needs` is what the caller must be granted for the bucket, or for all of them where the request names none; None:
    the handler decides."""

    name: str
    needs: Grant | None


class Route(NamedTuple):
    bucket: str
    key: str
    operation: Operation


def _operations(needs: Grant | None, table: Mapping[str, str]) -> dict[tuple[str, str], Operation]:
    """From "METHOD sub-resource" to names."""
    return {(line.split()[0], " ".join(line.split()[1:])): Operation(name, needs) for line, name in table.items()}


_ON_SERVICE = _operations(None, {"GET": "list-buckets"}) | _operations(
    Grant.ADMIN,
    {
        "GET kv-bandwidth": "kv-bandwidth",
        "POST kv-bandwidth": "kv-bandwidth",
        "POST kv-share": "kv-share",
    },
)
_ON_BUCKET = (
    _operations(Grant.ADMIN, {"PUT": "create-bucket", "DELETE": "delete-bucket"})
    | _operations(
        Grant.READ,
        {
            "HEAD": "head-bucket",
            "GET": "list-objects",
            "GET list-type": "list-objects-v2",
            "GET versions": "list-versions",
            "GET location": "get-location",
            "GET versioning": "get-versioning",
            "GET acl": "get-acl",
            "GET uploads": "list-uploads",
            "POST kv-match": "kv-match",
            "POST kv-release": "kv-release",
            "POST kv-session": "kv-session",
            "POST kv-nixl": "kv-nixl",
            "POST kv-retrieve": "kv-retrieve",
            "POST kv-match-and-retrieve": "kv-match-and-retrieve",
            "DELETE kv-delivery": "kv-delivery",
            "POST kv-windows": "kv-windows",
            "POST kv-damage": "kv-damage",
            "POST kv-explain": "kv-explain",
            "GET kv-sent": "kv-sent",
            "GET kv-control": "kv-control",
        },
    )
    | _operations(
        Grant.WRITE,
        {
            "POST delete": "delete-objects",
            "PUT kv-namespace": "kv-namespace",
            "PUT kv-store": "kv-store",
            "POST kv-commit": "kv-commit",
        },
    )
)
_ON_OBJECT = _operations(
    Grant.READ,
    {
        "GET": "get-object",
        "HEAD": "head-object",
        "GET acl": "get-acl",
        "GET tagging": "get-tagging",
        "GET uploadId": "list-parts",
    },
) | _operations(
    Grant.WRITE,
    {
        "PUT": "put-object",
        "DELETE": "delete-object",
        "POST uploads": "create-upload",
        "PUT uploadId": "put-part",
        "POST uploadId": "complete-upload",
        "DELETE uploadId": "abort-upload",
    },
)
_SUBRESOURCES = {query for _, query in (*_ON_SERVICE, *_ON_BUCKET, *_ON_OBJECT) if query}
_UNSERVED = frozenset(
    [
        "abac",
        "accelerate",
        "acl",
        "analytics",
        "attributes",
        "cors",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "legal-hold",
        "lifecycle",
        "logging",
        "metadataConfiguration",
        "metadataInventoryTable",
        "metadataJournalTable",
        "metadataTable",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "renameObject",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "session",
        "tagging",
        "torrent",
        "versioning",
        "website",
    ]
)


def split_target(raw_path: str, host: str, domains: Collection[str]) -> tuple[str, str]:
    """Bucket and key, decoded; the bucket comes from the Host header where that is below one of `domains`.

    Raises InvalidArgumentError for what is not percent-encoded UTF-8.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    bucket, key = "", raw_path.removeprefix("/")
    for domain in domains:
        if name.lower().endswith(f".{domain.lower()}"):
            bucket = name[: -len(domain) - 1].lower()
            break
    else:
        bucket, _, key = key.partition("/")
    try:
        # What decodes to a "/" is no bucket's name, which is looked at where buckets are.
        return unquote(bucket, errors="strict"), unquote(key, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"bucket and key are UTF-8, percent-encoded: {error}") from error


def route(method: str, bucket: str, key: str, query: Collection[str]) -> Route:
    """What is asked, by method and sub-resource.

    Raises MethodNotAllowedError, NotSupportedError, InvalidArgumentError.
    """
    table = _ON_OBJECT if key else _ON_BUCKET if bucket else _ON_SERVICE
    wanted = [name for name in query if name in _SUBRESOURCES and (method, name) in table]
    operation = table.get((method, wanted[0] if wanted else ""))
    if not wanted:
        if key and method == "PUT" and "partNumber" in query:
            raise InvalidArgumentError("a part needs the uploadId that it is for")
        unserved = [name for name in query if name in _UNSERVED]
        if unserved:
            raise NotSupportedError(f"?{unserved[0]} is not served here")
        if any(name in _SUBRESOURCES or name.startswith("kv-") for name in query):
            operation = None
    if operation is None:
        where = "an object" if key else "a bucket" if bucket else "the service"
        asked = "".join(f"?{name}" for name in query if name in _SUBRESOURCES or name.startswith("kv-"))
        raise MethodNotAllowedError(f"{method}{asked} is not served on {where}")
    return Route(bucket, key, operation)
