"""Gateways of a test's own."""

from importlib.util import find_spec

from tests.gateway.fixtures import own_gateway

if find_spec("torch") is None:
    collect_ignore_glob = ["test_worker*.py"]

__all__ = ["own_gateway"]
