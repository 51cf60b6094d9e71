"""One request to a gateway, routed and admitted: what handlers get."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from objectcache.errors import InvalidArgumentError
from objectcache.gateway.guard import Caller
from objectcache.gateway.handoff import say_continue
from objectcache.gateway.object_keys import name_of_key, writable_name


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """`bucket` and `key` are decoded, "" where the request names none; `query` has sub-resources and parameters."""

    request: web.Request
    bucket: str
    key: str
    query: Mapping[str, str]
    caller: Caller
    request_id: str

    @property
    def name(self) -> str:
        """The store's name of `key`. Raises KeyTooLongError, InvalidArgumentError."""
        return name_of_key(self.key)

    @property
    def writable_name(self) -> str:
        """As `name`. Raises RequestError for one that is kept for KV."""
        return writable_name(self.key)

    async def body(self, *, checksums: bool = True) -> bytes:
        """A small body, whole and checked; without `checksums`, headers that name any are about something else.

        Raises EntityTooLargeError, TruncatedBodyError, BadDigestError, …
        """
        if not self.request.content.total_bytes:
            say_continue(self.request)
        return await self.caller.checked_body(self.request, checksums=checksums)

    def header(self, name: str) -> str:
        return self.request.headers.get(name, "")

    def number(self, parameter: str, default: int, most: int) -> int:
        """A query parameter from 0 to `most` (larger ones count as that). Raises InvalidArgumentError."""
        text = self.query.get(parameter, "")
        if not text:
            return default
        if not text.isascii() or not text.isdigit():
            raise InvalidArgumentError(f"{parameter} must be a number from 0 on, not {text[:40]!r}")
        return min(most, int(text[:20]))

    def encodes(self) -> bool:
        """Whether keys in the answer are to be percent-encoded. Raises InvalidArgumentError."""
        encoding = self.query.get("encoding-type", "")
        if encoding not in ("", "url"):
            raise InvalidArgumentError(f"the only encoding-type is 'url', not {encoding[:40]!r}")
        return encoding == "url"


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
