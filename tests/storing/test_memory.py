"""Where bytes are, as a process is told that copies them."""

from __future__ import annotations

import ctypes

from hypothesis import given
from hypothesis import strategies as st

from objectcache.storing.memory import address_of


@given(st.binary(min_size=1, max_size=100), st.data())
def test_at_the_address_are_the_bytes(content: bytes, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(content) - 1))
    for view in (memoryview(content), memoryview(bytearray(content))):
        assert ctypes.string_at(address_of(view[first:]), len(content) - first) == content[first:]
