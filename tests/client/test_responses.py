"""Responses as they are read here are what http.client reads."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.client.responses import MOST_PLAIN_BYTES, PlainResponse, answer

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


def outcome(pieces: list[bytes], method: str, *, plain: bool) -> object:
    """What is read of a response: status, headers, body, and whether the connection can go on; or the kind of error."""
    with connected(pieces) as connection:
        try:
            if plain:
                response = answer(connection, method)
            else:
                response = http.client.HTTPResponse(connection.sock, method=method)
                response.begin()
            with closing(response):
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
    assert outcome(pieces, method, plain=True) == outcome(pieces, method, plain=False)


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


def test_nothing_comes() -> None:
    with connected([]) as connection, pytest.raises(http.client.RemoteDisconnected):
        answer(connection, "POST")
