"""Where a file store lies, and on what: its URL."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlencode

from objectcache.errors import ConfigError, InvalidObjectNameError
from objectcache.stores.base import check_name
from objectcache.stores.file_mount import Mount

_SHAPE = "file:///absolute/path?lacks=links,locks,renames,maps"


@dataclass(frozen=True, slots=True)
class FileOptions:
    """`lacks`: what the mount has not (`Mount`). Names begin with `prefix` + "/" in the store at `path` itself."""

    path: str
    lacks: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def url(self) -> str:
        """The canonical URL."""
        said = {"lacks": ",".join(self.lacks), "prefix": self.prefix}
        query = urlencode({name: value for name, value in said.items() if value}, safe=",/", quote_via=quote)
        return Path(self.path).as_uri() + (f"?{query}" if query else "")

    def below(self, name: str) -> FileOptions:
        """Of the store that has its objects below `name`/ in this one."""
        return replace(self, prefix="/".join(filter(None, (self.prefix, name))))


def parse_file_url(rest: str) -> FileOptions:
    """What follows `file://` in a URL. Raises ConfigError."""
    place, _, query = rest.partition("?")
    host, slash, path = place.partition("/")
    try:
        pairs = parse_qsl(query, strict_parsing=True) if query else []
    except ValueError:
        pairs = [("", "")]
    said = dict(pairs)
    wrong = len(said) != len(pairs) or not said.keys() <= {"lacks", "prefix"} or (rest.endswith("?"))
    if host not in ("", "localhost") or not slash or "#" in rest or wrong:
        raise ConfigError(f"'file://{rest}' should be {_SHAPE}, with ? and # in the path percent-encoded")
    lacks = Mount.without(filter(None, said.get("lacks", "").split(","))).lacks
    try:
        prefix = check_name(said["prefix"]) if "prefix" in said else ""
    except InvalidObjectNameError as error:
        raise ConfigError(f"{said['prefix']!r} cannot be the prefix of names: {error}") from error
    return FileOptions("/" + os.fsdecode(unquote_to_bytes(path)), lacks, prefix)
