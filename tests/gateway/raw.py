"""KV requests as they are on the wire, for tests that get them wrong."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgpack

from objectcache.cache import Match
from objectcache.descriptor import Descriptor, DescriptorPart, Target, TargetKind
from objectcache.frames import hello_frame
from objectcache.keys import KeyChain, Namespace
from objectcache.messages import SessionAnswer, SessionRequest, StoreRequest
from objectcache.segment import SegmentHeader
from objectcache.testing.synthetic import layer_bytes_of
from tests.gateway.process import BUCKET, PATIENCE_S, Answer, GatewayProcess
from tests.segments import encode

HTTP = Target(TargetKind.HTTP)


def ask(
    gateway: GatewayProcess, resource: str, body: bytes, *, method: str = "POST", headers: dict[str, str] | None = None
) -> Answer:
    return gateway.ask(method, f"/{BUCKET}?{resource}", body, headers)


def descriptor_of(match: Match, *, target: Target = HTTP, **fields: Any) -> Descriptor:
    """A request for all that was matched."""
    layout = match.namespace.layout
    parts = tuple(DescriptorPart.of(part.part, part.first, part.stop, part.leaf, layout) for part in match.parts)
    described = Descriptor(namespace=match.namespace.digest, parts=parts, target=target, delivery=1)
    return replace(described, **fields)


def altered(descriptor: Descriptor, change: dict[str, Any], part: dict[str, Any]) -> bytes:
    """The descriptor on the wire with some fields as they are given, its own and its first part's."""
    fields = msgpack.unpackb(descriptor.encode())
    fields["parts"][0] |= part
    data: bytes = msgpack.packb(fields | change)
    return data


def open_session(gateway: GatewayProcess, streams: int = 1) -> SessionAnswer:
    """A data session without any connections."""
    answer = ask(gateway, "kv-session", SessionRequest(streams).encode())
    assert answer.status == 200
    return SessionAnswer.decode(answer.body)


@contextmanager
def connected(session: SessionAnswer, hello: bytes | None = None) -> Iterator[socket.socket]:
    """A data connection that says hello, or something else."""
    with socket.create_connection((session.data_host, session.data_port), PATIENCE_S) as sock:
        sock.sendall(hello_frame(session.session, 0) if hello is None else hello)
        yield sock


def segment_of(namespace: Namespace, chain: KeyChain, name: str) -> tuple[SegmentHeader, bytes]:
    """A segment with all of `chain`, and the body of its upload."""
    header = SegmentHeader.for_layout(
        namespace.layout,
        name=name,
        namespace=namespace.digest,
        group=0,
        shard=0,
        chain=chain,
        first=0,
        stop=len(chain),
    )
    body, _ = encode(header, [layer_bytes_of(header, position) for position in range(len(header.layers))])
    return header, body


def store_header(request: StoreRequest) -> dict[str, str]:
    return {"x-kv-store": base64.b64encode(request.encode()).decode()}


def store_request(header: SegmentHeader) -> StoreRequest:
    stop = header.depth + header.num_chunks
    return StoreRequest(header.name, header.namespace, header.group, header.shard, header.leaf, header.depth, stop)


def stored_segments(gateway: GatewayProcess) -> set[str]:
    """Files of all segments in the store, committed or not."""
    return {str(path) for path in gateway.objects.glob("*kv/seg/**/*.obj")}
