"""Match and retrieve in one, over raw HTTP: what is delivered, and what is only matched or refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from objectcache.descriptor import HeldChunks, Target, TargetKind, Versions, first_versions
from objectcache.frames import FRAME_HEADER_BYTES, FrameType, decode_frame
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import PartShape, delivery_geometry
from objectcache.messages import (
    ANSWER_HEADER,
    MatchAndRetrieveAnswer,
    MatchAndRetrieveRequest,
    MatchAnswer,
    MatchRequest,
)
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, store_parts
from tests.gateway.process import GatewayProcess, eventually
from tests.gateway.raw import HTTP, ask, connected, open_session

LAYERS, SLICE_BYTES, CHUNKS = 4, 4096, 8
LAYOUT = flat_layout(LAYERS, SLICE_BYTES)
IN_ONE = "kv-match-and-retrieve"
ROOM = delivery_geometry((PartShape(tuple(range(LAYERS)), (SLICE_BYTES,) * LAYERS, CHUNKS),), 1).total_bytes

Stored = tuple[Namespace, KeyChain]


@pytest.fixture(scope="module")
def stored(gateway: GatewayProcess) -> Stored:
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        store_parts(cache, namespace, prompt(namespace, CHUNKS), cuts=(3,))
    return namespace, prompt(namespace, CHUNKS + 4)


@pytest.fixture(autouse=True)
def nothing_is_left(gateway: GatewayProcess) -> Iterator[None]:
    yield
    eventually(lambda: gateway.metric("objectcache_deliveries_running") == 0, "no delivery runs")


def request(stored: Stored, target: Target, room_bytes: int = ROOM, held: Sequence[HeldChunks] = ()) -> bytes:
    namespace, chain = stored
    asked = MatchRequest(namespace.digest, chain, ((0, 0),))
    return MatchAndRetrieveRequest(asked, target, room_bytes, 7, 0, 1, held=tuple(held)).encode()


def delivered(gateway: GatewayProcess) -> float:
    return gateway.metric("objectcache_delivered_bytes_total")


def test_it_answers_both_and_delivers(gateway: GatewayProcess, stored: Stored) -> None:
    session = open_session(gateway)
    before = gateway.metric("objectcache_asked_tokens_total"), gateway.metric("objectcache_matched_tokens_total")
    with connected(session) as sock:
        answer = ask(gateway, IN_ONE, request(stored, Target(TargetKind.TCP, session.session)))
        assert answer.status == 200
        told = MatchAndRetrieveAnswer.decode(answer.body)
        assert (told.match.tokens, told.match.parts) == (CHUNKS * 16, ((0, 0, 0, CHUNKS),))
        assert told.match.lease
        assert told.accepted is not None
        assert told.accepted.payload_bytes == LAYERS * CHUNKS * SLICE_BYTES
        assert [chunks for chunks, _ in told.accepted.versions[0]] == [3, 5]
        first = decode_frame(sock.recv(FRAME_HEADER_BYTES))
        assert (first.type, first.delivery, first.layer) == (FrameType.DATA, 7, 0)
    asked = gateway.metric("objectcache_asked_tokens_total") - before[0]
    assert (asked, gateway.metric("objectcache_matched_tokens_total") - before[1]) == (12 * 16, 8 * 16)


def test_a_response_has_both_in_its_head(gateway: GatewayProcess, stored: Stored) -> None:
    answer = ask(gateway, IN_ONE, request(stored, HTTP))
    told = MatchAndRetrieveAnswer.from_header(answer.headers[ANSWER_HEADER])
    assert told.match.tokens == CHUNKS * 16
    assert told.accepted is not None
    first = decode_frame(answer.body[:FRAME_HEADER_BYTES])
    assert (first.type, first.delivery, first.layer) == (FrameType.DATA, 7, 0)


@pytest.mark.parametrize("by_session", [True, False])
def test_what_there_is_no_room_for_is_only_matched(gateway: GatewayProcess, stored: Stored, by_session: bool) -> None:
    before = delivered(gateway)
    session = open_session(gateway)
    with connected(session):
        target = Target(TargetKind.TCP, session.session) if by_session else HTTP
        told = MatchAndRetrieveAnswer.decode(ask(gateway, IN_ONE, request(stored, target, ROOM - 1)).body)
    assert (told.match.tokens, told.accepted) == (CHUNKS * 16, None)
    assert told.match.lease
    assert delivered(gateway) == before


@pytest.mark.parametrize("known", [True, False])
def test_nothing_comes_of_a_miss(gateway: GatewayProcess, stored: Stored, known: bool) -> None:
    before = delivered(gateway)
    namespace = stored[0] if known else new_namespace(LAYOUT)
    missed = namespace, prompt(namespace, 4, seed=1)
    assert MatchAndRetrieveAnswer.decode(ask(gateway, IN_ONE, request(missed, HTTP)).body) == (
        MatchAndRetrieveAnswer(MatchAnswer(0))
    )
    assert delivered(gateway) == before


def test_a_session_that_is_none_is_told_before_anything_is_matched(gateway: GatewayProcess, stored: Stored) -> None:
    before = gateway.metric("objectcache_asked_tokens_total")
    answer = ask(gateway, IN_ONE, request(stored, Target(TargetKind.TCP, bytes(16))))
    assert (answer.status, answer.error["Code"]) == (404, "NoSuchSession")
    assert gateway.metric("objectcache_asked_tokens_total") == before


def test_memory_that_is_not_the_sessions_is_not_written(gateway: GatewayProcess, stored: Stored) -> None:
    before = delivered(gateway)
    session = open_session(gateway)
    with connected(session):
        answer = ask(gateway, IN_ONE, request(stored, Target(TargetKind.SHM, session.session, 4096)))
    assert (answer.status, answer.error["Code"]) == (400, "InvalidDescriptor")
    assert delivered(gateway) == before


def versions(gateway: GatewayProcess, stored: Stored) -> Versions:
    told = MatchAndRetrieveAnswer.from_header(ask(gateway, IN_ONE, request(stored, HTTP)).headers[ANSWER_HEADER])
    assert told.accepted is not None
    assert not told.held, "nobody has said anything of it"
    return told.accepted.versions[0]


@pytest.mark.parametrize(
    ("steps", "of_part", "sent"),
    [
        (((2, 6),), (0, 0, 0), LAYERS * CHUNKS - 2 * 6),
        (((LAYERS, 2), (1, CHUNKS)), (0, 0, 0), LAYERS * CHUNKS - 2 * LAYERS - (CHUNKS - 2)),
        (((LAYERS, 2), (1, CHUNKS + 3)), (0, 0, 0), LAYERS * CHUNKS - 2 * LAYERS - (CHUNKS - 2)),
        (((2, 5),), (0, 0, 1), LAYERS * CHUNKS),
        (((2, 5),), (0, 1, 0), LAYERS * CHUNKS),
    ],
    ids=["some", "two steps", "more than matches", "beginning elsewhere", "of another part"],
)
def test_what_is_held_is_not_sent(
    gateway: GatewayProcess,
    stored: Stored,
    steps: tuple[tuple[int, int], ...],
    of_part: tuple[int, int, int],
    sent: int,
) -> None:
    whole = versions(gateway, stored)
    mine = first_versions((*whole, (99, b"whatever")), steps[-1][1])
    answer = ask(gateway, IN_ONE, request(stored, HTTP, held=[HeldChunks(*of_part, steps, mine)]))
    told = MatchAndRetrieveAnswer.from_header(answer.headers[ANSWER_HEADER])
    assert told.held
    assert told.accepted is not None
    assert told.accepted.payload_bytes == sent * SLICE_BYTES


@pytest.mark.parametrize("chunks", [CHUNKS, CHUNKS + 4])
def test_what_is_held_altogether_is_only_matched(gateway: GatewayProcess, stored: Stored, chunks: int) -> None:
    before = delivered(gateway)
    held = HeldChunks(0, 0, 0, ((LAYERS, chunks),), ((chunks, b"whatever"),))
    told = MatchAndRetrieveAnswer.decode(ask(gateway, IN_ONE, request(stored, HTTP, held=[held])).body)
    assert (told.match.tokens, told.accepted) == (CHUNKS * 16, None)
    assert told.match.lease
    assert delivered(gateway) == before


def test_other_versions_than_are_held(gateway: GatewayProcess, stored: Stored) -> None:
    """Refused, as a descriptor is; of chunks that do not match they are no matter."""
    whole = versions(gateway, stored)
    other = HeldChunks(0, 0, 0, ((1, CHUNKS),), (*first_versions(whole, CHUNKS - 1), (1, b"whatever")))
    answer = ask(gateway, IN_ONE, request(stored, HTTP, held=[other]))
    assert (answer.status, answer.error["Code"]) == (409, "HeldVersionChanged")
    beyond = HeldChunks(0, 0, 0, ((1, CHUNKS + 1),), (*whole, (1, b"whatever")))
    assert ask(gateway, IN_ONE, request(stored, HTTP, held=[beyond])).status == 200
