"""Bodies of uploads, from a socket into a store, verified on the way."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from objectcache.errors import (
    BadDigestError,
    GatewayUnavailableError,
    IntegrityError,
    LayoutError,
    RequestError,
    TruncatedBodyError,
)
from objectcache.integrity import span_matches
from objectcache.keys import KEY_BYTES
from objectcache.layout import SegmentGeometry
from objectcache.s3.part_checksums import CHECKSUM_TYPE, FULL_OBJECT
from objectcache.segment import (
    HEADER_PREFIX_BYTES,
    MAX_NAME_BYTES,
    SegmentHeader,
    decode_footer,
    decode_header,
    footer_bytes,
    header_length,
)
from objectcache.stores import ObjectInfo, ObjectUpload, Store
from objectcache.transports.sockets import recv_exact
from objectcache.workers.bodies import BodySpec, CheckedBody, read_pieces


@dataclass(frozen=True, slots=True)
class ExpectedSegment:
    """What the header of an upload must say, for the request that was accepted."""

    name: str
    namespace: bytes
    group: int
    shard: int
    chunk_tokens: int
    layers: tuple[int, ...]
    slice_bytes: tuple[int, ...]
    leaf: bytes
    depth: int
    num_chunks: int

    def check_length(self, length: int) -> None:
        """Raises RequestError for a body that cannot be this segment: room need not be made for it."""
        footer = footer_bytes(len(self.layers))
        shortest, longest = (
            SegmentGeometry(self.num_chunks, self.slice_bytes, header).footer_offset + footer
            for header in (0, MAX_NAME_BYTES + 1024 + KEY_BYTES * self.num_chunks + 16 * len(self.layers))
        )
        if not shortest <= length <= longest:
            raise RequestError(
                f"a segment of {self.num_chunks} chunks of this layout is {shortest} to {longest} bytes, not {length}"
            )

    def check(self, header: SegmentHeader) -> None:
        """Raises RequestError naming the first field that differs."""
        for field in self.__slots__:
            if getattr(header, field) != getattr(self, field):
                raise RequestError(f"the segment's header has another {field} than the request, or than the namespace")


def receive_object(
    sock: socket.socket, spec: BodySpec, store: Store, name: str, **how: Any
) -> tuple[ObjectInfo, tuple[str, str]]:
    """A plain object's body; what it is then, and the checksum it came with. `how` are arguments of `Store.upload`.

    Raises RequestError and its kinds, StoreError; the store then holds nothing of it.
    """
    body = CheckedBody(spec)
    with store.upload(name, size_bytes=spec.decoded_bytes, **how) as upload:
        for arrived in read_pieces(sock, spec):
            for piece in body.take(arrived):
                upload.write(piece)
        body.finish()
        for name in spec.announced.trailers:
            upload.add_metadata({name: body.checksum[1], CHECKSUM_TYPE: FULL_OBJECT})
        return upload.publish(etag=body.md5_hex), body.checksum


def receive_segment(
    sock: socket.socket, length: int, store: Store, expected: ExpectedSegment
) -> tuple[SegmentHeader, tuple[bytes, ...]]:
    """A segment's body; returns its header and row digests.

    Raises RequestError and its kinds for a body that is not whole, not itself, or not what was announced; StoreError.
    The store then holds nothing of it.
    """
    try:
        prefix = _take(sock, HEADER_PREFIX_BYTES, length)
        size = header_length(prefix)
        header = decode_header(prefix + _take(sock, size - len(prefix), length))
        expected.check(header)
        if header.total_bytes != length:
            raise RequestError(f"the segment is {header.total_bytes} bytes, Content-Length says {length}")
        with store.upload(header.name, size_bytes=length, if_absent=True) as upload:
            upload.write(header.encoded)
            digests = [_receive_layer(sock, header, position, upload) for position in range(len(header.layers))]
            footer = _take(sock, footer_bytes(len(header.layers)), length)
            if decode_footer(footer, header) != tuple(digests):
                raise IntegrityError("the footer is not of these layers")
            upload.write(footer)
            upload.publish()
    except (IntegrityError, LayoutError) as error:
        raise BadDigestError(f"the segment that was sent is damaged: {error}") from error
    return header, tuple(digests)


def _receive_layer(sock: socket.socket, header: SegmentHeader, position: int, upload: ObjectUpload) -> bytes:
    """One layer; returns its row's digest. Raises IntegrityError when slices and row disagree."""
    geometry, binding = header.geometry, header.binding(position)
    layer = geometry.rows[position]
    head = _take(sock, geometry.padding_before_row(position) + layer.row_bytes, header.total_bytes)
    upload.write(head)
    row = head[-layer.row_bytes :]
    size = layer.slice_bytes
    buffer = memoryview(bytearray(0))
    for span in layer.spans(0, header.num_chunks):
        wanted = (span.stop - span.first) * size
        if len(buffer) < wanted:
            buffer = memoryview(bytearray(wanted))
        data = buffer[:wanted]
        _fill(sock, data)
        begin, end = layer.digest_range(span)
        if not span_matches(binding, span, size, header.keys[span.first : span.stop], row[begin:end], data):
            raise IntegrityError(f"layer {header.layers[position]}: slices and digests disagree")
        upload.write(data)
    return binding.row_digest(row, header.leaf, header.num_chunks)


def _take(sock: socket.socket, count: int, length: int) -> bytes:
    if count > length:
        raise RequestError(f"a segment cannot be {length} bytes long")
    data = bytearray(count)
    _fill(sock, memoryview(data))
    return bytes(data)


def _fill(sock: socket.socket, out: memoryview) -> None:
    try:
        recv_exact(sock, out)
    except GatewayUnavailableError as error:
        raise TruncatedBodyError("the body ended before the length that was announced") from error
