"""`aws-chunked` bodies: the published examples, any split of the wire, and any damage to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.errors import (
    InvalidArgumentError,
    MalformedTrailerError,
    RequestError,
    SignatureDoesNotMatchError,
    TruncatedBodyError,
)
from objectcache.s3 import ChunkedDecoder, ChunkSigning, PayloadKind, decoded_length_bytes
from tests.s3.examples import check
from tests.s3.wire import (
    ACCESS_KEY,
    EXAMPLE_TIME_S,
    EXAMPLE_TIMESTAMP,
    SECRET_KEY,
    Request,
    plain_body,
    signed_body,
)

SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
CHUNK_SIGNATURES = (
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
TRAILER_CHUNK_SIGNATURES = (
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
)
TRAILER_SIGNATURE = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
CRC = "x-amz-checksum-crc32c"


def example(kind: PayloadKind, seed: str, more: Mapping[str, str]) -> ChunkSigning:
    """What the published request with this seed signature gives a decoder, by way of msgpack."""
    headers = {
        "host": "s3.amazonaws.com",
        "content-encoding": "aws-chunked",
        "x-amz-content-sha256": kind.value,
        "x-amz-date": EXAMPLE_TIMESTAMP,
        "x-amz-decoded-content-length": "66560",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        **more,
    }
    credential = f"{ACCESS_KEY}/20130524/us-east-1/s3/aws4_request"
    names = ";".join(sorted(headers))
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={names},Signature={seed}"
    signed = check(Request("PUT", "/examplebucket/chunkObject.txt", "", headers), EXAMPLE_TIME_S)
    assert signed.payload is kind
    assert decoded_length_bytes(headers) == 66560
    return ChunkSigning(**msgpack.unpackb(msgpack.packb(signed.chunk_signing(SECRET_KEY).to_map())))


def wire(signatures: Sequence[str], end: str) -> bytes:
    chunks = (b"a" * 65536, b"a" * 1024, b"")
    lines = (
        f"{len(chunk):x};chunk-signature={signature}\r\n".encode() + (chunk + b"\r\n" if chunk else b"")
        for chunk, signature in zip(chunks, signatures, strict=True)
    )
    return b"".join(lines) + end.encode()


def decode(decoder: ChunkedDecoder, wire: bytes, sizes: Sequence[int] = ()) -> tuple[bytes, dict[str, str]]:
    """The payload and trailers of `wire`, fed in pieces of `sizes` and then the rest."""
    payload = b""
    for size in sizes:
        payload += b"".join(decoder.feed(wire[:size]))
        wire = wire[size:]
    payload += b"".join(decoder.feed(memoryview(wire)))
    return payload, dict(decoder.finish())


def signing() -> ChunkSigning:
    return example(PayloadKind.SIGNED_CHUNKS, SEED, {"content-length": "66824"})


def trailer_signing() -> ChunkSigning:
    return example(PayloadKind.SIGNED_CHUNKS_TRAILER, TRAILER_SEED, {"x-amz-trailer": CRC})


def test_the_published_chunks_verify() -> None:
    body = wire(CHUNK_SIGNATURES, "\r\n")
    assert len(body) == 66824
    assert decode(ChunkedDecoder(66560, signing=signing()), body) == (b"a" * 66560, {})
    assert body == signed_body([b"a" * 65536, b"a" * 1024], SEED)


@pytest.mark.parametrize("ends", ["{}\r\n{}\r\n\r\n", "{}\n\r\n{}\r\n\r\n", "\r\n{}\r\n{}\r\n\r\n", "{}\r\n{}\r\n"])
def test_the_published_trailer_verifies_in_all_forms_that_clients_give_it(ends: str) -> None:
    end = ends.format(f"{CRC}:sOO8/Q==", f"x-amz-trailer-signature:{TRAILER_SIGNATURE}")
    decoder = ChunkedDecoder(66560, signing=trailer_signing(), trailers=[CRC])
    assert decode(decoder, wire(TRAILER_CHUNK_SIGNATURES, end)) == (b"a" * 66560, {CRC: "sOO8/Q=="})


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_wrong_chunk_signature(which: int) -> None:
    signatures = list(CHUNK_SIGNATURES)
    signatures[which] = SEED
    with pytest.raises(SignatureDoesNotMatchError):
        decode(ChunkedDecoder(66560, signing=signing()), wire(signatures, "\r\n"))


def test_a_wrong_trailer_or_its_signature() -> None:
    for value, signature in (("sOO8/R==", TRAILER_SIGNATURE), ("sOO8/Q==", TRAILER_SEED)):
        decoder = ChunkedDecoder(66560, signing=trailer_signing(), trailers=[CRC])
        end = f"{CRC}:{value}\r\nx-amz-trailer-signature:{signature}\r\n\r\n"
        with pytest.raises(SignatureDoesNotMatchError):
            decode(decoder, wire(TRAILER_CHUNK_SIGNATURES, end))


def test_chunks_that_change_places() -> None:
    body = signed_body([b"1" * 8, b"2" * 8], SEED)
    head, first, second, rest = body[: body.index(b"8;")], *body.split(b"8;chunk")[1:], b""
    swapped = head + b"8;chunk" + second[: len(first)] + b"8;chunk" + first + second[len(first) :] + rest
    assert len(swapped) == len(body)
    with pytest.raises(SignatureDoesNotMatchError):
        decode(ChunkedDecoder(16, signing=signing()), swapped)


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=5)
SIZES = st.lists(st.integers(0, 30), max_size=30)
TRAILERS = st.sampled_from([{}, {CRC: "sOO8/Q=="}, {CRC: "", "x-amz-checksum-sha1": "a:b"}])


@given(chunks=CHUNKS, sizes=SIZES, trailers=TRAILERS, is_signed=st.booleans())
def test_any_split_of_the_wire_gives_the_same(
    chunks: list[bytes], sizes: list[int], trailers: dict[str, str], is_signed: bool
) -> None:
    payload = b"".join(chunks)
    if is_signed:
        body, keys = signed_body(chunks, SEED, trailers), SIGNING
    else:
        body, keys = plain_body(chunks, trailers), None
    for pieces in (sizes, [1] * len(body)):
        decoder = ChunkedDecoder(len(payload), signing=keys, trailers=list(trailers))
        assert decode(decoder, body, pieces) == (payload, trailers)


SIGNING = signing()


@settings(max_examples=200)
@given(chunks=CHUNKS, trailers=TRAILERS, is_signed=st.booleans(), data=st.data())
def test_a_body_that_is_cut_anywhere_is_not_whole(
    chunks: list[bytes], trailers: dict[str, str], is_signed: bool, data: st.DataObject
) -> None:
    body = signed_body(chunks, SEED, trailers) if is_signed else plain_body(chunks, trailers)
    # The last line end may be missing after trailers; nothing is lost with it.
    length = data.draw(st.integers(0, len(body) - (3 if trailers else 1)))
    decoder = ChunkedDecoder(sum(map(len, chunks)), signing=SIGNING if is_signed else None, trailers=list(trailers))
    with pytest.raises((TruncatedBodyError, MalformedTrailerError)):
        decode(decoder, body[:length])


@settings(max_examples=300)
@given(chunks=CHUNKS, trailers=TRAILERS, data=st.data())
def test_a_changed_byte_in_a_signed_body_never_gives_another_payload(
    chunks: list[bytes], trailers: dict[str, str], data: st.DataObject
) -> None:
    body = bytearray(signed_body(chunks, SEED, trailers))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    decoder = ChunkedDecoder(sum(map(len, chunks)), signing=SIGNING, trailers=list(trailers))
    try:
        found = decode(decoder, bytes(body))
    except RequestError:
        return
    assert found == (b"".join(chunks), trailers)


@given(st.binary(max_size=200))
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        decode(ChunkedDecoder(1 << 40), body)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", TruncatedBodyError),
        (b"4\r\n1234\r\n0\r\n", TruncatedBodyError),
        (b"4\r\n1234\r\n0\r\n\r\n", None),
        (b"4;chunk-signature=" + b"0" * 64 + b"\r\n1234\r\n0\r\n\r\n", None),  # not asked for
        (b"00004\r\n1234\r\n0\r\n\r\n", None),
        (b"3\r\n123\r\n0\r\n\r\n", TruncatedBodyError),  # less than announced
        (b"3\r\n123\r\n2\r\n", TruncatedBodyError),  # more: known before it is there
        (b"ffffffffffffffff\r\n", TruncatedBodyError),
        (b"4\r\n12345\r\n0\r\n\r\n", RequestError),
        (b"4\r\n1234\r\n0\r\n\r\nmore", RequestError),
        (b"4\n1234\r\n0\r\n\r\n", RequestError),
        (b"-4\r\n1234\r\n0\r\n\r\n", RequestError),
        (b"0x4\r\n1234\r\n0\r\n\r\n", RequestError),
        (b"4;extension=1\r\n1234\r\n0\r\n\r\n", RequestError),
        (b"10000000000000000\r\n", RequestError),
        (b"4" * 513, RequestError),
        (b"4\r\n1234\r\n0\r\nx-amz-checksum-sha1:a\r\n\r\n", MalformedTrailerError),  # not announced
        (b"4\r\n1234\r\n0\r\nno colon\r\n\r\n", MalformedTrailerError),
        (b"4\r\n1234\r\n0\r\n\xff:a\r\n\r\n", MalformedTrailerError),
    ],
)
def test_bodies_of_four_bytes(body: bytes, error: type[RequestError] | None) -> None:
    for sizes in ([], [1] * len(body)):
        decoder = ChunkedDecoder(4)
        if error is None:
            assert decode(decoder, body, sizes) == (b"1234", {})
            continue
        with pytest.raises(error) as caught:
            decode(decoder, body, sizes)
        assert type(caught.value) is error


def test_more_than_announced_is_refused_before_it_comes() -> None:
    decoder = ChunkedDecoder(4)
    assert b"".join(decoder.feed(b"3\r\n123\r\n")) == b"123"
    with pytest.raises(TruncatedBodyError):
        decoder.feed(b"2\r\n")


def test_a_trailer_that_was_announced_must_come_once() -> None:
    for trailers in ({}, {"x-amz-checksum-crc32": "a"}):
        for body, keys in ((plain_body([b"1234"], trailers), None), (signed_body([b"1234"], SEED, trailers), SIGNING)):
            with pytest.raises(MalformedTrailerError):
                decode(ChunkedDecoder(4, signing=keys, trailers=[CRC]), body)
    twice = plain_body([b"1234"], {CRC: "a", CRC.title(): "b"})
    with pytest.raises(MalformedTrailerError):
        decode(ChunkedDecoder(4, trailers=[CRC]), twice)


def test_unsigned_chunks_where_signed_ones_are_due() -> None:
    with pytest.raises(SignatureDoesNotMatchError):
        decode(ChunkedDecoder(4, signing=SIGNING), plain_body([b"1234"]))


def test_payload_is_not_copied_and_not_kept() -> None:
    decoder = ChunkedDecoder(1 << 40)
    decoder.feed(b"%x\r\n" % (1 << 40))
    piece = bytes(1 << 20)
    (view,) = decoder.feed(piece)
    assert view.obj is piece
    assert len(view) == len(piece)


def test_the_signing_key_is_all_that_a_decoder_is_given() -> None:
    text = repr(SIGNING) + str({name: value for name, value in SIGNING.to_map().items() if name != "key"})
    assert SIGNING.key.hex() not in text
    assert SECRET_KEY.encode() not in msgpack.packb(SIGNING.to_map())
    assert len(SIGNING.key) == 32


@pytest.mark.parametrize(
    "headers", [{}, {"x-amz-decoded-content-length": "-1"}, {"X-Amz-Decoded-Content-Length": "1.0"}]
)
def test_the_decoded_length_must_be_given(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError):
        decoded_length_bytes(headers)
