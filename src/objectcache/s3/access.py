"""Access keys, and what each may do in which bucket: a TOML file that is followed while it changes.

[[key]]
id = "OC…"
secret = "…"
[key.grants]            # a bucket, or "*" for all that are not named
kvcache = "write"
"*" = "read"
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import string
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from objectcache.errors import ConfigError
from objectcache.s3.signing import Credentials

ALL_BUCKETS = "*"
CHECK_EVERY_S = 1.0
_ID = re.compile(r"[A-Za-z0-9_.-]{3,128}")
_SECRET = re.compile(r"[\x21-\x7e]{8,256}")
_log = logging.getLogger(__name__)


class Grant(IntEnum):
    """Each implies those before it: `grant >= Grant.READ`."""

    READ = 1
    WRITE = 2
    ADMIN = 3
    """Creates and deletes the bucket, too."""


@dataclass(frozen=True, slots=True)
class _Key:
    secret: str = field(repr=False)
    grants: Mapping[str, Grant]


class AccessKeys:
    """The keys of one file, read anew within CHECK_EVERY_S of a change. A wrong change is logged, and the keys stay."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Use `load` or `create`."""
        self._path = path
        self._clock = clock
        self._seen = _state(path)
        self._keys = _read(path)
        self._checked_s = clock()

    @classmethod
    def load(cls, path: Path) -> AccessKeys:
        """Raises ConfigError that says what is wrong in the file."""
        return cls(path)

    @classmethod
    def create(cls, path: Path) -> AccessKeys:
        """Writes a new file, for its owner only, with one key that may do everything. Raises ConfigError."""
        id = "OC" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(18))
        secret = secrets.token_urlsafe(30)
        text = f'[[key]]\nid = "{id}"\nsecret = "{secret}"\n[key.grants]\n"{ALL_BUCKETS}" = "admin"\n'
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
        except FileExistsError as error:
            raise ConfigError(f"{path} exists: choose another name, or use the keys in it") from error
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error
        return cls(path)

    @property
    def ids(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self._current())

    def secret(self, id: str) -> str | None:
        """None: there is no such key."""
        key = self._current().get(id)
        return key.secret if key else None

    def credentials(self) -> Credentials:
        """The first key of the file, to ask with."""
        keys = self._current()
        id = next(iter(keys))
        return Credentials(id, keys[id].secret)

    def grant(self, id: str, bucket: str) -> Grant | None:
        """What the key may do in the bucket; None: nothing. A bucket's own line counts, even where "*" gives more."""
        key = self._current().get(id)
        if key is None:
            return None
        return key.grants.get(bucket, key.grants.get(ALL_BUCKETS))

    def _current(self) -> Mapping[str, _Key]:
        if self._clock() - self._checked_s >= CHECK_EVERY_S:
            self._checked_s = self._clock()
            state = _state(self._path)
            if state != self._seen:
                self._seen = state
                self._reload()
        return self._keys

    def _reload(self) -> None:
        try:
            self._keys = _read(self._path)
        except ConfigError as error:
            _log.error("access keys stay as they were: %s", error)
        else:
            _log.info("access keys read anew from %s: %d", self._path, len(self._keys))


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes with the file; None: it cannot be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> dict[str, _Key]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            settings = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        _log.warning("%s holds secrets and is open to all users of this machine: chmod 600 %s", path, path)
    try:
        return _keys(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _keys(settings: Mapping[str, Any]) -> dict[str, _Key]:
    tables = settings.get("key")
    if set(settings) != {"key"} or not isinstance(tables, list) or not tables:
        raise ConfigError("the file must hold [[key]] tables, each with id, secret and grants, and nothing else")
    keys: dict[str, _Key] = {}
    for number, table in enumerate(tables, 1):
        id, key = _key(table, f"[[key]] number {number}")
        if id in keys:
            raise ConfigError(f"the id {id} is given to two keys")
        keys[id] = key
    return keys


def _key(table: Any, where: str) -> tuple[str, _Key]:
    if not isinstance(table, dict) or set(table) != {"id", "secret", "grants"}:
        raise ConfigError(f"{where} must hold id, secret and grants (as [key.grants]), and nothing else")
    id, secret, grants = table["id"], table["secret"], table["grants"]
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise ConfigError(f"{where}: id must be 3 to 128 of A-Z, a-z, 0-9, '_', '.' and '-', not {id!r}")
    if not isinstance(secret, str) or not _SECRET.fullmatch(secret):
        raise ConfigError(f"{where}: secret must be 8 to 256 printable ASCII characters without spaces")
    if not isinstance(grants, dict):
        raise ConfigError(f'{where}: grants must be a table such as [key.grants] with lines like kvcache = "write"')
    return id, _Key(secret, {bucket: _grant(bucket, value, where) for bucket, value in grants.items()})


def _grant(bucket: str, value: Any, where: str) -> Grant:
    if bucket != ALL_BUCKETS and not re.fullmatch("[a-z0-9.-]+", bucket):
        raise ConfigError(f'{where}: {bucket!r} is neither a bucket name nor "*", which stands for all others')
    names = {grant.name.lower(): grant for grant in Grant}
    if not isinstance(value, str) or value not in names:
        raise ConfigError(f"{where}: the grant of {bucket!r} must be one of {', '.join(names)}, not {value!r}")
    return names[value]
