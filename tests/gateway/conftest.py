"""A gateway for all tests of this folder, and gateways of a test's own."""

from tests.gateway.fixtures import gateway, own_gateway

__all__ = ["gateway", "own_gateway"]
