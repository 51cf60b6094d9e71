"""Gateways over a bucket of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.gateway.process import GatewayProcess
from tests.services import ACCESS_KEY, SECRET_KEY

_KEYS = f'''[[key]]
id = "{ACCESS_KEY}"
secret = "{SECRET_KEY}"
[key.grants]
"*" = "admin"
'''


def gateway_over(store: str, data: Path, **settings: Any) -> GatewayProcess:
    """Not started. `store` is a URL. Clients sign with the service's credentials, which are in their environment."""
    data.mkdir(parents=True, exist_ok=True)
    keys = data / "keys.toml"
    keys.write_text(_KEYS)
    keys.chmod(0o600)
    return GatewayProcess(data, settings={"store": store, "access_keys": str(keys), **settings})
