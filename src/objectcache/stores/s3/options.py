"""Which bucket, where: an S3 store's URL, completed from the environment that every S3 client knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from objectcache.errors import ConfigError, InvalidObjectNameError
from objectcache.stores.base import check_name

MAX_KEY_BYTES = 1024
_DEFAULT_REGION = "us-east-1"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+/?")
_REGION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHAPE = "s3://bucket/prefix?endpoint=http://host:port&region=…&addressing=path|virtual"


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where objects lie: under `prefix` (without a slash at its ends; "": anywhere) of `bucket`.

    `endpoint` is "" for AWS itself; `virtual` puts the bucket into the host name instead of the path.
    """

    bucket: str
    prefix: str
    endpoint: str
    region: str
    virtual: bool

    @property
    def url(self) -> str:
        """The canonical URL: it needs nothing from the environment but credentials."""
        query = {"endpoint": self.endpoint} if self.endpoint else {}
        query["region"] = self.region
        if self.virtual != _virtual_by_default(self.bucket, self.endpoint):
            query["addressing"] = "virtual" if self.virtual else "path"
        path = "/" + quote(self.prefix) if self.prefix else ""
        return f"s3://{self.bucket}{path}?{urlencode(query, safe=':/')}"

    @property
    def allow_http(self) -> bool:
        return self.endpoint.startswith("http://")

    @property
    def request_endpoint(self) -> str:
        """Where requests go, with the bucket in it when that is how it is addressed; "" for AWS."""
        if not self.virtual or not self.endpoint:
            return self.endpoint
        scheme, _, host = self.endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{host}"

    def at(self, endpoint: str) -> S3Options:
        """The same objects behind another address."""
        return replace(self, endpoint=endpoint)

    def key(self, name: str) -> str:
        """The key of the object `name`. Raises InvalidObjectNameError, also when it is too long for a key."""
        key = f"{self.prefix}/{check_name(name)}" if self.prefix else check_name(name)
        if len(key.encode()) > MAX_KEY_BYTES:
            raise InvalidObjectNameError(
                f"{name[:80]!r} is too long: a key of S3, with the prefix before it, has at most {MAX_KEY_BYTES} bytes"
            )
        return key


def parse_s3_url(url: str, environment: Mapping[str, str]) -> S3Options:
    """What `url` and, for what it leaves open, the environment say. Raises ConfigError, never showing a secret."""
    scheme, _, rest = url.partition("://")
    authority_and_path, _, query = rest.partition("?")
    bucket, _, path = authority_and_path.partition("/")
    if "@" in bucket:
        raise ConfigError("credentials do not belong into a URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if scheme.lower() != "s3" or not _BUCKET.fullmatch(bucket) or "#" in rest:
        raise ConfigError(f"'s3://{bucket}' does not name a bucket: write {_SHAPE}")
    settings = _settings(query)
    endpoint = settings.get("endpoint") or _first(environment, _ENDPOINTS)
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        raise ConfigError(
            "the endpoint of an S3 store is http://host:port or https://host:port, without a path or credentials"
        )
    endpoint = endpoint.rstrip("/")
    try:
        _ = urlsplit(endpoint).port
    except ValueError as error:
        raise ConfigError(f"the endpoint of an S3 store has an impossible port: {error}") from error
    region = settings.get("region") or _first(environment, _REGIONS) or _DEFAULT_REGION
    if not _REGION.fullmatch(region):
        raise ConfigError(f"{region!r} is not a region")
    addressing = settings.get("addressing", "")
    if addressing not in ("", "path", "virtual"):
        raise ConfigError(f"addressing is 'path' or 'virtual', not {addressing!r}")
    virtual = addressing == "virtual" if addressing else _virtual_by_default(bucket, endpoint)
    return S3Options(bucket, _prefix(path), endpoint, region, virtual)


def _prefix(path: str) -> str:
    try:
        prefix = unquote(path, errors="strict").rstrip("/")
        return check_name(prefix) if prefix else ""
    except (UnicodeDecodeError, InvalidObjectNameError) as error:
        raise ConfigError(f"{path!r} cannot be the prefix of names in a bucket: {error}") from error


def _settings(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError:
        pairs = [("", "")]
    settings = dict(pairs)
    if len(settings) != len(pairs) or not settings.keys() <= {"endpoint", "region", "addressing"}:
        raise ConfigError(
            f"after the ? of an S3 store's URL come endpoint, region and addressing, once each ({_SHAPE}); "
            "credentials come from the environment only"
        )
    return settings


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _virtual_by_default(bucket: str, endpoint: str) -> bool:
    """AWS wants the bucket in the host name, where its certificate allows that; other services do not know it there."""
    return not endpoint and "." not in bucket
