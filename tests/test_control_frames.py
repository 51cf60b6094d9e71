"""Frames of control streams come out as they went in, wherever their bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.errors import EntityTooLargeError, RequestError
from objectcache.messages import MAX_MESSAGE_BYTES
from objectcache.messages.control import ControlFrame, ControlReader, control_frame

FRAMES = st.lists(
    st.builds(ControlFrame, st.integers(0, 0xFFFF), st.integers(0, (1 << 64) - 1), st.binary(max_size=40)), max_size=5
)


@given(FRAMES, st.data())
def test_frames_cut_anywhere(frames: list[ControlFrame], data: st.DataObject) -> None:
    wire = b"".join(control_frame(*frame) for frame in frames)
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=12).map(sorted))
    reader, found = ControlReader(), []
    for begin, end in pairwise([0, *cuts, len(wire)]):
        reader.feed(wire[begin:end])
        while (frame := reader.take()) is not None:
            found.append(frame)
    assert found == frames


@given(st.binary(min_size=1, max_size=40), st.integers(0, 40))
def test_what_is_no_frame(garbage: bytes, cut: int) -> None:
    """It is refused by its first bytes, or waited for as long as it may become one."""
    reader, refused = ControlReader(), False
    for piece in (garbage[:cut], garbage[cut:]):
        reader.feed(piece)
        try:
            reader.take()
        except EntityTooLargeError:
            pass
        except RequestError:
            refused = True
    assert refused != control_frame(0, 0, b"").startswith(garbage[:2])


def test_what_is_too_large_is_not_waited_for() -> None:
    reader = ControlReader()
    reader.feed(control_frame(1, 2, b"")[:4] + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "little") + bytes(8))
    with pytest.raises(EntityTooLargeError):
        reader.take()
    reader = ControlReader()
    reader.feed(control_frame(1, 2, b"")[:4] + MAX_MESSAGE_BYTES.to_bytes(4, "little") + bytes(8))
    assert reader.take() is None
