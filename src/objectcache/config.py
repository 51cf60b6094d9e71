"""Settings of a gateway: defaults, a TOML file, and what the command line overrides."""

from __future__ import annotations

import os
import re
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from objectcache.errors import ConfigError
from objectcache.s3 import Grant
from objectcache.scheduling import DEFAULT_POLICY, POLICIES
from objectcache.transports.connecting import check_congestion_control
from objectcache.transports.dealing import MOST_CARRIERS

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]i?B?|B)?", re.IGNORECASE)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kKMGT])(i)?)?(bps|bit/s|bit|B/s|B)?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_NO_BUCKET = re.compile(r"\.\.|\.-|-\.|^\d+\.\d+\.\d+\.\d+$")
_REGION = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DEFAULT_KEYS_FILE = "access-keys.toml"
RESERVED_BUCKETS = frozenset({"healthz", "readyz", "metrics"})


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What `objectcache serve` runs with. Every field is a key of the configuration file."""

    data: Path
    """Directory of the file store; each bucket is a directory in it."""
    host: str = "127.0.0.1"
    """Address to listen on, for HTTP and for data connections."""
    port: int = 9000
    """HTTP port; 0 takes any free one."""
    data_port: int = 0
    """Port of the data connections; 0 takes any free one: responses tell it."""
    advertise_host: str = ""
    """Host under which clients reach this very gateway; default: the address that their request came in on."""
    buckets: tuple[str, ...] = ("kvcache",)
    """Buckets that are made at start."""
    workers: int = field(default_factory=lambda: max(1, (os.cpu_count() or 1) // 4))
    """Data worker processes."""
    workers_per_session: int = field(default_factory=lambda: _workers_per_session(os.cpu_count() or 1))
    """How many of them one client's session is spread over, if there are as many. 1: each session is one worker's. By
    default 1 on less than 16 cores, 3 on 16, 4 on 22 and more."""
    spread_from_bytes: int = 4 << 20
    """Deliveries of fewer bytes are sent by one worker all the same: it takes about a millisecond."""
    limit_bytes: int | None = None
    """Byte limit per bucket; default: 80 % of the free disk."""
    store: str = ""
    """Where objects are instead of `data`: `s3://bucket/prefix?endpoint=…`, `rados://pool/prefix`, or
    `file:///mount/path?lacks=…` for a mount that lacks something; each bucket is a prefix below it."""
    cache_bytes: int | None = None
    """Size of the read cache in front of such a store; default: 80 % of the free disk; 0: none."""
    cache_dir: Path | None = None
    """Directory of the read cache; default: `read-cache` in `data`."""
    access_keys: Path | None = None
    """TOML file of access keys and what each may do; default: `access-keys.toml` in `data`, made at the first start."""
    anonymous: Grant | None = None
    """What requests that are not signed may do: "read", "write", "admin"; default: nothing."""
    domains: tuple[str, ...] = ()
    """Host names below which the bucket is in the name, as in `kvcache.s3.example.org`."""
    region: str = "us-east-1"
    """What clients are told to sign for; any region's signature is taken."""
    tls_cert: Path | None = None
    """Certificate (PEM, with its chain): HTTP is then served over TLS only."""
    tls_key: Path | None = None
    """Its key (PEM)."""
    plain_data: bool | None = None
    """Whether KV travels over data connections, which have no TLS: yes where HTTP has none either; otherwise only when
    this says that the network is trusted. Without them, KV comes in HTTP responses."""
    congestion_control: str = ""
    """What connections from other hosts are sent by: "cubic", "dctcp", "bbr"; default: the system's choice."""
    merge_bytes_s: int | None = None
    """How many bytes a second merging of small segments rewrites at most; 0: it does not. Default: 64 MiB, but 0 where
    `store` is set: there it costs requests."""
    merge_interval_s: float = 2.0
    """How often it is looked whether there is something to merge."""
    shared_memory: bool = True
    """Whether clients on this host may have KV placed in their own memory."""
    shared_memory_users: tuple[int, ...] = ()
    """Numbers of the users who may, beside the gateway's own."""
    nixl: bool = True
    """Whether clients may have KV written into memory that they register with NIXL, where that is installed and there
    may be data connections."""
    bandwidth: float | None = None
    """Bytes a second that this gateway's NIC may carry of deliveries ("100Gbps", "12.5GB/s"); default: no cap."""
    share: float = 1.0
    """How much of `bandwidth` is always this gateway's, where several share a link; where nobody lends, all it has."""
    lend: float = 0.0
    """How much of `bandwidth` is set aside as the shares that gateways which borrow always have; 0: nothing is lent."""
    bandwidth_from: str = ""
    """Another gateway (`http://host:port`), which lends this one its share of `bandwidth`."""
    link_bandwidths: Mapping[str, float] = field(default_factory=dict)
    """Caps of other links, by name or pattern: "store:BUCKET", "client:ADDRESS", "client:10.0.*"."""
    policy: str = DEFAULT_POLICY
    """Who goes first when links are full."""
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    """Shares among tenants, by access key; 1 for those that are not named."""
    lease_ttl_s: float = 60.0
    """How long a match pins what it found."""
    attach_s: float = 30.0
    """How long a data session waits for its connections, and a data connection may take to say whose it is."""
    drain_s: float = 30.0
    """How long SIGTERM waits for deliveries under way."""

    def __post_init__(self) -> None:
        for name in ("port", "data_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigError(f"{name} must lie in 0..65535, got {getattr(self, name)}")
        if self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        if not 1 <= self.workers_per_session <= MOST_CARRIERS:
            raise ConfigError(f"workers_per_session must lie in 1..{MOST_CARRIERS}, got {self.workers_per_session}")
        if not self.buckets:
            raise ConfigError("buckets must name at least one bucket")
        for bucket in self.buckets:
            check_bucket(bucket)
        if not 0 < self.merge_interval_s <= threading.TIMEOUT_MAX:
            raise ConfigError(f"merge_interval_s must be positive, got {self.merge_interval_s}")
        if any(not 0 < weight < inf for weight in self.tenant_weights.values()):
            raise ConfigError(f"the weight of a tenant must be positive, got {dict(self.tenant_weights)}")
        if self.bandwidth is None and self.share != 1.0:
            raise ConfigError("share is a part of bandwidth, which is not given")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must lie in 0..1, got {self.share}")
        if (self.bandwidth_from or self.lend) and self.bandwidth is None:
            raise ConfigError("lend and bandwidth_from need bandwidth, and share: what may always be used of it")
        if self.bandwidth_from and (self.lend or urlsplit(self.bandwidth_from).scheme not in ("http", "https")):
            raise ConfigError("bandwidth_from is http://host:port of the gateway that lends; this one cannot lend then")
        if not 0 <= self.lend + (self.share if self.lend else 0) <= 1:
            raise ConfigError(f"share and lend must fit into 1 together, got {self.share} and {self.lend}")
        if self.policy not in POLICIES:
            raise ConfigError(f"policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key go together: give both, or neither")
        if self.congestion_control:
            check_congestion_control(self.congestion_control)
        if not _REGION.fullmatch(self.region):
            raise ConfigError(f"region must be 1 to 64 of a-z, A-Z, 0-9, '_', '.' and '-', got {self.region!r}")

    @property
    def serves_data_connections(self) -> bool:
        return self.tls_cert is None if self.plain_data is None else self.plain_data


def _workers_per_session(cores: int) -> int:
    """The fewest that fill the NIC that hosts of so many cores have."""
    return 1 if cores < 16 else min(4, cores * 3 // 16)


def is_bucket(name: str) -> bool:
    """Whether a bucket can have that name, which then is one component of a path as well."""
    return bool(_BUCKET.fullmatch(name)) and not _NO_BUCKET.search(name) and name not in RESERVED_BUCKETS


def check_bucket(name: str) -> str:
    """`name` itself. Raises ConfigError with S3's rule for bucket names."""
    if not is_bucket(name):
        raise ConfigError(
            f"{name!r} is not a bucket name: 3 to 63 of a-z, 0-9, '.' and '-', beginning and ending with a letter or "
            "digit, no '..', '.-' or '-.', no IPv4 address, and none of " + ", ".join(sorted(RESERVED_BUCKETS))
        )
    return name


def parse_bytes(text: str | int) -> int:
    """A size such as 4096, "64 MiB" or "1.5TB". Raises ConfigError."""
    if isinstance(text, int):
        return text
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is not a size: a number with B, KB, MB, GB, TB, or KiB, MiB, GiB, TiB")
    unit = (found[2] or "B").upper()
    power = "BKMGTP".index(unit[0])
    return int(float(found[1]) * (1024 if "I" in unit else 1000) ** power)


def parse_rate(text: str | float) -> float:
    """Bytes a second: a number of them, "100Gbps", "100 Gbit/s", "12.5GB/s" or "800MiB/s". Raises ConfigError.

    Bits where the unit says so (bps, bit); otherwise bytes.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        found_bytes_s = float(text)
    else:
        found = _RATE.fullmatch(str(text).strip())
        if found is None:
            raise ConfigError(f"{text!r} is not a rate: a number with Mbps, Gbps, Gbit/s, MB/s, GB/s, MiB/s or GiB/s")
        number, power, binary, unit = found.groups()
        if unit is None:
            raise ConfigError(f"the rate {text!r} has no unit: say {number}Gbps or {number}GB/s")
        factor = (1024 if binary else 1000) ** " kmgt".index((power or " ").lower())
        found_bytes_s = float(number) * factor / (1 if unit.startswith("B") else 8)
    if not 0 < found_bytes_s < inf:
        raise ConfigError(f"a rate must be positive, got {text!r}")
    return found_bytes_s


def load_config(path: Path | None, overrides: Mapping[str, Any]) -> GatewayConfig:
    """The file's settings with `overrides` (None: not given) on top. Raises ConfigError naming what is wrong."""
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = tomllib.loads(path.read_text())
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
    settings |= {name: value for name, value in overrides.items() if value is not None}
    known = {item.name: item for item in fields(GatewayConfig)}
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]!r}; known are: {', '.join(known)}")
    if "data" not in settings:
        raise ConfigError('no data directory: give --data DIR, or data = "DIR" in the configuration file')
    config = GatewayConfig(data=Path(settings.pop("data")).expanduser().absolute())
    try:
        return replace(config, **{name: _convert(name, value) for name, value in settings.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a setting has the wrong type: {error}") from error


def _convert(name: str, value: Any) -> Any:
    if name in ("buckets", "domains"):
        return tuple(value) if not isinstance(value, str) else (value,)
    if name in ("access_keys", "cache_dir", "tls_cert", "tls_key"):
        return Path(value).expanduser().absolute()
    if name == "anonymous":
        return _grant(value)
    if name in ("plain_data", "shared_memory", "nixl") and not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}")
    if name == "shared_memory_users":
        if not isinstance(value, list | tuple) or any(type(user) is not int or user < 0 for user in value):
            raise ConfigError(f"shared_memory_users must be a list of user numbers, got {value!r}")
        return tuple(value)
    if name == "bandwidth":
        return parse_rate(value)
    if name == "link_bandwidths":
        return {str(link): parse_rate(rate) for link, rate in dict(value).items()}
    if name == "tenant_weights":
        return {str(tenant): float(weight) for tenant, weight in dict(value).items()}
    if name in ("share", "lend"):
        return float(value)
    if name in ("limit_bytes", "cache_bytes", "merge_bytes_s", "spread_from_bytes"):
        return parse_bytes(value)
    if name in ("lease_ttl_s", "attach_s", "drain_s", "merge_interval_s"):
        return float(value)
    if name in ("port", "data_port", "workers", "workers_per_session"):
        return int(value)
    return value


def _grant(value: Any) -> Grant | None:
    names = {grant.name.lower(): grant for grant in Grant}
    if value in ("", "none", None):
        return None
    if value not in names:
        raise ConfigError(f"anonymous must be one of none, {', '.join(names)}, got {value!r}")
    return names[value]
