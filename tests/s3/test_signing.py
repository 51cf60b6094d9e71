"""Signatures made by botocore, and those that AWS publishes, are verified; anything changed is not."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from objectcache.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    SignatureDoesNotMatchError,
)
from objectcache.s3 import Credentials, PayloadKind, sign_headers
from objectcache.s3.sigv4 import Signer, sign, signing_key
from tests.s3.examples import EXAMPLES, HOST, URL, check, example, parse, presign
from tests.s3.wire import (
    ACCESS_KEY,
    EXAMPLE_TIME_S,
    EXAMPLE_TIMESTAMP,
    SECRET_KEY,
    Request,
    from_url,
    signed_by_botocore,
)

# -- the examples that AWS publishes


@pytest.mark.parametrize("name", EXAMPLES)
def test_published_examples_verify(name: str) -> None:
    signed = check(example(name), EXAMPLE_TIME_S)
    assert (signed.access_key, signed.region, signed.payload) == (ACCESS_KEY, "us-east-1", PayloadKind.HASH)


def test_the_published_presigned_url_verifies() -> None:
    url = (
        f"https://{HOST}/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ACCESS_KEY}%2F20130524%2Fus-east-1"
        f"%2Fs3%2Faws4_request&X-Amz-Date={EXAMPLE_TIMESTAMP}&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    signed = check(from_url("GET", url), EXAMPLE_TIME_S + 86400)
    assert (signed.payload, signed.expires_s) == (PayloadKind.UNSIGNED, 86400)
    with pytest.raises(AccessDeniedError):
        check(from_url("GET", url), EXAMPLE_TIME_S + 86401)


# -- botocore's signers

TARGETS = (
    "/bucket/key",
    "/bucket/a//b/../c/./d",
    "/bucket/with%20space%2Bplus+raw",
    "/bucket/%C3%BC%E2%82%AC~-_.",
    "/bucket/odd!'()*,;:=@$&",
    "/bucket?uploads",
    "/bucket/key?uploads=&partNumber=2&uploadId=a%2Fb",
    "/bucket?list-type=2&prefix=a%2Fb&delimiter=%2F&empty=&a=2&a=1&a=10",
    "/bucket?x=%20&y=%2B&z=~",
)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_botocore_signed_requests_verify_on_the_raw_target(target: str, method: str) -> None:
    body = b"payload" if method == "PUT" else b""
    headers = {"X-Amz-Meta-Note": "  several   spaces\tand tab ", "Content-Type": "text/plain", "User-Agent": "any"}
    signed = check(signed_by_botocore(method, URL + target, headers, body, region="eu-north-1"))
    assert signed.region == "eu-north-1"
    assert "user-agent" not in dict(signed.headers)


def test_a_target_that_is_sent_otherwise_encoded_than_it_was_signed_verifies_if_it_names_the_same() -> None:
    request = signed_by_botocore("GET", f"{URL}/bucket/a%28b%29%20c?prefix=a%2Fb%20c&uploads=", {})
    check(replace(request, path="/bucket/a(b)%20c", query="uploads&prefix=a/b+c"))
    for path, query in (("/bucket%2Fa(b)%20c", request.query), (request.path, "uploads&prefix=a/b%2Bc")):
        with pytest.raises(SignatureDoesNotMatchError):
            check(replace(request, path=path, query=query))


def test_a_header_that_is_sent_twice_is_signed_once_with_both_values() -> None:
    request = signed_by_botocore("PUT", f"{URL}/bucket/key", {"x-amz-meta-a": "one,two"})
    headers = CIMultiDict({name: value for name, value in request.headers.items() if name != "x-amz-meta-a"})
    headers.extend([("X-Amz-Meta-A", " one"), ("x-amz-meta-a", "two ")])
    check(replace(request, headers=headers))


def test_values_beyond_ascii_are_signed_as_utf8() -> None:
    request = signed_by_botocore("PUT", f"{URL}/bucket/key", {"x-amz-meta-a": "für €"})
    check(request)
    with pytest.raises(InvalidArgumentError):
        check(request.with_headers(x_amz_meta_a="f\udcfcr"))


def test_only_the_date_header() -> None:
    request = signed_by_botocore("GET", f"{URL}/bucket/key", {"Date": "now"})
    assert "X-Amz-Date" not in request.headers
    check(request)
    with pytest.raises(AccessDeniedError):
        check(request.with_headers(date="today"))
    with pytest.raises(AccessDeniedError):
        check(request.with_headers(date=None))


def test_a_date_without_a_time_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EST+5")
    time.tzset()
    try:
        request = signed_by_botocore("GET", f"{URL}/bucket/key", {"Date": "now"})
        assert request.headers["Date"].endswith(" -0000")
        check(request)
    finally:
        monkeypatch.undo()
        time.tzset()


PRESIGNED = (
    ("get_object", "GET", {"Bucket": "bucket", "Key": "a b/ü+c"}),
    ("get_object", "GET", {"Bucket": "bucket", "Key": "key", "ResponseContentType": "text/plain; charset=utf-8"}),
    ("put_object", "PUT", {"Bucket": "bucket", "Key": "key"}),
    ("list_objects_v2", "GET", {"Bucket": "bucket", "Prefix": "a/b c", "Delimiter": "/"}),
    ("upload_part", "PUT", {"Bucket": "bucket", "Key": "key", "UploadId": "u/1", "PartNumber": 3}),
)


@pytest.mark.parametrize(("operation", "method", "parameters"), PRESIGNED)
def test_urls_presigned_by_botocore_verify(operation: str, method: str, parameters: Mapping[str, Any]) -> None:
    signed = check(from_url(method, presign(operation, **parameters)))
    assert (signed.region, signed.expires_s, signed.payload) == ("eu-central-1", 3600, PayloadKind.UNSIGNED)


def test_a_presigned_url_is_for_its_method_and_headers_only() -> None:
    url = presign("put_object", Bucket="bucket", Key="key", ContentType="text/plain")
    check(from_url("PUT", url, {"Content-Type": "text/plain"}))
    with pytest.raises(SignatureDoesNotMatchError):
        check(from_url("GET", url, {"Content-Type": "text/plain"}))
    with pytest.raises(SignatureDoesNotMatchError):
        check(from_url("PUT", url, {"Content-Type": "text/html"}))
    with pytest.raises(AccessDeniedError):  # a signed header is missing
        check(from_url("PUT", url))
    with pytest.raises(AccessDeniedError):  # one is sent that should be signed
        check(from_url("PUT", url, {"Content-Type": "text/plain", "x-amz-acl": "public-read"}))


# -- our own client

HEADERS = st.dictionaries(
    st.from_regex(r"x-kv-[a-z]{1,8}|content-type|range", fullmatch=True), st.text("aZ 0\t,;=é", max_size=12), max_size=4
)


@given(headers=HEADERS, payload=st.none() | st.binary(max_size=40), region=st.sampled_from(["us-east-1", "x"]))
def test_what_the_client_signs_verifies(headers: dict[str, str], payload: bytes | None, region: str) -> None:
    keys = Credentials(ACCESS_KEY, SECRET_KEY, "token")
    target = "/kvcache/a%20b?kv-match&z=1&a="
    added = sign_headers(keys, "POST", "[::1]:9000", target, headers, payload=payload, region=region, now_s=1e9)
    path, _, query = target.partition("?")
    request = Request("POST", path, query, {"Host": "[::1]:9000", **headers, **added})
    signed = check(request, 1e9)
    assert set(headers) < dict(signed.headers).keys()
    assert signed.payload is (PayloadKind.UNSIGNED if payload is None else PayloadKind.HASH)


# Names of any case do not occur: `lowered` has made them lower. Values are as HTTP brings them, or worse.
NAMES = st.sampled_from(["host", "range", "x-amz-date", "x-amz-content-sha256", "x-kv-a", "x-kv-b", "content-type"])
VALUES = st.text("aZ 09\t\u00a0,:;=é€\x1f", max_size=12)
PARTS = st.text("aZ-_.~%2F+=!'()*/", max_size=12)


@given(
    method=st.sampled_from(["GET", "POST", "put"]),
    path=PARTS,
    query=st.lists(PARTS, max_size=4).map("&".join),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=6),
    payload=st.sampled_from(["UNSIGNED-PAYLOAD", "0" * 64]),
    region=st.sampled_from(["us-east-1", "x"]),
    secret=st.sampled_from([SECRET_KEY, "another"]),
    timestamp=st.sampled_from([EXAMPLE_TIMESTAMP, "20260101T235959Z"]),
)
def test_what_is_computed_quickly_is_what_botocore_computes(
    method: str,
    path: str,
    query: str,
    headers: list[tuple[str, str]],
    payload: str,
    region: str,
    secret: str,
    timestamp: str,
) -> None:
    signer = Signer(Credentials("id", secret), region, timestamp, method, path, query, headers, payload)
    made = sign(secret, region, timestamp, method, path, query, headers, payload)
    assert (made.signed_headers, made.signature) == (";".join(sorted(dict(headers))), signer.sign())


def test_a_day_has_a_key_of_its_own() -> None:
    keys = {signing_key(*of) for of in itertools.product(["one", "two"], ["us-east-1", "x"], ["20260101", "20260102"])}
    assert len(keys) == 8


def test_the_client_leaves_unsigned_what_proxies_change() -> None:
    headers = {"Connection": "keep-alive", "Expect": "100-continue", "Transfer-Encoding": "chunked"}
    added = sign_headers(Credentials(ACCESS_KEY, SECRET_KEY), "PUT", "host", "/", headers, payload=None)
    signed = check(Request("PUT", "/", "", {"Host": "host", **added}))
    assert dict(signed.headers).keys() == {"host", "x-amz-content-sha256", "x-amz-date"}


def test_secrets_are_not_shown() -> None:
    shown = repr(Credentials(ACCESS_KEY, SECRET_KEY, "token-of-mine"))
    shown += repr(parse(example("put")).chunk_signing(SECRET_KEY))
    assert SECRET_KEY not in shown
    assert "token-of-mine" not in shown
    assert "key=" not in shown.replace("access_key=", "")


def test_importing_the_room_does_not_import_botocore() -> None:
    """It takes a tenth of a second, which a process that signs nothing need not wait."""
    source = "import sys, objectcache.s3; sys.exit(bool({'botocore', 'awscrt'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", source], timeout=60, check=False).returncode == 0
