"""Gateways over a bucket of a service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fault_proxy import FaultProxy
from tests.gateway.process import GatewayProcess
from tests.services import ACCESS_KEY, SECRET_KEY, S3Service

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


@dataclass
class Pair:
    """Two gateways over one bucket, which share nothing else; `far` reaches the service through `proxy`."""

    service: S3Service
    bucket: str
    near: GatewayProcess
    far: GatewayProcess
    proxy: FaultProxy

    @classmethod
    def start(cls, service: S3Service, folder: Path) -> Pair:
        bucket, proxy = service.make_bucket(), FaultProxy(service.port)
        near = gateway_over(f"s3://{bucket}/gw?endpoint={service.endpoint}", folder / "near", attach_s=3.0)
        far = gateway_over(f"s3://{bucket}/gw?endpoint={proxy.endpoint}", folder / "far", attach_s=3.0)
        return cls(service, bucket, near.start(), far.start(), proxy)

    @property
    def store_url(self) -> str:
        """Of the store that is the gateways' bucket "kvcache"."""
        return f"s3://{self.bucket}/gw/kvcache?endpoint={self.service.endpoint}"

    def client(self, gateway: GatewayProcess) -> Any:
        """boto3; nothing is tried twice."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{gateway.port}",
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, max_pool_connections=40),
        )

    def stop(self) -> None:
        self.proxy.heal()
        assert [self.near.stop(), self.far.stop()] == [0, 0]
        self.proxy.close()
        assert "Traceback" not in self.near.log + self.far.log

    def end(self) -> None:
        """However they are."""
        self.near.kill()
        self.far.kill()
        self.proxy.close()
