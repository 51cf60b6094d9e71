"""One of each message on the wire, for the golden files."""

from __future__ import annotations

from struct import Struct

from objectcache.descriptor import Descriptor, DescriptorPart, Target, TargetKind
from objectcache.errors import KeyNotFoundError
from objectcache.frames import PIECE, Frame, FrameType, credit_frame, error_frame, hello_frame
from objectcache.keys import KeyChain
from objectcache.messages import (
    CancelAnswer,
    CancelRequest,
    CommitRequest,
    MatchAndRetrieveAnswer,
    MatchAndRetrieveRequest,
    MatchAnswer,
    MatchRequest,
    NixlAnswer,
    NixlRequest,
    ReleaseRequest,
    RetrieveAnswer,
    SessionAnswer,
    SessionRequest,
    StoreRequest,
    WindowsBatch,
    WindowsRequest,
)

NAMESPACE = bytes(range(32))
LEAF = bytes(range(100, 132))
ID = bytes(range(200, 216))

DESCRIPTOR = Descriptor(
    namespace=NAMESPACE,
    parts=(
        DescriptorPart(1, 2, LEAF, 3, 7, 16, (4, 5), (640, 320), ((6, 2), (5, 3)), ((1, ID[:8]), (2, ID[8:]))),
        DescriptorPart(0, 0, LEAF, 0, 7, 16, (0,), (64,)),
    ),
    target=Target(TargetKind.TCP, ID),
    delivery=(1 << 64) - 2,
    epoch=5,
    from_layer=4,
    layers_per_unit=2,
    credit_bytes=1 << 33,
    windows_s=(0.5, 0.25),
    gang="step-9",
    deadline_s=2.5,
    lease=ID,
    trace="request-1",
)

MESSAGES = (
    MatchRequest(NAMESPACE, KeyChain(LEAF * 2), ((0, 0), (1, 2))),
    MatchAnswer(160, ((0, 0, 0, 10), (1, 2, 6, 10)), ID, 60.0, 12.5e9, 2),
    SessionRequest(4),
    SessionAnswer(ID, "10.0.0.1", 9000, "10.0.0.1", 9001, "objectcache-1", "objectcache-2"),
    RetrieveAnswer(2, 1 << 20, (((16, ID[:8]), (3, ID[8:])), ()), 1.25e9, "size"),
    CancelRequest(ID, 7, 5, 0.5),
    CancelAnswer(True),
    StoreRequest(".kv/seg/c-1/000/000/000/001", NAMESPACE, 1, 2, LEAF, 3, 7),
    CommitRequest((".kv/seg/c-1/000/000/000/001",), (".kv/seg/c-1/000/000/000/002",)),
    ReleaseRequest(ID),
    WindowsBatch((WindowsRequest(ID, 7, 5, (0.5, 0.25), -0.125),)),
    NixlRequest(ID, b"metadata", 0x7F0000000000, 16 << 30, "VRAM", 1),
    NixlAnswer("objectcache-worker-1"),
    MatchAndRetrieveRequest(
        MatchRequest(NAMESPACE, KeyChain(LEAF * 2), ((0, 0),)),
        Target(TargetKind.SHM, ID, 1 << 20),
        3 << 20,
        (1 << 64) - 2,
        5,
        2,
        (0.5, 0.25),
        "step-9",
        2.5,
        "request-1",
    ),
    MatchAndRetrieveAnswer(
        MatchAnswer(160, ((0, 0, 0, 10),), ID, 60.0, 12.5e9, 2),
        RetrieveAnswer(2, 1 << 20, (((10, ID[:8]),),), 1.25e9, "size"),
    ),
)
"""Without what was added since: those who know nothing of it are sent, and send, these."""

FRAMES = (
    hello_frame(ID, 3),
    credit_frame(7, 5, (1 << 33) + 1),
    Frame(FrameType.DATA, 7, 5, PIECE, 0, 1, 4, 16, 16, 1 << 20, 0, 2, ID).encode(),
    Frame(FrameType.DATA, 7, 5, 0, 1, 1, 4, 32, 2, 128, 0, 2, ID).encode() + ID,
    Frame(FrameType.PLACED, 7, 5, PIECE, 1, 1, 4, 32, 20, 20 << 16, 16, 2, ID).encode() + ID,
    Frame(FrameType.END, 7, 5).encode(),
    Frame(FrameType.CANCELLED, 7, 5).encode(),
    error_frame(7, 5, KeyNotFoundError("gone")),
)

_LENGTH = Struct("<I")


def frames() -> bytes:
    """As they follow each other on a stream, without the DATA frames' data."""
    return b"".join(FRAMES)


def messages() -> bytes:
    """Each after its length (u32), which is not part of the wire."""
    encoded = [message.encode() for message in MESSAGES]
    return b"".join(_LENGTH.pack(len(data)) + data for data in encoded)
