"""From request lines to operations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import InvalidArgumentError, MethodNotAllowedError, NotSupportedError, RequestError
from objectcache.gateway import routing
from objectcache.gateway.routing import Operation, route, split_target
from objectcache.s3 import Grant

KINDS = {
    "service": ("", "", routing._ON_SERVICE),
    "bucket": ("b", "", routing._ON_BUCKET),
    "object": ("b", "k", routing._ON_OBJECT),
}


def operations() -> Iterator[tuple[str, str, str, str, Operation]]:
    for kind, (bucket, key, table) in KINDS.items():
        for (method, resource), operation in table.items():
            if resource:
                yield f"{kind} {operation.name}", method, bucket, key, operation


@pytest.mark.parametrize(
    ("method", "target", "query", "name", "needs"),
    [
        ("GET", "", [], "list-buckets", None),
        ("GET", "b", [], "list-objects", Grant.READ),
        ("GET", "b", ["list-type", "prefix"], "list-objects-v2", Grant.READ),
        ("GET", "b", ["prefix", "list-type", "x-id"], "list-objects-v2", Grant.READ),
        ("GET", "b", ["versions"], "list-versions", Grant.READ),
        ("GET", "b", ["uploads"], "list-uploads", Grant.READ),
        ("GET", "b", ["location"], "get-location", Grant.READ),
        ("HEAD", "b", [], "head-bucket", Grant.READ),
        ("PUT", "b", [], "create-bucket", Grant.ADMIN),
        ("DELETE", "b", [], "delete-bucket", Grant.ADMIN),
        ("POST", "b", ["delete"], "delete-objects", Grant.WRITE),
        ("POST", "b", ["kv-match"], "kv-match", Grant.READ),
        ("POST", "b", ["kv-retrieve"], "kv-retrieve", Grant.READ),
        ("POST", "b", ["kv-match-and-retrieve"], "kv-match-and-retrieve", Grant.READ),
        ("DELETE", "b", ["kv-delivery"], "kv-delivery", Grant.READ),
        ("PUT", "b", ["kv-store"], "kv-store", Grant.WRITE),
        ("POST", "b", ["kv-commit"], "kv-commit", Grant.WRITE),
        ("PUT", "b", ["kv-namespace"], "kv-namespace", Grant.WRITE),
        ("GET", "b/k", [], "get-object", Grant.READ),
        ("GET", "b/k", ["versionId", "response-content-type", "partNumber"], "get-object", Grant.READ),
        ("GET", "b/k", ["uploadId", "max-parts"], "list-parts", Grant.READ),
        ("HEAD", "b/k", [], "head-object", Grant.READ),
        ("PUT", "b/k", ["x-id"], "put-object", Grant.WRITE),
        ("PUT", "b/k", ["partNumber", "uploadId"], "put-part", Grant.WRITE),
        ("POST", "b/k", ["uploads"], "create-upload", Grant.WRITE),
        ("POST", "b/k", ["uploadId"], "complete-upload", Grant.WRITE),
        ("DELETE", "b/k", ["uploadId"], "abort-upload", Grant.WRITE),
        ("DELETE", "b/k", [], "delete-object", Grant.WRITE),
    ],
)
def test_what_is_asked(method: str, target: str, query: list[str], name: str, needs: Grant | None) -> None:
    bucket, _, key = target.partition("/")
    assert route(method, bucket, key, query).operation == Operation(name, needs)


def test_what_changes_anything_needs_more_than_reading() -> None:
    for table in (routing._ON_SERVICE, routing._ON_BUCKET, routing._ON_OBJECT):
        for (method, resource), operation in table.items():
            if method in ("GET", "HEAD") or resource in (
                *(
                    "kv-match",
                    "kv-release",
                    "kv-session",
                    "kv-nixl",
                    "kv-retrieve",
                    "kv-match-and-retrieve",
                    "kv-delivery",
                    "kv-damage",
                    "kv-explain",
                ),
                "kv-windows",
            ):
                continue
            assert operation.needs is not None
            assert operation.needs >= Grant.WRITE, operation


@pytest.mark.parametrize(
    ("method", "target", "query", "error"),
    [
        ("PUT", "b/k", ["partNumber"], InvalidArgumentError),
        ("PUT", "b/k", ["acl"], NotSupportedError),
        ("PUT", "b/k", ["tagging"], NotSupportedError),
        ("DELETE", "b/k", ["tagging"], NotSupportedError),
        ("PUT", "b/k", ["renameObject"], NotSupportedError),
        ("DELETE", "b", ["metadataTable"], NotSupportedError),
        ("PUT", "b", ["versioning"], NotSupportedError),
        ("DELETE", "b", ["policy"], NotSupportedError),
        ("PUT", "b", ["lifecycle"], NotSupportedError),
        ("GET", "b/k", ["torrent"], NotSupportedError),
        ("PUT", "b/k", ["retention"], NotSupportedError),
        ("POST", "b/k", [], MethodNotAllowedError),
        ("PATCH", "b/k", [], MethodNotAllowedError),
        ("OPTIONS", "b", [], MethodNotAllowedError),
        ("DELETE", "", [], MethodNotAllowedError),
        ("POST", "b", ["kv-nonsense"], MethodNotAllowedError),
        ("GET", "b", ["kv-store"], MethodNotAllowedError),
        ("PUT", "b/k", ["kv-store"], MethodNotAllowedError),
        ("DELETE", "b/k", ["kv-delivery"], MethodNotAllowedError),
    ],
)
def test_a_sub_resource_is_never_passed_over(
    method: str, target: str, query: list[str], error: type[RequestError]
) -> None:
    """`DELETE /b?policy` must not delete the bucket, nor `PUT /b/k?tagging` replace the object."""
    bucket, _, key = target.partition("/")
    with pytest.raises(error):
        route(method, bucket, key, query)


@pytest.mark.parametrize(
    ("path", "host", "found"),
    [
        ("/", "127.0.0.1:9000", ("", "")),
        ("/b", "127.0.0.1:9000", ("b", "")),
        ("/b/", "127.0.0.1:9000", ("b", "")),
        ("/b/k/l", "[::1]:9000", ("b", "k/l")),
        ("/b//k", "x", ("b", "/k")),
        ("/b/a%2Fb%20c+d", "x", ("b", "a/b c+d")),
        ("/b/%C3%BC", "x", ("b", "ü")),
        ("/k/l", "b.s3.example.org", ("b", "k/l")),
        ("/k/l", "B.S3.Example.org:9000", ("b", "k/l")),
        ("/", "b.s3.example.org", ("b", "")),
        ("/", "a.b.s3.example.org", ("a.b", "")),
        ("/b/k", "s3.example.org", ("b", "k")),
        ("/b/k", "xs3.example.org", ("b", "k")),
        ("/metrics", "b.s3.example.org", ("b", "metrics")),
        ("/%2e%2e%2fx/k", "x", ("../x", "k")),
    ],
)
def test_bucket_and_key(path: str, host: str, found: tuple[str, str]) -> None:
    assert split_target(path, host, ["S3.example.org"]) == found


def test_what_is_no_utf_8() -> None:
    with pytest.raises(InvalidArgumentError):
        split_target("/b/%ff", "x", [])


@given(st.text(), st.text())
def test_any_target_is_split_or_refused(path: str, host: str) -> None:
    try:
        bucket, key = split_target(path, host, ["example.org"])
    except InvalidArgumentError:
        return
    assert isinstance(bucket, str)
    assert isinstance(key, str)


@pytest.mark.parametrize(("method", "bucket", "key", "operation"), [item[1:] for item in operations()])
def test_every_sub_resource_is_reached(method: str, bucket: str, key: str, operation: Operation) -> None:
    table = routing._ON_OBJECT if key else routing._ON_BUCKET if bucket else routing._ON_SERVICE
    resource = next(resource for (at, resource), found in table.items() if (at, found) == (method, operation))
    assert route(method, bucket, key, ["prefix", resource, "x-id"]).operation == operation
