"""Responses as they are read here are what http.client reads."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from objectcache.client.responses import MOST_PLAIN_BYTES, PlainResponse, Response, answer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/msgpack\r\n"


@contextmanager
def connected(pieces: list[bytes]) -> Iterator[http.client.HTTPConnection]:
    """A connection over which `pieces` come one after the other, and then its end."""
    mine, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            for piece in pieces:
                try:
                    theirs.sendall(piece)
                except OSError:
                    return

    sender = threading.Thread(target=send)
    sender.start()
    connection = http.client.HTTPConnection("nowhere")
    mine.settimeout(10)
    connection.sock = mine
    try:
        yield connection
    finally:
        connection.close()
        mine.close()
        sender.join()


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(at)]


def by_http_client(connection: http.client.HTTPConnection, method: str) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection.sock, method=method)
    response.begin()
    return response


def outcome(pieces: list[bytes], method: str, answer: Callable[[http.client.HTTPConnection, str], Response]) -> object:
    """What is read of a response: status, headers, body, and whether the connection can go on; or the kind of error."""
    with connected(pieces) as connection:
        try:
            with closing(answer(connection, method)) as response:
                headers = {name.lower(): value for name, value in response.headers.items()}
                return response.status, headers, response.read(), response.isclosed(), response.will_close
        except http.client.IncompleteRead as error:
            return "incomplete", error.partial, error.expected
        except (http.client.HTTPException, ConnectionError) as error:
            return type(error)


fields = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: 05",
        b"content-length: 0",
        b"Content-Length: 70000",
        b"Content-Length: -1",
        b"Content-Length: \xc2\xb2",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Server: us",
        b"X-Two: one",
        b"X-Two: two",
        b"X-Folded: one\r\n two",
        b"no colon",
        b"X-Empty:",
    ]
)
first_lines = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.1 2000 OK",
        b"HTTP/2 200 OK",
        b"SSH-2.0",
        b"",
    ]
)
bodies = st.sampled_from([b"", b"five!", b"too long", b"5\r\nfive!\r\n0\r\n\r\n", b"x" * 70000, b"y" * 80000])


@given(first_lines, st.lists(fields, max_size=4), bodies, st.lists(st.integers(0, 1 << 20), max_size=4), st.booleans())
def test_what_comes_is_what_http_client_makes_of_it(
    first: bytes, lines: list[bytes], body: bytes, cuts: list[int], asks_for_head: bool
) -> None:
    data = b"\r\n".join([first, *lines, b"", b""]) + body
    method = "HEAD" if asks_for_head else "POST"
    pieces = in_pieces(data, cuts)
    assert outcome(pieces, method, answer) == outcome(pieces, method, by_http_client)


PLAIN_FIELDS = [
    b"",
    b"Server: us",
    b"Server:us",
    b"X-Empty:",
    b"X-Colons: a:b",
    b"Connection: Keep-Alive",
    b"X-Not-Blank: \xa0\x85\x1cin between\x1c\x85\xa0",
]
CHUNKED = b"Transfer-Encoding: chunked"
OTHER_FIELDS = [
    CHUNKED,
    b"transfer-encoding:gzip",
    b"Connection: close",
    b"X-Two: one\r\nx-two: two",
    b"X-Folded: one\r\n two",
    b"X-Feed: a\nX-More: b",
    b"X-Return: a\rX-More: b",
    b"no colon",
    b": no name",
    b"X-Blank : a",
    b"X Blank: a",
    b"X-\xe9: a",
    b"X-Control\x01: a",
]


def assert_plain_or_left(
    status: int, method: str, odd: bytes, odd_first: bool, size: int, longer: int, cuts: list[int]
) -> None:
    """It is what http.client makes of it; and is plain, or http.client's own where anything is odd about it."""
    lines = [b"Content-Length: %d" % size]
    if odd:
        lines.insert(0 if odd_first else 1, odd)
    head = b"\r\n".join([b"HTTP/1.1 %d Whatever" % status, *lines, b"", b""])
    data = head + b"x" * max(0, size + longer)
    if longer > 0:  # what is too long has to come along with the end of the head to be noticed
        cuts = [cut % len(head) for cut in cuts]
    pieces, kinds = in_pieces(data, cuts), []

    def noted(connection: http.client.HTTPConnection, method: str) -> Response:
        response = answer(connection, method)
        kinds.append(type(response))
        return response

    assert outcome(pieces, method, noted) == outcome(pieces, method, by_http_client)
    plain = status in (200, 404) and method != "HEAD" and odd in PLAIN_FIELDS and longer <= 0
    assert kinds == [PlainResponse if plain else http.client.HTTPResponse]


@pytest.mark.parametrize("odd", [*PLAIN_FIELDS, *OTHER_FIELDS])
@pytest.mark.parametrize("odd_first", [False, True])
def test_each_field_beside_the_length(odd: bytes, odd_first: bool) -> None:
    assert_plain_or_left(200, "POST", odd, odd_first, 5, 0, [])


@given(
    st.sampled_from([200, 404, 200, 404, 204, 304]),
    st.sampled_from(["POST", "GET", "HEAD"]),
    st.sampled_from([*PLAIN_FIELDS * 2, *[CHUNKED] * 8, *OTHER_FIELDS]),
    st.booleans(),
    st.sampled_from([5, 1000, 0]),
    st.sampled_from([0, 0, 0, -1, -3, 1]),
    st.lists(st.integers(0, 1 << 20), max_size=2),
)
@example(200, "POST", b"", False, 5, -3, [])
@example(200, "POST", b"", False, 5, 1, [])
@example(200, "HEAD", b"", False, 5, 0, [])
@example(204, "POST", b"", False, 5, 0, [])
@example(304, "POST", b"", False, 5, 0, [])
def test_a_plain_response_is_what_http_client_makes_of_it(
    status: int, method: str, odd: bytes, odd_first: bool, size: int, longer: int, cuts: list[int]
) -> None:
    assert_plain_or_left(status, method, odd, odd_first, size, longer, cuts)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 4\n\n",
        b"HTTP/1.1 200 OK\nServer: us\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\n",
    ],
)
@pytest.mark.parametrize("body", [b"four", b"\r\n\r\n"])
@pytest.mark.parametrize("step", [1, 1000])
def test_lines_that_end_in_a_bare_feed_are_left_to_http_client(head: bytes, body: bytes, step: int) -> None:
    """And are not waited for on a connection that stays open, whatever the body looks like."""
    mine, theirs = socket.socketpair()
    connection = http.client.HTTPConnection("nowhere")
    mine.settimeout(10)
    connection.sock = mine
    data = head + body
    with theirs, closing(connection):
        for begin in range(0, len(data), step):
            theirs.sendall(data[begin : begin + step])
        response = answer(connection, "POST")
        assert isinstance(response, http.client.HTTPResponse)
        with closing(response):
            assert response.read() == body


def test_a_response_after_another_that_was_only_interim() -> None:
    pieces = [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + b"Content-Length: 2\r\n\r\n", b"ok"]
    with connected(pieces) as connection:
        assert answer(connection, "PUT").read() == b"ok"


def test_the_common_response_is_plain_and_read_in_steps() -> None:
    with connected([HEAD + b"Content-Length: 9\r\n\r\nfir", b"st", b"last"]) as connection:
        response = answer(connection, "POST")
        assert isinstance(response, PlainResponse)
        assert response.headers.get("content-type", "") == "application/msgpack"
        out, read = memoryview(bytearray(4)), b""
        while count := response.readinto(out):
            read += out[:count]
        assert (read, response.isclosed()) == (b"firstlast", True)


@pytest.mark.parametrize("head", [b"Content-Length: %d\r\n" % (MOST_PLAIN_BYTES + 1), b"Connection: close\r\n"])
def test_large_and_last_responses_are_left_to_http_client(head: bytes) -> None:
    """The latter closes the connection, whose socket stays open for the body."""
    with connected([HEAD + head + b"\r\n", b"a" * (MOST_PLAIN_BYTES + 1)]) as connection:
        response = answer(connection, "POST")
        assert isinstance(response, http.client.HTTPResponse)
        assert len(response.read()) == MOST_PLAIN_BYTES + 1
        assert response.isclosed()


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.6\r\n", b"H\r\n", b"+OK ready\n"])
@pytest.mark.parametrize("step", [1, 100])
def test_another_protocol_is_seen_at_the_end_of_its_line(banner: bytes, step: int) -> None:
    """Though it says no more, and waits for an answer."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        for at in range(0, len(banner), step):
            theirs.sendall(banner[at : at + step])
        connection = http.client.HTTPConnection("nowhere")
        mine.settimeout(5)
        connection.sock = mine
        with pytest.raises(http.client.BadStatusLine):
            answer(connection, "POST")


def test_nothing_comes() -> None:
    with connected([]) as connection, pytest.raises(http.client.RemoteDisconnected):
        answer(connection, "POST")
