"""How a client talks to a gateway."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields

from objectcache.cache.tiering import TierOptions
from objectcache.client.endpoint import Endpoint, client_tls, find_credentials
from objectcache.errors import ConfigError
from objectcache.transports.nixl import check_installed
from objectcache.transports.verification import Level, Verification


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How to talk to a gateway.

    `target` is "shm" (a worker of the gateway, on the same host, copies into the destination pool), "tcp" (striped
    connections), "http" (the response) or "auto": the first of these that both sides have. There is no "shm" from
    another host, user or network namespace, and no "tcp" where HTTP is TLS and the network not trusted. "nixl" is for
    whoever says so: the pool is registered with NIXL (`objectcache[nixl]`), and a worker writes into it by RDMA or what
    else UCX has. `receiver` is
    "threads" or "process" (over TCP only): `receiver_processes` of them (0: one for every two streams). `streams` is
    the number of connections, and of a worker's threads that serve them (default: 4, or the cores if there are fewer);
    `buffer_bytes` the size of the destination pool, which takes memory only as it is written, or at once with
    `prefault`; `verify` says how much of what arrives is checked against its digests, where it arrives: "all" of it,
    "sampled" (the first layer, and `verify_fraction` of the others) or "off" (`transports.verification`).
    `timeout_s` bounds each control request, `fence_s` how long a cancelled delivery may stay in the middle of a frame
    before its connections are cut. Requests are signed with `access_key` and `secret_key`, or those in the environment
    (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY); `ca_file` (PEM) replaces the system's certificate authorities. `tier` is
    a tier of local DRAM, which there is none of by default.
    """

    target: str = "auto"
    receiver: str = "threads"
    receiver_processes: int = 0
    streams: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    buffer_bytes: int = 16 << 30
    prefault: bool = False
    verify: str = Level.ALL
    verify_fraction: float = 0.1
    timeout_s: float = 10.0
    fence_s: float = 2.0
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    region: str = "us-east-1"
    ca_file: str = ""
    tier: TierOptions = field(default_factory=TierOptions)

    def __post_init__(self) -> None:
        if self.target not in ("auto", "shm", "tcp", "http", "nixl"):
            raise ConfigError(f"target must be 'auto', 'shm', 'tcp', 'http' or 'nixl', got {self.target!r}")
        if self.receiver not in ("threads", "process"):
            raise ConfigError(f"receiver must be 'threads' or 'process', got {self.receiver!r}")
        if self.target in ("shm", "nixl") and self.receiver == "process":
            raise ConfigError(f"a receiving process is for target 'tcp': with {self.target!r} nothing is received")
        if self.target == "nixl":
            check_installed()
        if not 0 <= self.receiver_processes <= self.streams:
            raise ConfigError(
                f"receiver_processes must be between 0 and the {self.streams} streams, got {self.receiver_processes}"
            )
        if self.streams < 1:
            raise ConfigError(f"streams must be at least 1, got {self.streams}")
        self.verification()

    def verification(self) -> Verification:
        """Raises ConfigError."""
        return Verification(self.verify, self.verify_fraction)

    def to_wire(self) -> dict[str, object]:
        """What a process that uploads for this one needs of them: all but the tier."""
        return {name: getattr(self, name) for name in (f.name for f in fields(self)) if name != "tier"}

    def endpoint(self, host: str, port: int, *, tls: bool = False) -> Endpoint:
        """Raises ConfigError."""
        context = client_tls(self.ca_file) if tls else None
        return Endpoint(host, port, context, "", find_credentials(self.access_key, self.secret_key), self.region)
