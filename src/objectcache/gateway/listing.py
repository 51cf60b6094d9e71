"""Pages of a listing of plain objects: what is reserved is left out, and delimiters make prefixes."""

from __future__ import annotations

from collections.abc import Iterator

from objectcache.gateway.object_keys import is_kept_for_kv, key_of_name, place_of_key, prefix_of_key
from objectcache.names import RESERVED_PREFIX
from objectcache.s3.listings import ListedPage, ListRequest
from objectcache.stores import ObjectInfo, Store

_LAST = "\U0010ffff"
_MOST_PASSED = 256
"""Objects below one prefix that are passed over one by one; then the listing begins again behind them."""


def list_page(store: Store, asked: ListRequest) -> ListedPage:
    """Up to `max_keys` objects and prefixes after `asked.after`, a key. Raises StoreError.

    A place below a common prefix counts as after all of it.
    """
    if asked.max_keys == 0:
        return ListedPage([], [])
    objects: list[tuple[str, ObjectInfo]] = []
    prefixes: list[str] = []
    last = ""
    skipping = _prefix_of(asked, asked.after)
    begin, after, passed = prefix_of_key(asked.prefix), place_of_key(asked.after), _MOST_PASSED
    while True:
        if skipping and passed >= _MOST_PASSED:
            after = max(after, _behind(skipping))
        passed = 0
        for info in _objects(store, begin, after):
            key = key_of_name(info.name)
            common = _prefix_of(asked, key)
            if common and common == skipping:
                passed += 1
                if passed < _MOST_PASSED or after >= _behind(common):
                    continue
                break
            if len(objects) + len(prefixes) == asked.max_keys:
                return ListedPage(objects, prefixes, last)
            last, skipping, passed = common or key, common, 0
            if common:
                prefixes.append(common)
            else:
                objects.append((key, info))
        else:
            return ListedPage(objects, prefixes)


def _behind(common: str) -> str:
    return prefix_of_key(common) + _LAST


def _prefix_of(asked: ListRequest, key: str) -> str:
    """The common prefix that `key` is listed under, or ""."""
    if not asked.delimiter or not key.startswith(asked.prefix):
        return ""
    head, found, _ = key[len(asked.prefix) :].partition(asked.delimiter)
    return asked.prefix + head + asked.delimiter if found else ""


def _objects(store: Store, prefix: str, after: str) -> Iterator[ObjectInfo]:
    for info in store.list(prefix, start_after=after):
        if not is_kept_for_kv(info.name):
            yield info
        elif info.name.startswith(RESERVED_PREFIX):
            break
    else:
        return
    # Past everything that is reserved in one go: there may be millions.
    for info in store.list(prefix, start_after=max(after, RESERVED_PREFIX + _LAST)):
        if not is_kept_for_kv(info.name):
            yield info
