"""TLS for the HTTP side of a gateway."""

from __future__ import annotations

import ssl

from objectcache.config import GatewayConfig
from objectcache.errors import ConfigError


def tls_context(config: GatewayConfig) -> ssl.SSLContext | None:
    """None where HTTP is plain. Raises ConfigError for a certificate or key that cannot be used."""
    if config.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"TLS cannot use {config.tls_cert} and {config.tls_key}: {error}") from error
    return context
