"""Objects that are replaced while they are read, and conditions that several writers want to meet at once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.gateway.process import BUCKET, Answer, GatewayProcess

LARGE = 400_000  # what data workers send
SMALL = 5_000
THREADS = 6


def together(count: int, run: Callable[[int], Any]) -> list[Any]:
    """Calls at the same moment."""
    start = threading.Barrier(count)

    def at_once(number: int) -> Any:
        start.wait()
        return run(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(at_once, range(count)))


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_get_never_mixes_what_is_put(gateway: GatewayProcess, size: int) -> None:
    path = f"/{BUCKET}/replaced-{size}"
    bodies = [bytes([number]) * (size + number) for number in range(4)]
    known = {hashlib.md5(body).hexdigest() for body in bodies}
    gateway.ask("PUT", path, bodies[0])
    done = threading.Event()

    def put(number: int) -> int:
        connection, count = gateway.connect(), 0
        while not done.is_set():
            connection.request("PUT", path, bodies[(count + number) % 4])
            assert Answer.read(connection.getresponse()).status == 200
            count += 1
        connection.close()
        return count

    def get(number: int) -> int:
        connection, different = gateway.connect(), set()
        for _ in range(60):
            headers = {"Range": "bytes=100-"} if number else {}
            connection.request("GET", path, headers=headers)
            answer = Answer.read(connection.getresponse())
            assert answer.status == (206 if number else 200), answer.body
            whole = answer.body[:1] * 100 + answer.body if number else answer.body
            assert hashlib.md5(whole).hexdigest() == answer.headers["etag"].strip('"')
            assert hashlib.md5(whole).hexdigest() in known
            different.add(answer.headers["etag"])
        connection.close()
        return len(different)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(put, number) for number in range(2)]
        try:
            seen = [reader.result() for reader in [pool.submit(get, number) for number in range(2)]]
        finally:
            done.set()
        written = [writer.result() for writer in writers]
    assert min(seen) > 1
    assert min(written) > 1


@pytest.mark.parametrize("size", [10, LARGE])
def test_of_many_that_make_an_object_one_does(gateway: GatewayProcess, size: int) -> None:
    for turn in range(3):
        path = f"/{BUCKET}/made-{size}-{turn}"
        bodies = [bytes([number]) * size for number in range(THREADS)]
        answers = together(
            THREADS,
            lambda number: gateway.ask("PUT", path, bodies[number], {"If-None-Match": "*"}),  # noqa: B023
        )
        won = [number for number, answer in enumerate(answers) if answer.status == 200]
        assert len(won) == 1
        assert {answer.error["Code"] for answer in answers if answer.status != 200} == {"PreconditionFailed"}
        assert gateway.ask("GET", path).body == bodies[won[0]]


def test_of_many_that_replace_an_object_one_does(gateway: GatewayProcess) -> None:
    path = f"/{BUCKET}/counter"
    etag = gateway.ask("PUT", path, b"0").headers["etag"]
    for _ in range(5):
        now = etag
        answers = together(
            THREADS,
            lambda number: gateway.ask("PUT", path, f"{now}{number}".encode(), {"If-Match": now}),  # noqa: B023
        )
        won = [answer for answer in answers if answer.status == 200]
        assert len(won) == 1
        assert {answer.status for answer in answers} == {200, 412}
        etag = won[0].headers["etag"]
        assert gateway.ask("HEAD", path).headers["etag"] == etag


def test_conditions_on_what_is_not_there(gateway: GatewayProcess) -> None:
    path = f"/{BUCKET}/never-there"
    for wanted in ('"abc"', "*"):
        answer = gateway.ask("PUT", path, b"x", {"If-Match": wanted})
        assert (answer.status, answer.error["Code"]) == (404, "NoSuchKey")
    assert gateway.ask("GET", path).status == 404
    gateway.ask("PUT", f"/{BUCKET}/is-there", b"x")
    copied = {"x-amz-copy-source": f"/{BUCKET}/is-there", "If-None-Match": "*"}
    assert gateway.ask("PUT", path, headers=copied).status == 200
    assert gateway.ask("PUT", path, headers=copied).status == 412
    gateway.ask("DELETE", path)


def test_a_client_that_knows_an_object(gateway: GatewayProcess) -> None:
    path = f"/{BUCKET}/known"
    etag = gateway.ask("PUT", path, bytes(LARGE), {"Cache-Control": "max-age=5"}).headers["etag"]
    modified = gateway.ask("HEAD", path).headers["last-modified"]
    for method in ("GET", "HEAD"):
        for condition in ({"If-None-Match": etag}, {"If-Modified-Since": modified}):
            answer = gateway.ask(method, path, headers=condition)
            assert (answer.status, answer.body) == (304, b"")
            assert answer.headers["etag"] == etag
            assert answer.headers["cache-control"] == "max-age=5"
        for condition in ({"If-Match": '"x"'}, {"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}):
            answer = gateway.ask(method, path, headers=condition)
            assert answer.status == 412
            assert answer.body == b"" if method == "HEAD" else answer.error["Code"] == "PreconditionFailed"
        assert gateway.ask(method, path, headers={"If-None-Match": '"x"', "If-Match": etag}).status == 200


def test_a_range_of_another_object_is_not_a_part_of_this_one(gateway: GatewayProcess) -> None:
    path = f"/{BUCKET}/resumed"
    etag = gateway.ask("PUT", path, b"0123456789").headers["etag"]
    part = gateway.ask("GET", path, headers={"Range": "bytes=5-", "If-Range": etag})
    assert (part.status, part.body) == (206, b"56789")
    whole = gateway.ask("GET", path, headers={"Range": "bytes=5-", "If-Range": '"another"'})
    assert (whole.status, whole.body) == (200, b"0123456789")
