"""What is pinned of the wire can also be read back."""

from __future__ import annotations

from typing import Any, cast

import pytest

from objectcache.descriptor import decode_descriptor
from objectcache.errors import KeyNotFoundError
from objectcache.frames import FRAME_HEADER_BYTES, FrameType, credit_bytes, decode_error, decode_frame
from tests.golden.regenerate import FOLDER
from tests.golden.wire import DESCRIPTOR, FRAMES, ID, MESSAGES


def test_the_golden_descriptor_can_be_read() -> None:
    assert decode_descriptor((FOLDER / "descriptor.bin").read_bytes()) == DESCRIPTOR


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_can_be_read(message: object) -> None:
    kind = cast(Any, type(message))
    assert kind.decode(cast(Any, message).encode()) == message


def test_the_golden_frames_can_be_read() -> None:
    hello, credit, piece, slices, placed, end, cancelled, error = FRAMES
    assert decode_frame(hello[:FRAME_HEADER_BYTES]).digest == ID
    assert credit_bytes(decode_frame(credit)) == (1 << 33) + 1
    assert decode_frame(piece).data_bytes == 1 << 20
    assert decode_frame(slices[:FRAME_HEADER_BYTES]).extra == 1
    assert decode_frame(placed[:FRAME_HEADER_BYTES]).data_bytes == 20 << 16
    assert [decode_frame(frame).type for frame in (end, cancelled)] == [FrameType.END, FrameType.CANCELLED]
    assert isinstance(decode_error(error[FRAME_HEADER_BYTES:]), KeyNotFoundError)
