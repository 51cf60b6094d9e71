"""Any prefix and any start, for a LIST that knows only whole directories and legal paths to start after."""

from __future__ import annotations

import re
from typing import NamedTuple

from objectcache.stores.base import MAX_NAME_BYTES

_HIGHEST = "\U0010ffff"
# Where a string stops being the beginning of a legal name.
_ILLEGAL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|(?:^|/)\.{1,2}(?:/|$)|//|^/|/$")
_NEVER_BEGINS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|(?:^|/)\.{1,2}/|//|^/")


class Listing(NamedTuple):
    """What to ask for: the names below `directory` ("": all) that come after the legal name `offset` ("": all).

    It holds all that is wanted and more: `admits` says which.
    """

    directory: str
    offset: str
    prefix: bytes
    after: bytes

    def admits(self, name: str) -> bool:
        encoded = name.encode()
        return encoded.startswith(self.prefix) and encoded > self.after

    def ends_before(self, name: str) -> bool:
        """Whether nothing wanted can come after `name`."""
        encoded = name.encode()
        return encoded > self.prefix and not encoded.startswith(self.prefix)


def plan_listing(prefix: str, start_after: str) -> Listing | None:
    """None: no name can begin with `prefix` and come after `start_after`. Both are any strings."""
    begin, after = (text.encode("utf-8", "surrogatepass") for text in (prefix, start_after))
    if not is_beginning(prefix) or (after > begin and not after.startswith(begin)):
        return None
    offset = _floor(start_after)
    before = _just_before(prefix)
    if before.encode() > after:
        offset = before
    return Listing(prefix.rpartition("/")[0], offset, begin, after)


def is_beginning(prefix: str) -> bool:
    """Whether a legal name can begin with `prefix`."""
    return not _NEVER_BEGINS.search(prefix) and len(prefix.encode()) <= MAX_NAME_BYTES


def _floor(text: str) -> str:
    """A legal name, or "", that is not after `text`, and as close to it as is easy to say."""
    while text and (found := _ILLEGAL.search(text)):
        text = text[: found.start()]
    return text


def _just_before(prefix: str) -> str:
    """A legal name, or "", that comes before all that begin with `prefix` and after most that come before them."""
    if not prefix or prefix.endswith("/"):
        return ""  # the directory says it
    last = ord(prefix[-1])
    # The one before may be a slash, a control character or a surrogate: then the one before that.
    for lower in (last - 1, last - 2, 0xD7FF):
        if 0 < lower < last:
            candidate = prefix[:-1] + chr(lower) + _HIGHEST
            if not _ILLEGAL.search(candidate):
                return candidate
    return _floor(prefix[:-1])
