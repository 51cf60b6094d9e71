"""What every store must do, as pytest tests: listing. Part of `objectcache.testing.stores.StoreContract`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import ClassVar

import pytest

from objectcache.errors import InvalidObjectNameError
from objectcache.stores.base import Store

TRICKY_NAMES = [
    *("a", "a-b", "a.b", "a/b", "a0b", "a b", "a!", "a/b/c", "a/b.c", "a/b-c", "A", "aa", "ab/c"),
    *(
        "%",
        "%41",
        "%2F",
        "a%2Fb",
        "a%",
        "+",
        "~",
        "c:\\d",
        "*?[x]",
        "'\"$`",
        "...",
        ".hidden",
        "a..b",
        "a.obj",
        "a/.obj",
    ),
    *("é", "é/é", "e\u0301", "日本/語", "\U0001f600", "\uffff", "\x80"),
    *("x" * length for length in (79, 80, 81, 159, 160, 255, 256, 600, 1024)),
    *("x" * 80 + rest for rest in ("/y", "/y/z", "!/y", "0/y", ".more", "x" * 80 + "/y", "x" * 80 + "-")),
    *("é" * 300, "日" * 341, "%" * 1024, "d/" + "x" * 600 + "/e", "x/" * 511 + "xy", "é/" * 340 + "é"),
]
"""Legal names that have broken stores, or could."""


def stored_names(store: Store, prefix: str = "", start_after: str = "") -> list[str]:
    """What `store` lists."""
    return [info.name for info in store.list(prefix, start_after=start_after)]


class ListingContract:
    """Listing, of stores given by a fixture `store`."""

    tricky_names: ClassVar[Sequence[str]] = TRICKY_NAMES
    """Less those that the store cannot hold, for a service with limits of its own."""
    like_a_tree: ClassVar[bool] = False
    """Whether the store is a file tree that shows, which a store should not be, but some services are.

    Then "a/b" is listed before "a-b", `start_after` goes by that order, directories stay when they are emptied, and are
    in the way of new objects of their name.
    """

    def test_any_legal_name(self, store: Store) -> None:
        tricky_names = self.tricky_names
        for name in tricky_names:
            store.put(name, name.encode())
        for name in tricky_names:
            assert store.get(name) == name.encode()
            assert store.head(name).size_bytes == len(name.encode())
        names = sorted(tricky_names, key=str.encode)
        assert self._in_order(stored_names(store)) == names
        for start_after in [*tricky_names, "a/", "x" * 100, "\U0010ffff", "\ud800", "\x00"] * (not self.like_a_tree):
            after = start_after.encode("utf-8", "surrogatepass")
            assert stored_names(store, start_after=start_after) == [name for name in names if name.encode() > after]
        for prefix in [*tricky_names, "a/", "x" * 100, "x" * 80 + "x", "..", "//", "a//", "\ud800", "x" * 5000]:
            assert self._in_order(stored_names(store, prefix)) == [name for name in names if name.startswith(prefix)]
        for name in tricky_names[::2]:
            store.delete(name)
        assert self._in_order(stored_names(store)) == sorted(tricky_names[1::2], key=str.encode)

    def _in_order(self, names: list[str]) -> list[str]:
        return sorted(names, key=str.encode) if self.like_a_tree else names

    def test_prefix_with_start_after(self, store: Store) -> None:
        names = [f"{a}/{b}" for a in ("a", "a-", "b") for b in range(10, 20)]
        for name in names:
            store.put(name, b"")
        assert stored_names(store, "a/1", "a/15") == ["a/16", "a/17", "a/18", "a/19"]
        assert stored_names(store, "a/", "a") == [f"a/{b}" for b in range(10, 20)]
        assert stored_names(store, "a/", "A") == [f"a/{b}" for b in range(10, 20)]
        assert stored_names(store, "a/", "a/19") == []
        assert stored_names(store, "a/", "b") == []

    def test_listing_is_lazy(self, store: Store) -> None:
        for number in range(1200):
            store.put(f"{number // 100:03d}/{number % 100:03d}", b"")
        listing = store.list()
        assert [info.name for info in islice(listing, 2)] == ["000/000", "000/001"]
        store.delete("011/050")
        rest = [info.name for info in listing]
        assert len(rest) in (1197, 1198)
        assert rest == sorted(set(rest))

    def test_what_stays_is_listed_once_while_others_come_and_go(self, store: Store) -> None:
        staying = [f"{number:03d}/s" for number in range(0, 100, 2)]
        for name in staying:
            store.put(name, b"")
        seen = []
        for step, info in enumerate(store.list()):
            seen.append(info.name)
            store.put(f"{step * 7 % 100:03d}/t", b"")
            store.delete(f"{step * 3 % 100:03d}/t")
        assert [name for name in seen if name.endswith("/s")] == staying
        assert seen == sorted(set(seen))

    def test_prefixes(self, store: Store) -> None:
        assert list(store.list_prefixes()) == []
        for name in ("a", "a-/b", "a/b", "a/b/c", "a/b/d/e", "a/c/d", "b", "é/x", "x" * 300 + "/y", "x" * 80 + "/y/z"):
            store.put(name, b"")
        assert list(store.list_prefixes()) == ["a-/", "a/", "x" * 80 + "/", "x" * 300 + "/", "é/"]
        assert list(store.list_prefixes("a/")) == ["a/b/", "a/c/"]
        assert list(store.list_prefixes("a/b/")) == ["a/b/d/"]
        assert list(store.list_prefixes("x" * 80 + "/")) == ["x" * 80 + "/y/"]
        for nothing in ("b/", "nowhere/", "a/b/d/", "/", "../", "a//", "x" * 5000 + "/", "\ud800/"):
            assert list(store.list_prefixes(nothing)) == []
        with pytest.raises(InvalidObjectNameError):
            list(store.list_prefixes("a"))
        if self.like_a_tree:
            return
        store.delete("a/c/d")
        store.delete("a-/b")
        assert list(store.list_prefixes("a/")) == ["a/b/"]
        assert next(iter(store.list_prefixes())) == "a/"
