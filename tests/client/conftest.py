"""A gateway for all tests of this folder, and gateways of a test's own."""

from tests.gateway.fixtures import gateway, module_gateway, own_gateway

__all__ = ["gateway", "module_gateway", "own_gateway"]
