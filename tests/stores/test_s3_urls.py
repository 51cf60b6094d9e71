"""From s3:// URLs to a bucket and an endpoint; nothing here needs a service."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import ConfigError, InvalidObjectNameError, StoreError
from objectcache.stores import open_store
from objectcache.stores.base import UNLIMITED_BYTES, check_name
from objectcache.stores.s3 import S3Options, S3Store, S3Timing, parse_s3_url

AWS = "https://s3.example"


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("s3://bkt", {}, S3Options("bkt", "", "", "us-east-1", True)),
        ("S3://bkt/", {}, S3Options("bkt", "", "", "us-east-1", True)),
        ("s3://my.bkt/a/b/", {}, S3Options("my.bkt", "a/b", "", "us-east-1", False)),
        ("s3://bkt/a%20b%3F", {}, S3Options("bkt", "a b?", "", "us-east-1", True)),
        ("s3://bkt?endpoint=http://h:1", {}, S3Options("bkt", "", "http://h:1", "us-east-1", False)),
        ("s3://bkt?endpoint=http%3A%2F%2Fh%3A1%2F", {}, S3Options("bkt", "", "http://h:1", "us-east-1", False)),
        (
            "s3://bkt/p?endpoint=https://[::1]:9&region=eu&addressing=virtual",
            {},
            S3Options("bkt", "p", "https://[::1]:9", "eu", True),
        ),
        ("s3://bkt?addressing=path", {}, S3Options("bkt", "", "", "us-east-1", False)),
        ("s3://bkt", {"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}, S3Options("bkt", "", "", "a", True)),
        ("s3://bkt", {"AWS_REGION": "", "AWS_DEFAULT_REGION": "b"}, S3Options("bkt", "", "", "b", True)),
        ("s3://bkt?region=c", {"AWS_REGION": "a"}, S3Options("bkt", "", "", "c", True)),
        (
            "s3://bkt",
            {"AWS_ENDPOINT_URL": "http://general", "AWS_ENDPOINT_URL_S3": "http://special/"},
            S3Options("bkt", "", "http://special", "us-east-1", False),
        ),
        ("s3://bkt", {"AWS_ENDPOINT_URL": AWS}, S3Options("bkt", "", AWS, "us-east-1", False)),
        ("s3://bkt?endpoint=http://h", {"AWS_ENDPOINT_URL": AWS}, S3Options("bkt", "", "http://h", "us-east-1", False)),
    ],
)
def test_what_a_url_says(url: str, environment: dict[str, str], expected: S3Options) -> None:
    assert parse_s3_url(url, environment) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("s3:", "s3://", "s3:///a", "s3://a", "s3://-ab", "s3://a b c", "s3://bkt#x", "s3://bkt/a#b", "s3://bkt:80/a"),
        *("s3://bkt//a", "s3://bkt/a//b", "s3://bkt/../a", "s3://bkt/%00", "s3://bkt/%ff", "s3://bkt/" + "x" * 2000),
        *("s3://bkt?endpoint", "s3://bkt?region=a&region=b", "s3://bkt?unknown=1", "s3://bkt?region=a%20b"),
        *("s3://bkt?endpoint=h:1", "s3://bkt?endpoint=ftp://h", "s3://bkt?endpoint=http://h/path"),
        *("s3://bkt?endpoint=http://h:port", "s3://bkt?endpoint=http://h:99999", "s3://bkt?addressing=dns"),
    ],
)
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hunter2@bkt/a",
        "s3://hunter2@bkt",
        "s3://bkt?endpoint=http://key:hunter2@host",
        "s3://bkt?secret_access_key=hunter2",
        "s3://bkt?aws_secret_access_key=hunter2&region=a",
    ],
)
def test_credentials_do_not_come_in_urls_and_are_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="credentials") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


_PREFIXES = st.text(min_size=1, max_size=20).filter(lambda text: _is_name(text))


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except InvalidObjectNameError:
        return False
    return True


@given(
    st.sampled_from(["bkt", "my.bucket", "a-b"]),
    st.just("") | _PREFIXES,
    st.sampled_from(["", "http://127.0.0.1:1234", "https://s3.example"]),
    st.sampled_from(["us-east-1", "default"]),
    st.booleans(),
)
def test_the_canonical_url_says_it_all(bucket: str, prefix: str, endpoint: str, region: str, virtual: bool) -> None:
    options = S3Options(bucket, prefix, endpoint, region, virtual)
    elsewhere = {"AWS_REGION": "else", "AWS_ENDPOINT_URL": "http://else"} if endpoint else {"AWS_REGION": "else"}
    assert parse_s3_url(options.url, elsewhere) == options


def test_where_requests_go() -> None:
    assert parse_s3_url("s3://bkt?endpoint=http://h:1", {}).request_endpoint == "http://h:1"
    assert parse_s3_url("s3://bkt?endpoint=http://h:1&addressing=virtual", {}).request_endpoint == "http://bkt.h:1"
    assert parse_s3_url("s3://bkt", {}).request_endpoint == ""


def test_opening_asks_nothing_and_the_url_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:3")
    with open_store("s3://bkt/p?endpoint=http://127.0.0.1:1") as store:
        assert store.url == "s3://bkt/p?endpoint=http://127.0.0.1:1&region=us-east-1"
        with open_store(store.url, limit_bytes=UNLIMITED_BYTES) as again:
            assert again.url == store.url
        assert store.usage().limit_bytes is None
    timing = S3Timing(max_retries=0)
    with S3Store(parse_s3_url(store.url, os.environ), timing=timing) as store, pytest.raises(StoreError) as caught:
        store.head("a")
    assert "http://127.0.0.1:1/bkt/p/a" in str(caught.value)


def test_a_byte_limit_is_not_taken() -> None:
    with pytest.raises(ConfigError, match="lifecycle"):
        open_store("s3://bkt", limit_bytes=1 << 40)


WITHOUT_OBSTORE = """
import sys
sys.modules["obstore"] = None
from objectcache.errors import ConfigError
from objectcache.stores import open_store
open_store("memory://a").close()
try:
    open_store("s3://bkt")
except ConfigError as error:
    print(error)
"""


def test_without_obstore_it_says_what_to_install() -> None:
    command = [sys.executable, "-c", WITHOUT_OBSTORE]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'objectcache[s3]'" in ended.stdout
