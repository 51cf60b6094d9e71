"""Bodies of plain objects: any split of any body, and every way to be wrong."""

from __future__ import annotations

import hashlib
import hmac
import socket
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import (
    BadDigestError,
    ContentSHA256MismatchError,
    EntityTooLargeError,
    ObjectCacheError,
    RequestError,
    SignatureDoesNotMatchError,
    TruncatedBodyError,
)
from objectcache.s3 import AnnouncedChecksums, ChunkSigning
from objectcache.stores import MemoryStore
from objectcache.workers import bodies
from objectcache.workers.bodies import BODY_FRAME, BodySpec, CheckedBody, check_whole, read_pieces
from objectcache.workers.uploads import receive_object
from tests.s3.wire import EXAMPLE_SCOPE, EXAMPLE_TIMESTAMP, SECRET_KEY, plain_body, signed_body

SEED = "5" * 64


def signing() -> ChunkSigning:
    key = f"AWS4{SECRET_KEY}".encode()
    for part in EXAMPLE_SCOPE.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return ChunkSigning(key, EXAMPLE_SCOPE, EXAMPLE_TIMESTAMP, SEED)


def crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4)


def plain(data: bytes) -> tuple[bytes, BodySpec]:
    announced = AnnouncedChecksums(hashlib.md5(data).digest(), "crc32", crc32(data))
    return data, BodySpec(len(data), len(data), announced=announced, content_sha256=hashlib.sha256(data).hexdigest())


def endless(data: bytes) -> tuple[bytes, BodySpec]:
    return data, BodySpec(None, None)


def chunked(data: bytes) -> tuple[bytes, BodySpec]:
    trailers = {"x-amz-checksum-crc32": b64encode(crc32(data)).decode()}
    wire = plain_body(cut(data, 7), trailers)
    return wire, BodySpec(len(data), len(wire), chunked=True, announced=AnnouncedChecksums(None, "crc32", None))


def signed(data: bytes) -> tuple[bytes, BodySpec]:
    wire = signed_body(cut(data, 11), SEED)
    return wire, BodySpec(len(data), len(wire), chunked=True, signing=signing())


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


FORMS = {"plain": plain, "without a length": endless, "aws-chunked": chunked, "signed chunks": signed}
Form = Callable[[bytes], tuple[bytes, BodySpec]]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def taken(wire: Sequence[bytes], spec: BodySpec) -> bytes:
    body = CheckedBody(spec)
    data = b"".join(bytes(piece) for part in wire for piece in body.take(memoryview(part)))
    body.finish()
    assert body.md5_hex == hashlib.md5(data).hexdigest()
    return data


@pytest.mark.parametrize("name", FORMS)
@given(data=st.binary(max_size=80), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_any_split_of_any_body(name: str, data: bytes, sizes: list[int]) -> None:
    wire, spec = FORMS[name](data)
    parts: list[bytes] = []
    rest = wire
    while rest:
        size = sizes[len(parts) % len(sizes)]
        parts.append(rest[:size])
        rest = rest[size:]
    assert taken(parts, spec) == data


@pytest.mark.parametrize("name", FORMS)
def test_what_a_body_must_be_reaches_the_worker(name: str) -> None:
    spec = FORMS[name](b"some data")[1]
    assert BodySpec.from_wire(msgpack.unpackb(msgpack.packb(spec.to_wire()))) == spec


@pytest.mark.parametrize("name", ["plain", "aws-chunked", "signed chunks"])
@given(data=st.binary(min_size=1, max_size=60), at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_is_taken_for_the_body(name: str, data: bytes, at: int, bit: int) -> None:
    wire, spec = FORMS[name](data)
    damaged = bytearray(wire)
    damaged[at % len(wire)] ^= 1 << bit
    try:
        found = taken([bytes(damaged)], spec)
    except RequestError:
        return
    assert found == data  # the case of a hexadecimal digit, at most


@pytest.mark.parametrize("name", ["plain", "aws-chunked", "signed chunks"])
def test_a_body_that_is_shorter_or_longer(name: str) -> None:
    wire, spec = FORMS[name](b"0123456789" * 3)
    # Two bytes less are no body; the last line end may be missing.
    for wrong in (wire[:-3], wire + b"x", wire[: len(wire) // 2], b""):
        with pytest.raises(RequestError):
            taken([wrong], spec)


def test_what_is_wrong_is_said() -> None:
    data = b"some data"
    wire, spec = plain(data)
    for wrong, error in (
        (replace(spec, announced=AnnouncedChecksums(bytes(16))), BadDigestError),
        (replace(spec, announced=AnnouncedChecksums(None, "crc32", bytes(4))), BadDigestError),
        (replace(spec, content_sha256="0" * 64), ContentSHA256MismatchError),
        (replace(spec, decoded_bytes=5), TruncatedBodyError),
        (replace(spec, decoded_bytes=50), TruncatedBodyError),
    ):
        with pytest.raises(error):
            check_whole(wire, wrong)
    assert check_whole(wire, spec) == data
    wire, spec = signed(data)
    with pytest.raises(SignatureDoesNotMatchError):
        check_whole(wire.replace(b"data", b"dada"), spec)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_OBJECT_BYTES", 10)
    monkeypatch.setattr(bodies, "MAX_UNANNOUNCED_BYTES", 5)
    with pytest.raises(EntityTooLargeError):
        taken([b"x" * 11], BodySpec(11, 11))
    with pytest.raises(EntityTooLargeError):
        taken([b"xxx", b"xxx"], BodySpec(None, None))
    assert taken([b"xxx", b"xx"], BodySpec(None, None)) == b"xxxxx"


# -- from a socket ----------------------------------------------------------------------------------


def sent(pieces: Sequence[bytes]) -> Iterator[socket.socket]:
    mine, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            for piece in pieces:
                theirs.sendall(piece)

    thread = threading.Thread(target=send)
    thread.start()
    with mine:
        mine.settimeout(10.0)
        yield mine
    thread.join()


def framed(parts: Sequence[bytes], *, ended: bool = True) -> list[bytes]:
    frames = [BODY_FRAME.pack(len(part)) + part for part in parts if part]
    return frames + [BODY_FRAME.pack(0)] * ended


def test_a_body_arrives(form: Form) -> None:
    data = b"0123456789abcdef" * 200_000  # more than a piece
    wire, spec = form(data[: 3_200_000 if form in (plain, endless) else 5000])
    pieces = framed(cut(wire, 1_500_000)) if spec.wire_bytes is None else [wire]
    with MemoryStore(1 << 30) as store:
        for sock in sent(pieces):
            info, checksum = receive_object(sock, spec, store, "a", metadata={"content-type": "x"})
        expected = data[: info.size_bytes]
        assert store.get("a") == expected
        assert info.etag == hashlib.md5(expected).hexdigest()
        if spec.announced.algorithm:
            assert checksum == ("crc32", b64encode(crc32(expected)).decode())
        else:
            assert checksum == ("", "")


@pytest.mark.parametrize("kept", [0, 3, 10, 400])
def test_a_body_that_breaks_off_leaves_nothing(form: Form, kept: int) -> None:
    wire, spec = form(b"0123456789" * 50)
    pieces = framed(cut(wire, 100)[: kept // 100], ended=False) if spec.wire_bytes is None else [wire[:kept]]
    with MemoryStore(1 << 30) as store:
        for sock in sent(pieces):
            with pytest.raises(TruncatedBodyError):
                receive_object(sock, spec, store, "a")
        assert list(store.list()) == []
        assert store.usage().used_bytes == 0


def test_what_follows_a_body_is_left_on_the_connection() -> None:
    wire, spec = plain(b"body")
    for sock in sent([wire + b"GET / HTTP/1.1"]):
        assert b"".join(map(bytes, read_pieces(sock, spec))) == b"body"
        assert sock.recv(14) == b"GET / HTTP/1.1"


@pytest.mark.parametrize("name", ["plain", "aws-chunked", "signed chunks"])
def test_a_wrong_body_leaves_nothing(name: str) -> None:
    wire, spec = FORMS[name](b"0123456789" * 50)
    damaged = wire.replace(b"0123", b"0124", 1)
    with MemoryStore(1 << 30) as store:
        store.put("a", b"before")
        for sock in sent([damaged]):
            with pytest.raises(ObjectCacheError):
                receive_object(sock, spec, store, "a")
        assert store.get("a") == b"before"
