"""XML that is written and read: escaped, and never more than it says."""

from __future__ import annotations

from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import (
    InvalidPartOrderError,
    KeyNotFoundError,
    MalformedXMLError,
    ObjectCacheError,
    PreconditionFailedError,
)
from objectcache.s3.listings import (
    ListedPage,
    ListRequest,
    buckets_body,
    list_v1_body,
    list_v2_body,
    list_versions_body,
)
from objectcache.s3.multipart import (
    completed_body,
    created_body,
    parse_complete,
    parts_body,
    uploads_body,
)
from objectcache.s3.results import acl_body, copied_body, deleted_body, location_body, parse_delete
from objectcache.s3.xml import NAMESPACE, element, error_body, parse, parse_error, timestamp
from objectcache.stores import ObjectInfo

NS = f"{{{NAMESPACE}}}"
NASTY = "</Key><Key>&amp;\"'<!--]]>"
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
INFO = ObjectInfo("n", 5, 0.0, "abc")


def texts(body: bytes, tag: str) -> list[str]:
    return [item.text or "" for item in ElementTree.fromstring(body).iter(f"{NS}{tag}")]


# -- written ----------------------------------------------------------------------------------------


@given(TEXT)
def test_text_comes_back(text: str) -> None:
    assert (ElementTree.fromstring(element("Key", text)).text or "") == text


@given(st.text())
def test_any_text_is_still_xml(text: str) -> None:
    found = ElementTree.fromstring(element("Key", text))
    assert len(found) == 0


@pytest.mark.parametrize("text", ["\x00", "\x1f", "\ud800", "\ufffe", "\uffff"])
def test_what_xml_cannot_say(text: str) -> None:
    assert ElementTree.fromstring(element("Key", text).encode()).text == "\N{REPLACEMENT CHARACTER}"


def test_values() -> None:
    assert element("A", True) + element("B", False) + element("C", 7) == "<A>true</A><B>false</B><C>7</C>"
    assert timestamp(0.9) == "1970-01-01T00:00:00.000Z"


@given(TEXT.filter(bool))
def test_keys_are_only_ever_text(key: str) -> None:
    """Whatever a key, prefix or marker is, it makes no elements of its own."""
    asked = ListRequest("b", prefix=key, delimiter=key, after=key)
    page = ListedPage([(key, INFO)], [key], key)
    for body, tags in (
        (list_v1_body(asked, key, page), ("Key", "Prefix", "Marker")),
        (list_v2_body(asked, page, token=key, next_token=key, start_after=key, owned=True), ("Key", "Prefix")),
        (list_versions_body(asked, key, page), ("Key", "Prefix", "KeyMarker", "NextKeyMarker")),
        (uploads_body(asked, [(key, "id", 0.0)], [key], id_marker=key, next_key="", next_id=""), ("Key", "Prefix")),
        (parts_body("b", key, "id", [(1, INFO)], after=0, max_parts=1, truncated=False), ("Key",)),
        (created_body("b", key, "id"), ("Key",)),
        (completed_body(f"http://x/{key}", "b", key, "abc"), ("Key",)),
        (deleted_body([key], [(key, KeyNotFoundError(key))]), ("Key", "Message")),
    ):
        assert all(set(texts(body, tag)) == {key} for tag in tags)


def test_a_listing_of_keys_that_look_like_xml() -> None:
    body = list_v2_body(
        ListRequest("b"), ListedPage([(NASTY, INFO)], []), token=None, next_token="", start_after="", owned=False
    )
    root = ElementTree.fromstring(body)
    assert texts(body, "Key") == [NASTY]
    assert " ".join(item.tag.removeprefix(NS) for item in root) == "Prefix Name MaxKeys IsTruncated KeyCount Contents"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_encoded_keys_are_any_keys(key: str) -> None:
    asked = ListRequest("b", prefix=key, encode=True)
    body = list_v2_body(asked, ListedPage([(key, INFO)], []), token=None, next_token="", start_after="", owned=False)
    assert [unquote(text) for text in texts(body, "Key") + texts(body, "Prefix")] == [key, key]
    assert texts(body, "EncodingType") == ["url"]


def test_pages_say_how_they_go_on() -> None:
    more, end = ListedPage([("a", INFO)], ["p/"], "p/"), ListedPage([("a", INFO)], [])
    v1 = list_v1_body(ListRequest("b", delimiter="/"), "", more)
    assert (texts(v1, "IsTruncated"), texts(v1, "NextMarker")) == (["true"], ["p/"])
    assert texts(list_v1_body(ListRequest("b"), "", more), "NextMarker") == []  # clients take the last key
    assert texts(list_v1_body(ListRequest("b"), "", end), "IsTruncated") == ["false"]
    v2 = list_v2_body(ListRequest("b"), more, token="t", next_token="u", start_after="", owned=False)
    assert [texts(v2, tag) for tag in ("KeyCount", "ContinuationToken", "NextContinuationToken")] == [
        *(["2"], ["t"], ["u"])
    ]
    last = list_v2_body(ListRequest("b"), end, token=None, next_token="", start_after="", owned=False)
    assert texts(last, "NextContinuationToken") == []


def test_other_bodies() -> None:
    assert texts(buckets_body([("b", 0.0), ("c", 1.0)]), "Name") == ["b", "c"]
    assert ElementTree.fromstring(location_body("us-east-1")).text is None
    assert ElementTree.fromstring(location_body("eu-west-3")).text == "eu-west-3"
    assert texts(acl_body(), "Permission") == ["FULL_CONTROL"]
    assert ElementTree.fromstring(copied_body("abc", 0.0)).tag == f"{NS}CopyObjectResult"
    assert ElementTree.fromstring(copied_body("abc", 0.0, part=True)).tag == f"{NS}CopyPartResult"
    done = completed_body("l", "b", "k", "abc-2", "crc32", "AAAA", "COMPOSITE")
    assert (texts(done, "ETag"), texts(done, "ChecksumCRC32")) == (['"abc-2"'], ["AAAA"])


# -- read -------------------------------------------------------------------------------------------

BOMB = b"""<?xml version="1.0"?><!DOCTYPE Delete [<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>
<Delete><Object><Key>&c;</Key></Object></Delete>"""
OUTSIDE = (
    b'<!DOCTYPE Delete [<!ENTITY x SYSTEM "file:///etc/hostname">]><Delete><Object><Key>&x;</Key></Object></Delete>'
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Delete>",
        b"Delete",
        b"\x00\xff",
        b"<Other/>",
        b"<Delete/><Delete/>",
        BOMB,
        OUTSIDE,
        b"<!DOCTYPE Delete><Delete/>",
        b"<Delete>&unknown;</Delete>",
        b"<Delete>\xff</Delete>",
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE Delete><Delete/>'.encode("utf-16"),
        b"<a:Delete/>",
    ],
)
def test_bodies_that_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedXMLError):
        parse(body, "Delete")


@pytest.mark.parametrize("encoding", ["foo", "shift_jis", "utf-16", "latin-1"])
def test_bodies_are_utf_8_whatever_they_say(encoding: str) -> None:
    body = f'<?xml version="1.0" encoding="{encoding}"?><Delete>ü</Delete>'.encode()
    assert parse(body, "Delete").text == "ü"


@given(st.binary(max_size=60) | st.text(alphabet="<>/!?&;ax \"'[]-", max_size=40).map(str.encode))
def test_any_body_is_xml_or_refused(body: bytes) -> None:
    try:
        parse(body, "a")
    except MalformedXMLError:
        return


def test_names_count_without_their_namespace() -> None:
    for body in (f'<Delete xmlns="{NAMESPACE}"><A>1</A></Delete>', '<s:Delete xmlns:s="urn:x"><s:A>1</s:A></s:Delete>'):
        assert parse(body.encode(), "Delete").findtext("A") == "1"


def test_a_deep_body_is_no_trouble() -> None:
    depth = 100_000
    assert parse(b"<Delete>" + b"<a>" * depth + b"</a>" * depth + b"</Delete>", "Delete").tag == "Delete"


def test_errors_come_back() -> None:
    body = error_body(KeyNotFoundError(NASTY), f"/b/{NASTY}", "id")
    fields = {item.tag: item.text for item in ElementTree.fromstring(body)}
    assert fields == {"Code": "NoSuchKey", "Message": NASTY, "Resource": f"/b/{NASTY}", "RequestId": "id"}
    found = parse_error(404, body)
    assert type(found) is KeyNotFoundError
    assert str(found) == NASTY
    assert type(parse_error(412, error_body(PreconditionFailedError("x"), "", ""))) is PreconditionFailedError


@pytest.mark.parametrize("body", [b"", b"<html>", b"<Error/>", b'<?xml version="1.0" encoding="foo"?><a/>', BOMB])
def test_what_is_no_error_body(body: bytes) -> None:
    found = parse_error(502, body)
    assert type(found) is ObjectCacheError
    assert "502" in str(found)


# -- requests of many -------------------------------------------------------------------------------


def complete(*parts: str) -> bytes:
    return f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()


def part(number: object, etag: str = '"abc"', more: str = "") -> str:
    return f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>{more}</Part>"


def test_completions() -> None:
    body = complete(part(1), part(3, "&quot;def&quot;", "<ChecksumCRC32C>AAAA</ChecksumCRC32C>"))
    first, second = parse_complete(body)
    assert (first.number, first.etag, first.checksums) == (1, "abc", {})
    assert (second.number, second.etag, second.checksums) == (3, "def", {"crc32c": "AAAA"})
    assert [item.etag for item in parse_complete(complete(part(1, "a"), part(1, "b"), part(2, "c")))] == ["b", "c"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (complete(), MalformedXMLError),
        (complete(part("")), MalformedXMLError),
        (complete(part("one")), MalformedXMLError),
        (complete(part("9" * 5000)), MalformedXMLError),
        (complete(part(0)), MalformedXMLError),
        (complete(part(10_001)), MalformedXMLError),
        (complete(part(-1)), MalformedXMLError),
        (complete(part(1, "")), MalformedXMLError),
        (complete("<Part><ETag>a</ETag></Part>"), MalformedXMLError),
        (complete(part(2), part(1)), InvalidPartOrderError),
    ],
)
def test_completions_that_are_refused(body: bytes, error: type[ObjectCacheError]) -> None:
    with pytest.raises(error):
        parse_complete(body)


def delete(*keys: str, more: str = "") -> bytes:
    return f"<Delete>{''.join(f'<Object><Key>{key}</Key></Object>' for key in keys)}{more}</Delete>".encode()


def test_deletions() -> None:
    asked = parse_delete(delete("a", "b&amp;c", more="<Quiet>true</Quiet>"))
    assert (list(asked.keys), asked.quiet) == ([("a", ""), ("b&c", "")], True)
    versioned = parse_delete(b"<Delete><Object><Key>a</Key><VersionId>v</VersionId></Object></Delete>")
    assert (list(versioned.keys), versioned.quiet) == ([("a", "v")], False)
    assert len(parse_delete(delete(*map(str, range(1000)))).keys) == 1000


@pytest.mark.parametrize("body", [delete(), delete(""), delete("a", ""), delete(*map(str, range(1001))), b"<Delete/>"])
def test_deletions_that_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedXMLError):
        parse_delete(body)
