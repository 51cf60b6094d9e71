"""Multipart uploads over the wire: parts, completions, what is refused, and what survives."""

from __future__ import annotations

import hashlib
import os
import zlib
from base64 import b64encode
from xml.etree import ElementTree

import pytest

from objectcache.gateway.upload_state import new_upload_id
from tests.gateway.process import BUCKET, Answer, GatewayProcess
from tests.gateway.test_replacing import together

MIN = 5 << 20


def found(answer: Answer, tag: str) -> list[str]:
    assert answer.status == 200, answer.body
    return [item.text or "" for item in ElementTree.fromstring(answer.body).iter() if item.tag.endswith("}" + tag)]


class Upload:
    """One upload of a key."""

    def __init__(self, gateway: GatewayProcess, key: str, headers: dict[str, str] | None = None) -> None:
        self.gateway, self.path = gateway, f"/{BUCKET}/{key}"
        [self.id] = found(gateway.ask("POST", f"{self.path}?uploads", headers=headers), "UploadId")

    def put(self, number: int, body: bytes, headers: dict[str, str] | None = None) -> str:
        answer = self.gateway.ask("PUT", f"{self.path}?uploadId={self.id}&partNumber={number}", body, headers)
        assert answer.status == 200, answer.body
        return answer.headers["etag"]

    def complete(self, parts: list[tuple[int, str]], headers: dict[str, str] | None = None) -> Answer:
        named = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
        body = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
        return self.gateway.ask("POST", f"{self.path}?uploadId={self.id}", body, headers)

    def abort(self) -> Answer:
        return self.gateway.ask("DELETE", f"{self.path}?uploadId={self.id}")

    def list(self, more: str = "") -> Answer:
        return self.gateway.ask("GET", f"{self.path}?uploadId={self.id}{more}")

    @property
    def kept(self) -> bool:
        """Whether anything of it is in the store."""
        return any(self.gateway.objects.glob(f"*kv/mp/{self.id}/**/*"))


def etag_of(parts: list[bytes]) -> str:
    digests = b"".join(hashlib.md5(part).digest() for part in parts)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(parts)}"'


def test_parts_become_an_object(gateway: GatewayProcess) -> None:
    """Sent in any order, one of them twice, one not named at the end."""
    upload = Upload(gateway, "parts", {"Content-Type": "text/x", "x-amz-meta-a": "b"})
    first, second = os.urandom(MIN), os.urandom(MIN + 1)
    last = upload.put(7, b"last")
    upload.put(2, b"an older second")
    etags = [upload.put(1, first), upload.put(2, second), upload.put(5, b"not named")]
    assert etags[0] == f'"{hashlib.md5(first).hexdigest()}"'
    assert gateway.ask("GET", upload.path).status == 404
    done = upload.complete([(1, etags[0]), (2, etags[1]), (7, last)])
    assert found(done, "ETag") == [etag_of([first, second, b"last"])]
    got = gateway.ask("GET", upload.path)
    assert got.body == first + second + b"last"
    assert got.headers["etag"] == etag_of([first, second, b"last"])
    assert (got.headers["content-type"], got.headers["x-amz-meta-a"]) == ("text/x", "b")
    part = gateway.ask("GET", f"{upload.path}?partNumber=2")
    assert (part.status, part.body, part.headers["x-amz-mp-parts-count"]) == (206, second, "3")
    assert gateway.ask("GET", f"{upload.path}?partNumber=4").status >= 400
    assert not upload.kept
    # The answer to a completion may be lost: the same again is answered the same.
    assert upload.complete([(1, etags[0]), (2, etags[1]), (7, last)]).body == done.body
    assert upload.complete([(1, etags[0])]).error["Code"] == "NoSuchUpload"
    copied = gateway.ask("PUT", f"/{BUCKET}/parts-copied", headers={"x-amz-copy-source": upload.path})
    assert copied.status == 200
    assert gateway.ask("GET", f"/{BUCKET}/parts-copied?partNumber=3").body == b"last"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("missing", "InvalidPart"),
        ("etag", "InvalidPart"),
        ("small", "EntityTooSmall"),
        ("order", "InvalidPartOrder"),
        ("none", "MalformedXML"),
        ("xml", "MalformedXML"),
    ],
)
def test_completions_that_are_refused_change_nothing(gateway: GatewayProcess, what: str, code: str) -> None:
    upload = Upload(gateway, f"refused-{what}")
    etags = [upload.put(1, b"small"), upload.put(2, b"last")]
    parts = {
        "missing": [(1, etags[0]), (3, etags[1])],
        "etag": [(1, etags[1])],
        "small": [(1, etags[0]), (2, etags[1])],
        "order": [(2, etags[1]), (1, etags[0])],
        "none": [],
    }
    if what == "xml":
        refused = gateway.ask("POST", f"{upload.path}?uploadId={upload.id}", b"<Complete")
    else:
        refused = upload.complete(parts[what])
    assert (refused.status, refused.error["Code"]) == (400, code)
    assert gateway.ask("GET", upload.path).status == 404
    assert found(upload.list(), "PartNumber") == ["1", "2"]
    assert upload.complete([(2, etags[1])]).status == 200
    assert gateway.ask("GET", upload.path).body == b"last"


def test_an_upload_that_is_aborted_is_gone(gateway: GatewayProcess) -> None:
    upload = Upload(gateway, "aborted")
    etag = upload.put(1, b"x")
    assert upload.kept
    assert upload.abort().status == 204
    assert not upload.kept
    for answer in (upload.abort(), upload.list(), upload.complete([(1, etag)])):
        assert (answer.status, answer.error["Code"]) == (404, "NoSuchUpload")
    late = gateway.ask("PUT", f"{upload.path}?uploadId={upload.id}&partNumber=1", b"late")
    assert late.error["Code"] == "NoSuchUpload"
    assert not upload.kept


def test_a_part_that_is_on_its_way_when_the_upload_is_aborted(gateway: GatewayProcess) -> None:
    """Nobody would ever remove it."""
    upload = Upload(gateway, "overtaken")
    connection = gateway.connect()
    connection.putrequest("PUT", f"{upload.path}?uploadId={upload.id}&partNumber=1")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(bytes(500_000))
    assert gateway.ask("GET", "/healthz").status == 200
    upload.put(2, b"x")
    assert upload.abort().status == 204
    connection.send(bytes(500_000))
    late = Answer.read(connection.getresponse())
    connection.close()
    assert late.error["Code"] == "NoSuchUpload"
    assert not upload.kept


@pytest.mark.parametrize("id", ["", "x", "../../x", "0" * 32, "%00"])
def test_uploads_that_nobody_began(gateway: GatewayProcess, id: str) -> None:
    for method, more in (("PUT", "&partNumber=1"), ("GET", ""), ("DELETE", "")):
        answer = gateway.ask(method, f"/{BUCKET}/x?uploadId={id}{more}", b"")
        assert (answer.status, answer.error["Code"]) == (404, "NoSuchUpload")
    upload = Upload(gateway, "of-this-key")
    other = gateway.ask("PUT", f"/{BUCKET}/another?uploadId={upload.id}&partNumber=1", b"x")
    assert other.error["Code"] == "NoSuchUpload"
    upload.abort()


@pytest.mark.parametrize("number", ["0", "10001", "-1", "x", "", "99999999999"])
def test_numbers_that_no_part_has(gateway: GatewayProcess, number: str) -> None:
    upload = Upload(gateway, "numbers")
    answer = gateway.ask("PUT", f"{upload.path}?uploadId={upload.id}&partNumber={number}", b"x")
    assert (answer.status, answer.error["Code"]) == (400, "InvalidArgument")
    upload.abort()


def test_parts_are_listed_in_pages(gateway: GatewayProcess) -> None:
    upload = Upload(gateway, "listed")
    numbers = [1, 2, 10, 9_999, 10_000]
    etags = {str(number): upload.put(number, b"x" * number) for number in reversed(numbers)}
    seen: list[str] = []
    after = ""
    for _ in range(5):
        page = upload.list(f"&max-parts=2{after and f'&part-number-marker={after}'}")
        assert found(page, "ETag") == [etags[number] for number in found(page, "PartNumber")]
        assert found(page, "Size") == found(page, "PartNumber")
        seen += found(page, "PartNumber")
        [after] = found(page, "NextPartNumberMarker")
        if found(page, "IsTruncated") == ["false"]:
            break
    assert seen == list(map(str, numbers))
    assert found(upload.list("&max-parts=0"), "IsTruncated") == ["false"]
    upload.abort()


def test_uploads_are_listed_in_pages(gateway: GatewayProcess) -> None:
    """Several of one key too, in the order in which they began."""
    uploads = [
        Upload(gateway, key) for key in ("many/a", "many/b", "many/b", "many/b", "many/c/1", "many/c/2", "many/d")
    ]
    try:
        seen: list[tuple[str, str]] = []
        marker = ""
        for _ in range(10):
            page = gateway.ask("GET", f"/{BUCKET}?uploads&prefix=many/&max-uploads=2{marker}")
            seen += zip(found(page, "Key"), found(page, "UploadId"), strict=True)
            if found(page, "IsTruncated") == ["false"]:
                break
            [key], [id] = found(page, "NextKeyMarker"), found(page, "NextUploadIdMarker")
            marker = f"&key-marker={key}&upload-id-marker={id}"
        assert seen == [(upload.path.removeprefix(f"/{BUCKET}/"), upload.id) for upload in uploads]
        folders = gateway.ask("GET", f"/{BUCKET}?uploads&prefix=many/&delimiter=/")
        assert found(folders, "Key") == ["many/a", "many/b", "many/b", "many/b", "many/d"]
        assert found(folders, "Prefix") == ["many/", "many/c/"]
    finally:
        for upload in uploads:
            upload.abort()


def test_ids_are_in_the_order_of_time() -> None:
    ids = [new_upload_id(now_ns) for now_ns in (1, 2, 10**18, 2 * 10**18)]
    assert ids == sorted(ids)
    assert {len(id) for id in ids} == {32}


def test_an_upload_goes_on_after_a_restart(gateway: GatewayProcess) -> None:
    upload = Upload(gateway, "restarted")
    first = os.urandom(MIN)
    etag = upload.put(1, first)
    gateway.restart()
    last = upload.put(2, b"last")
    assert upload.complete([(1, etag), (2, last)]).status == 200
    assert gateway.ask("GET", upload.path).body == first + b"last"


def test_parts_out_of_other_objects(gateway: GatewayProcess) -> None:
    source = os.urandom(MIN + 100)
    gateway.ask("PUT", f"/{BUCKET}/source", source)
    upload = Upload(gateway, "collected")
    etags = []
    for number, ends in ((1, f"0-{MIN - 1}"), (2, f"{MIN}-{MIN + 9}")):
        headers = {"x-amz-copy-source": f"/{BUCKET}/source", "x-amz-copy-source-range": f"bytes={ends}"}
        answer = gateway.ask("PUT", f"{upload.path}?uploadId={upload.id}&partNumber={number}", headers=headers)
        etags += found(answer, "ETag")
    assert etags[1] == f'"{hashlib.md5(source[MIN : MIN + 10]).hexdigest()}"'
    for ends, code in ((f"0-{MIN + 100}", "InvalidRange"), ("5-", "InvalidArgument"), ("9" * 4000, "InvalidArgument")):
        headers = {"x-amz-copy-source": f"/{BUCKET}/source", "x-amz-copy-source-range": f"bytes={ends}"}
        answer = gateway.ask("PUT", f"{upload.path}?uploadId={upload.id}&partNumber=3", headers=headers)
        assert answer.error["Code"] == code
    assert upload.complete([(1, etags[0]), (2, etags[1])]).status == 200
    assert gateway.ask("GET", upload.path).body == source[: MIN + 10]


def crc32(data: bytes) -> str:
    return b64encode(zlib.crc32(data).to_bytes(4)).decode()


def test_the_checksum_of_an_object_is_never_that_of_a_part_that_was_replaced(gateway: GatewayProcess) -> None:
    whole = {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"}
    for replaced in (False, True):
        upload = Upload(gateway, f"summed-{replaced}", whole)
        etag = upload.put(1, b"first", {"x-amz-checksum-crc32": crc32(b"first")})
        if replaced:
            etag = upload.put(1, b"second")  # without a checksum
        done = upload.complete([(1, etag)])
        head = gateway.ask("HEAD", upload.path, headers={"x-amz-checksum-mode": "ENABLED"})
        if replaced:
            assert found(done, "ChecksumCRC32") == []
            assert "x-amz-checksum-crc32" not in head.headers
        else:
            assert found(done, "ChecksumCRC32") == [head.headers["x-amz-checksum-crc32"]] == [crc32(b"first")]


def test_metadata_that_cannot_be_kept_is_refused_at_once(gateway: GatewayProcess) -> None:
    answer = gateway.ask("POST", f"/{BUCKET}/heavy?uploads", headers={"x-amz-meta-a": "x" * 3000})
    assert (answer.status, answer.error["Code"]) == (400, "MetadataTooLarge")
    kept = gateway.ask("POST", f"/{BUCKET}/.kv/x?uploads")
    assert kept.error["Code"] == "InvalidRequest"


def test_of_completions_at_once_all_are_answered_and_the_object_is_whole(gateway: GatewayProcess) -> None:
    upload = Upload(gateway, "raced")
    first = os.urandom(MIN)
    parts = [(1, upload.put(1, first)), (2, upload.put(2, b"end"))]
    answers = together(4, lambda _: upload.complete(parts))
    assert 200 in {answer.status for answer in answers}
    assert all(answer.status in (200, 404) for answer in answers)
    assert upload.complete(parts).status == 200
    assert gateway.ask("GET", upload.path).body == first + b"end"
    assert not upload.kept


def test_a_completion_on_a_condition(gateway: GatewayProcess) -> None:
    gateway.ask("PUT", f"/{BUCKET}/conditional", b"there")
    upload = Upload(gateway, "conditional")
    parts = [(1, upload.put(1, b"new"))]
    assert upload.complete(parts, {"If-None-Match": "*"}).error["Code"] == "PreconditionFailed"
    assert gateway.ask("GET", upload.path).body == b"there"
    etag = gateway.ask("HEAD", upload.path).headers["etag"]
    assert upload.complete(parts, {"If-Match": etag}).status == 200
    assert gateway.ask("GET", upload.path).body == b"new"
