"""What a client registers, told to a gateway: bound to its session and its key, once, and the only place to write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from objectcache.buffers import BufferPool
from objectcache.cache import Match
from objectcache.client import GatewayCache
from objectcache.descriptor import Target, TargetKind
from objectcache.errors import ConfigError, DescriptorError, NixlRefusedError, SessionNotFoundError
from objectcache.messages import MAX_NIXL_STREAMS, NixlAnswer, NixlRequest, SessionAnswer
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from objectcache.transports.nixl import Agent, Region
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import PATIENCE_S, Answer, GatewayProcess, eventually
from tests.gateway.raw import ask, connected, descriptor_of, open_session
from tests.nixl.opening import open_cache

POOL_BYTES = 8192
LAYOUT = flat_layout(2, 1000)


@pytest.fixture
def match(gateway: GatewayProcess) -> Match:
    namespace = new_namespace(LAYOUT)
    with gateway.open(target="http") as cache:
        store_parts(cache, namespace, prompt(namespace, 2))
        return retrieve_and_check(cache, namespace, prompt(namespace, 2))


class Client:
    """An agent with a little memory, for a session that is open."""

    def __init__(self, session: SessionAnswer, name: str = "") -> None:
        self.session = session
        self.pool = BufferPool(POOL_BYTES)
        self.agent = Agent(name or session.nixl_agent)
        self.agent.register(Region(self.pool.address, self.pool.size_bytes))

    def request(self, **change: object) -> bytes:
        fields: dict[str, object] = {
            "session": self.session.session,
            "metadata": self.agent.metadata(),
            "address": self.pool.address,
            "size_bytes": self.pool.size_bytes,
        }
        return NixlRequest(**{**fields, **change}).encode()  # type: ignore[arg-type]

    def close(self) -> None:
        self.agent.close()
        self.pool.close()


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[Client]:
    made = Client(open_session(gateway))
    yield made
    made.close()


def register(gateway: GatewayProcess, body: bytes) -> Answer:
    return ask(gateway, "kv-nixl", body)


def test_a_destination_must_lie_in_what_is_registered(gateway: GatewayProcess, client: Client, match: Match) -> None:
    kind, session = TargetKind.NIXL, client.session
    assert (
        ask(gateway, "kv-retrieve", descriptor_of(match, target=Target(kind, session.session)).encode()).status == 400
    )
    answer = register(gateway, client.request())
    assert answer.status == 200
    assert NixlAnswer.decode(answer.body).agent
    before = bytes(client.pool.memory)
    with connected(session):
        for offset in (1, 4096, 8192, 1 << 40):  # two layers of 2000 bytes begin at pages
            body = descriptor_of(match, target=Target(kind, session.session, offset)).encode()
            refused = ask(gateway, "kv-retrieve", body)
            assert (refused.status, refused.error["Code"]) == (400, DescriptorError.code)
        assert client.pool.memory == before
        over_tcp = descriptor_of(match, target=Target(TargetKind.TCP, session.session)).encode()
        assert ask(gateway, "kv-retrieve", over_tcp).error["Code"] == DescriptorError.code
        body = descriptor_of(match, target=Target(kind, session.session, 0)).encode()
        assert ask(gateway, "kv-retrieve", body).status == 200
        eventually(lambda: bool(client.agent.notifications()), "it is written")
        assert client.pool.memory != before


def test_a_session_is_registered_once(gateway: GatewayProcess, client: Client) -> None:
    assert register(gateway, client.request()).status == 200
    again = register(gateway, client.request())
    assert (again.status, again.error["Code"]) == (400, DescriptorError.code)


@pytest.mark.parametrize("change", [{"size_bytes": 2 * POOL_BYTES}, {"address": 4096}, {"metadata": b"noise"}], ids=str)
def test_what_is_not_registered_is_refused(gateway: GatewayProcess, client: Client, change: dict[str, object]) -> None:
    answer = register(gateway, client.request(**change))
    assert (answer.status, answer.error["Code"]) == (403, NixlRefusedError.code)


def test_a_line_before_the_memory_is_registered_is_turned_away(gateway: GatewayProcess, client: Client) -> None:
    assert register(gateway, client.request(size_bytes=2 * POOL_BYTES)).status == 403
    with connected(client.session) as line:
        line.settimeout(PATIENCE_S)
        assert line.recv(1) == b""


def test_a_session_has_few_streams(gateway: GatewayProcess) -> None:
    client = Client(open_session(gateway, MAX_NIXL_STREAMS + 1))
    answer = register(gateway, client.request())
    assert (answer.status, answer.error["Code"]) == (403, NixlRefusedError.code)
    client.close()
    with open_cache(gateway, streams=MAX_NIXL_STREAMS + 1) as cache:
        namespace = new_namespace(LAYOUT)
        store_parts(cache, namespace, prompt(namespace, 2))
        retrieve_and_check(cache, namespace, prompt(namespace, 2))


def test_an_agent_of_another_name_is_refused(gateway: GatewayProcess) -> None:
    session, other = open_session(gateway), open_session(gateway)
    for name in ("objectcache", other.nixl_agent):
        client = Client(session if name == "objectcache" else open_session(gateway), name)
        answer = register(gateway, client.request())
        assert (answer.status, answer.error["Code"]) == (403, NixlRefusedError.code)
        client.close()
    stranger = Client(session)
    answer = register(gateway, stranger.request(session=bytes(16)))
    assert answer.error["Code"] == SessionNotFoundError.code
    stranger.close()


def test_a_session_without_a_line_is_given_up(gateway: GatewayProcess, client: Client) -> None:
    assert register(gateway, client.request()).status == 200
    eventually(lambda: gateway.metric("objectcache_sessions") == 0, "nobody has come")


def test_clients_of_gateways_that_do_not_do_it(own_gateway: StartGateway) -> None:
    with open_cache(own_gateway(nixl=False)) as cache:
        namespace = new_namespace(LAYOUT)
        store_parts(cache, namespace, prompt(namespace, 2))
        match = cache.match(namespace, prompt(namespace, 2))
        with pytest.raises(NixlRefusedError, match=r"objectcache\[nixl\]"):
            cache.retrieve(match)
    with pytest.raises(ConfigError):
        open_cache(own_gateway(), receiver="process")


def test_a_handshake_is_once_a_client(gateway: GatewayProcess) -> None:
    with open_cache(gateway) as cache:
        assert isinstance(cache, GatewayCache)
        namespace = new_namespace(LAYOUT)
        store_parts(cache, namespace, prompt(namespace, 2))
        retrieve_and_check(cache, namespace, prompt(namespace, 2))
        asked = "objectcache_requests_total"
        before = gateway.metric(asked, operation="kv-nixl"), gateway.metric(asked, operation="kv-session")
        for _ in range(5):
            retrieve_and_check(cache, namespace, prompt(namespace, 2))
        assert before == (
            gateway.metric(asked, operation="kv-nixl"),
            gateway.metric(asked, operation="kv-session"),
        )
