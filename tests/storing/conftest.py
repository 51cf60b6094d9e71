"""A gateway for the tests of this folder."""

from tests.gateway.fixtures import gateway

__all__ = ["gateway"]
