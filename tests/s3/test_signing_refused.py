"""Signatures of another form, time, key or request than S3 asks for."""

from __future__ import annotations

import calendar
import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from objectcache.errors import (
    AccessDeniedError,
    AuthorizationHeaderMalformedError,
    AuthorizationQueryParametersError,
    InvalidAccessKeyIdError,
    InvalidArgumentError,
    MissingSecurityHeaderError,
    RequestError,
    RequestTimeTooSkewedError,
    SignatureDoesNotMatchError,
)
from objectcache.s3 import PayloadKind, parse_authorization, verify
from tests.s3.examples import URL, check, example, parse, presign
from tests.s3.wire import (
    ACCESS_KEY,
    EMPTY_SHA256,
    EXAMPLE_TIME_S,
    EXAMPLE_TIMESTAMP,
    SECRET_KEY,
    Request,
    from_url,
    signed_by_botocore,
)


def put() -> Request:
    headers = {"Content-Type": "text/plain", "X-Amz-Meta-A": "1"}
    return signed_by_botocore("PUT", f"{URL}/bucket/key?partNumber=1&uploadId=x", headers, b"payload")


@pytest.mark.parametrize(
    "change",
    [
        lambda request: replace(request, method="POST"),
        lambda request: replace(request, path="/bucket/kez"),
        lambda request: replace(request, path="/bucket//key"),
        lambda request: replace(request, query="partNumber=2&uploadId=x"),
        lambda request: replace(request, query="partNumber=1"),
        lambda request: replace(request, query="partNumber=1&uploadId=x&acl"),
        lambda request: request.with_headers(host="127.0.0.1:9001"),
        lambda request: request.with_headers(content_type="text/html"),
        lambda request: request.with_headers(x_amz_meta_a="2"),
        lambda request: request.with_headers(x_amz_content_sha256=EMPTY_SHA256),
        lambda request: request.with_headers(x_amz_content_sha256="UNSIGNED-PAYLOAD"),
        lambda request: request.with_headers(authorization=request.headers["authorization"].replace("east", "west")),
        lambda request: request.with_headers(authorization=request.headers["authorization"][:-64] + "0" * 64),
    ],
)
def test_any_change_breaks_the_signature(change: Any) -> None:
    request = put().with_headers()
    check(request)
    with pytest.raises(SignatureDoesNotMatchError):
        check(change(request))


def test_another_secret_and_no_such_key() -> None:
    with pytest.raises(SignatureDoesNotMatchError):
        check(put(), secret=SECRET_KEY[:-1])
    with pytest.raises(InvalidAccessKeyIdError):
        check(put(), secret=None)


def test_the_moment_counts_to_the_second_and_the_clock_by_quarters_of_an_hour() -> None:
    for off_s in (-900, 900):
        check(example("range"), EXAMPLE_TIME_S + off_s)
    for off_s in (-901, 901):
        with pytest.raises(RequestTimeTooSkewedError):
            check(example("range"), EXAMPLE_TIME_S + off_s)
    with pytest.raises(SignatureDoesNotMatchError):
        check(example("range").with_headers(x_amz_date="20130524T000001Z"), EXAMPLE_TIME_S)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"x_amz_content_sha256": None}, MissingSecurityHeaderError),
        ({"x_amz_content_sha256": "abc"}, InvalidArgumentError),
        ({"x_amz_content_sha256": "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"}, InvalidArgumentError),
        ({"x_amz_date": "20130525T000000Z"}, AuthorizationHeaderMalformedError),  # not the credential's day
        ({"x_amz_date": "20130524T240000Z"}, AuthorizationHeaderMalformedError),
        ({"x_amz_date": "yesterday"}, AuthorizationHeaderMalformedError),
        ({"x_amz_date": None}, AccessDeniedError),
        ({"x_amz_acl": "private"}, AccessDeniedError),  # sent, not signed
        ({"range": None}, AccessDeniedError),  # signed, not sent
        ({"authorization": f"AWS {ACCESS_KEY}:c2lnbmF0dXJl"}, RequestError),
        ({"authorization": "Bearer token"}, InvalidArgumentError),
        ({"authorization": "AWS4-ECDSA-P256-SHA256 Credential=a"}, InvalidArgumentError),
        ({"authorization": "AWS4-HMAC-SHA256"}, AuthorizationHeaderMalformedError),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=a/b, Signature=c"}, AuthorizationHeaderMalformedError),
    ],
)
def test_malformed_headers(changed: dict[str, str | None], error: type[RequestError]) -> None:
    missing = {"x_amz_content_sha256", "range", "x_amz_date"}.intersection(
        name for name, value in changed.items() if value is None
    )
    request = example("range").with_headers(**changed)
    if missing - {"range"}:  # otherwise the header would be missed for having been signed
        name = missing.pop().replace("_", "-")
        request = request.with_headers(authorization=request.headers["authorization"].replace(f";{name}", ""))
    with pytest.raises(error) as caught:
        parse(request)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("/s3/", "/ec2/", AuthorizationHeaderMalformedError),
        ("/aws4_request", "/aws5_request", AuthorizationHeaderMalformedError),
        ("/20130524/", "/20130523/", AuthorizationHeaderMalformedError),
        ("/us-east-1/", "/", AuthorizationHeaderMalformedError),
        ("/us-east-1/", "/us\udcffeast/", AuthorizationHeaderMalformedError),
        (f"Credential={ACCESS_KEY}/", "Credential=", AuthorizationHeaderMalformedError),
        ("host;", "", AccessDeniedError),
        ("host;", "Host;", AuthorizationHeaderMalformedError),
        ("host;", "host;;", AuthorizationHeaderMalformedError),
        ("x-amz-date,", ",", AuthorizationHeaderMalformedError),
        (";x-amz-date,", ",", AccessDeniedError),
        ("Signature=f", "Signature=F", AuthorizationHeaderMalformedError),
        ("Signature=f", "Signature=", AuthorizationHeaderMalformedError),
        ("SignedHeaders=", "Signed=", AuthorizationHeaderMalformedError),
    ],
)
def test_malformed_authorization(old: str, new: str, error: type[RequestError]) -> None:
    request = example("range")
    assert old in request.headers["authorization"]
    with pytest.raises(error):
        parse(request.with_headers(authorization=request.headers["authorization"].replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("X-Amz-Expires=3600", "X-Amz-Expires=0"),
        ("X-Amz-Expires=3600", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=3600", "X-Amz-Expires=1h"),
        ("X-Amz-Expires=3600", "x=1"),
        ("X-Amz-Expires=3600", "X-Amz-Expires=3600&X-Amz-Expires=7200"),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=AWS4-HMAC-SHA1"),
        ("X-Amz-Signature=", "X-Amz-Sig="),
        ("X-Amz-Signature=", "X-Amz-Signature=0"),
        ("%2Fs3%2F", "%2Fsqs%2F"),
        ("%2Feu-central-1%2F", "%2Feu%0Acentral%2F"),
        ("X-Amz-Date=2", "X-Amz-Date=1"),
    ],
)
def test_malformed_presigned_urls(old: str, new: str) -> None:
    url = presign("get_object", Bucket="bucket", Key="key")
    assert old in url
    with pytest.raises(AuthorizationQueryParametersError):
        parse(from_url("GET", url.replace(old, new)))


def test_presigned_urls_have_their_time() -> None:
    url = presign("get_object", expires_s=60, Bucket="bucket", Key="key")
    request = from_url("GET", url)
    made_s = parse(request).time_s
    for now_s in (made_s + 60, made_s - 900):
        check(request, now_s)
    for now_s in (made_s + 61, made_s - 901):
        with pytest.raises(AccessDeniedError):
            check(request, now_s)
    with pytest.raises(SignatureDoesNotMatchError):
        check(from_url("GET", url.replace("Expires=60", "Expires=600")))


def test_a_presigned_url_may_fix_the_body() -> None:
    url = presign("put_object", Bucket="bucket", Key="key")
    signed = parse(from_url("PUT", url + f"&X-Amz-Content-Sha256={EMPTY_SHA256}"))
    assert (signed.payload, signed.content_sha256) == (PayloadKind.HASH, EMPTY_SHA256)


def test_anonymous_and_ambiguous_requests() -> None:
    assert parse_authorization("GET", "/bucket/key", "list-type=2", {"Host": "a"}) is None
    url = presign("get_object", Bucket="bucket", Key="key")
    with pytest.raises(InvalidArgumentError):
        parse(from_url("GET", url, {"Authorization": put().headers["Authorization"]}))
    with pytest.raises(RequestError):
        parse(Request("GET", "/b/k", f"AWSAccessKeyId={ACCESS_KEY}&Signature=x&Expires=1", {"Host": "a"}))
    twice = CIMultiDict(put().headers)
    twice.add("authorization", "AWS4-HMAC-SHA256 x")
    with pytest.raises(AuthorizationHeaderMalformedError):
        parse(replace(put(), headers=twice))
    twice = CIMultiDict(put().headers)
    twice.add("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    with pytest.raises(InvalidArgumentError):
        parse(replace(put(), headers=twice))
    with pytest.raises(InvalidArgumentError):
        parse(replace(put(), path="/bucket/key\n"))


ANY = st.text(max_size=30)
PIECE = st.sampled_from(
    (
        *("AWS4-HMAC-SHA256 ", "AWS ", "Credential=", "SignedHeaders=host;x-amz-date", "Signature=", "a" * 64, ", "),
        *("AK/20130524/x/s3/aws4_request", "X-Amz-Signature=", "X-Amz-Credential", "&", "%0", "\udcff", "é", "T0", "="),
    )
)
TEXT = st.lists(PIECE | ANY, max_size=12).map("".join)


@settings(max_examples=300)
@given(path=ANY, query=TEXT, authorization=st.none() | TEXT, date=ANY | st.just(EXAMPLE_TIMESTAMP), old=ANY)
def test_whatever_comes_is_anonymous_verified_or_a_request_error(
    path: str, query: str, authorization: str | None, date: str, old: str
) -> None:
    headers = {"host": "a", "x-amz-date": date, "x-amz-content-sha256": EMPTY_SHA256, "date": old}
    if authorization is not None:
        headers["authorization"] = authorization
    try:
        signed = parse_authorization("GET", path, query, headers)
        if signed is not None:
            verify(signed, SECRET_KEY, EXAMPLE_TIME_S)
            raise AssertionError("a signature was guessed")
    except RequestError:
        pass


@settings(max_examples=300)
@given(date=st.text("0123456789:+- ,GMTFriMay", max_size=32))
def test_any_date_header(date: str) -> None:
    request = example("range").with_headers(x_amz_date=None, date=date)
    authorization = request.headers["authorization"].replace("x-amz-date", "date")
    with contextlib.suppress(RequestError):
        parse(request.with_headers(authorization=authorization))


def test_the_example_time() -> None:
    assert calendar.timegm((2013, 5, 24, 0, 0, 0)) == EXAMPLE_TIME_S
