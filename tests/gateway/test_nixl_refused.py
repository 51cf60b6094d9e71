"""A gateway that has no NIXL, or is not to use it: it says so, and nothing else changes."""

from __future__ import annotations

from objectcache.descriptor import Target, TargetKind
from objectcache.errors import DescriptorError, NixlRefusedError, SessionNotFoundError
from objectcache.messages import NixlRequest
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.raw import ask, connected, descriptor_of, open_session


def test_a_gateway_that_does_not_offer_it(module_gateway: StartGateway) -> None:
    gateway = module_gateway(nixl=False)
    session = open_session(gateway)
    assert session.nixl_agent == ""
    request = NixlRequest(session.session, b"metadata", 4096, 4096)
    answer = ask(gateway, "kv-nixl", request.encode())
    assert (answer.status, answer.error["Code"]) == (403, NixlRefusedError.code)
    other = NixlRequest(bytes(16), b"metadata", 4096, 4096)
    assert ask(gateway, "kv-nixl", other.encode()).error["Code"] == SessionNotFoundError.code

    namespace = new_namespace(flat_layout(2, 1000))
    with gateway.open(target="http") as cache:
        store_parts(cache, namespace, prompt(namespace, 2))
        match = retrieve_and_check(cache, namespace, prompt(namespace, 2))
    target = Target(TargetKind.NIXL, session.session, 0)
    answer = ask(gateway, "kv-retrieve", descriptor_of(match, target=target).encode())
    assert (answer.status, answer.error["Code"]) == (400, DescriptorError.code)
    with connected(session) as sock:  # the session is as it was: TCP is taken
        assert sock.fileno() >= 0
