"""Which pool, of which cluster, as whom: a RADOS store's URL, completed from Ceph's environment variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode

from objectcache.errors import ConfigError, InvalidObjectNameError
from objectcache.stores.base import check_name

_DEFAULT_CLIENT = "client.admin"
_POOL = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CLIENT = re.compile(r"client\.[A-Za-z0-9._-]{1,128}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._/-]{0,128}")
_SHAPE = "rados://pool/prefix?client=NAME&conf=/path/ceph.conf&namespace=NAME&index=POOL"


@dataclass(frozen=True, slots=True)
class RadosOptions:
    """Where objects lie: under `prefix` (without a slash at its ends; "": anywhere) of `pool`'s `namespace`.

    `index` is the pool that says what is there: `pool` itself, unless that is erasure-coded. `conf` is "" where
    librados looks for it in Ceph's usual places.
    """

    pool: str
    prefix: str
    client: str
    conf: str
    namespace: str
    index: str

    @property
    def url(self) -> str:
        """The canonical URL: another process needs nothing more, but for what the files of Ceph say."""
        query = {"client": self.client, "conf": self.conf, "namespace": self.namespace}
        query["index"] = self.index if self.index != self.pool else ""
        path = "/" + quote(self.prefix) if self.prefix else ""
        said = urlencode({name: value for name, value in query.items() if value}, safe="/")
        return f"rados://{self.pool}{path}?{said}"

    def key(self, name: str) -> str:
        """What the object `name` is called in the pool. Raises InvalidObjectNameError."""
        return f"{self.prefix}/{check_name(name)}" if self.prefix else check_name(name)


def parse_rados_url(url: str, environment: Mapping[str, str]) -> RadosOptions:
    """What `url` and, for what it leaves open, the environment say. Raises ConfigError."""
    scheme, _, rest = url.partition("://")
    authority_and_path, _, query = rest.partition("?")
    pool, _, path = authority_and_path.partition("/")
    if scheme.lower() != "rados" or not _POOL.fullmatch(pool) or "#" in rest:
        raise ConfigError(f"'rados://{pool}' does not name a pool: write {_SHAPE}")
    settings = _settings(query)
    client = settings.get("client") or _client_of(environment.get("CEPH_ARGS", "")) or _DEFAULT_CLIENT
    client = client if client.startswith("client.") else f"client.{client}"
    index, namespace = settings.get("index") or pool, settings.get("namespace", "")
    for value, allowed, what in (
        (client, _CLIENT, "client"),
        (index, _POOL, "pool"),
        (namespace, _NAMESPACE, "namespace"),
    ):
        if not allowed.fullmatch(value):
            raise ConfigError(f"{value!r} is not the name of a {what}: write {_SHAPE}")
    conf = settings.get("conf", "")
    if conf and (not conf.startswith("/") or "\0" in conf):
        raise ConfigError(f"conf is the absolute path of a ceph.conf, not {conf!r}")
    return RadosOptions(pool, _prefix(path), client, conf or environment.get("CEPH_CONF", ""), namespace, index)


def _client_of(ceph_args: str) -> str:
    """Who CEPH_ARGS says one is, as in `--id kv` or `--name client.kv`; "": it does not."""
    try:
        words = shlex.split(ceph_args)
    except ValueError as error:
        raise ConfigError(f"CEPH_ARGS cannot be read: {error}") from error
    client = ""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        if option in ("--id", "--user", "--name", "-n"):
            client = value if equals else following
    return client


def _prefix(path: str) -> str:
    try:
        prefix = unquote(path, errors="strict").rstrip("/")
        return check_name(prefix) if prefix else ""
    except (UnicodeDecodeError, InvalidObjectNameError) as error:
        raise ConfigError(f"{path!r} cannot be the prefix of names in a pool: {error}") from error


def _settings(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
    except ValueError:
        pairs = [("", "")]
    settings = dict(pairs)
    if len(settings) != len(pairs) or not settings.keys() <= {"client", "conf", "namespace", "index"}:
        raise ConfigError(
            f"after the ? of a RADOS store's URL come client, conf, namespace and index, once each ({_SHAPE}); "
            "keys come from the keyring that ceph.conf or CEPH_KEYRING names"
        )
    return settings
