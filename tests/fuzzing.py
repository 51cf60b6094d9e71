"""Msgpack that is nearly right, or nothing at all, and how decoders may answer it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
from hypothesis import strategies as st

from objectcache.errors import RequestError

QUICK_S = 2.0
"""Far more than any decoding takes, and far less than what hostile lengths or nesting could cost."""

Path = tuple[str | int, ...]

ODD = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40)
    | st.lists(st.integers(0, 3) | st.text(max_size=3), max_size=4)
    | st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=3)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9))
)

ODD_VALUES: tuple[object, ...] = (None, True, "7", b"7", -1, 1.5, [None], {})
"""One of each type that a field may wrongly have; the numbers are none that counts may be."""

HOSTILE = {
    "nothing": b"",
    "not a map": msgpack.packb([1, 2]),
    "more behind it": msgpack.packb({"version": 1}) + b"\x00",
    "keys that are no names": b"\x81\x90\x01",
    "text that is no UTF-8": b"\x81\xa7version\xa1\xff",
    "a time that is none": b"\x81\xa7version\xc7\x05\xff12345",
    "nested as deep as msgpack goes": b"\x81\xa7version" + b"\x91" * 1000 + b"\xc0",
    "nested deeper": b"\x81\xa7version" + b"\x91" * 100_000 + b"\xc0",
    "nested maps": b"\x81\xa7version" + b"\x81\xa1a" * 1000 + b"\xc0",
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "a map of four billion": b"\xdf\xff\xff\xff\xff",
    "a string of four billion": b"\xdb\xff\xff\xff\xff",
    "arrays that claim as much as there is": b"\xdd\x00\x0f\x00\x00" * 1000 + bytes(1_000_000),
    "a large number of bytes": msgpack.packb({"version": bytes(1_000_000)}),
    "a large text": msgpack.packb({"version": "x" * 1_000_000}),
    "a large array": msgpack.packb({"version": [0] * 1_000_000}),
    "a large map": msgpack.packb({"version": {str(i): i for i in range(50_000)}}),
}


def answers_properly(decode: Callable[[bytes], object], data: bytes) -> str | None:
    """Decode: why it was refused, None if it was taken. Fails for other errors, and for long ones that come late."""
    began_s = time.process_time()
    message = None
    try:
        decode(data)
    except RequestError as error:
        message = str(error)
    assert time.process_time() - began_s < QUICK_S
    assert message is None or 0 < len(message) < 1000
    return message


def paths(value: object, at: Path = ()) -> Iterator[Path]:
    """Where something could be replaced or left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*at, name)
        yield from paths(inner, (*at, name))


def replaced(value: Any, path: Path, new: object) -> Any:
    """A copy with something else at `path`."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def without(value: Any, path: Path) -> Any:
    """A copy in which what is at `path` is missing."""
    copy = value.copy()
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(copy[path[0]], path[1:])
    return copy


@st.composite
def mutated(draw: st.DrawFn, encoded: bytes) -> bytes:
    """A valid message with one to three things replaced, left out, or bytes changed."""
    value = msgpack.unpackb(encoded)
    for _ in range(draw(st.integers(1, 3))):
        places = list(paths(value))
        if not places:
            break
        path = draw(st.sampled_from(places))
        value = replaced(value, path, draw(ODD)) if draw(st.booleans()) else without(value, path)
    data = bytearray(msgpack.packb(value))
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.integers(0, 3)) == 0 else bytes(data)
