"""Pages of listings, against all keys of a store looked at one by one."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from objectcache.gateway import listing
from objectcache.gateway.listing import list_page
from objectcache.gateway.object_keys import is_kept_for_kv, name_of_key, place_of_key
from objectcache.s3.listings import ListRequest
from objectcache.stores import MemoryStore

KEYS = st.text(alphabet="/. abü\U0010ffff", min_size=1, max_size=6)
RESERVED = [".kv/seg/a/000/000/000/001", ".kv/bucket", ".chunks/ab"]
NEIGHBOURS = [".kv", ".kv-", ".kv0", ".kuz", ".chunks", ".", "!", "kv/x", ".kw/x"]


class Item(NamedTuple):
    """A key or a common prefix, and where it stands."""

    place: str
    text: str
    is_prefix: bool


def oracle(names: list[str], asked: ListRequest) -> list[Item]:
    """All that a listing shows, in the order of names, after `asked.after`."""
    items: dict[tuple[str, bool], Item] = {}
    for key in sorted((name for name in names if not is_kept_for_kv(name_of_key(name))), key=name_of_key):
        if not key.startswith(asked.prefix):
            continue
        common = prefix_of(asked, key)
        if common and common == prefix_of(asked, asked.after):
            continue  # a place below a prefix is after all of it
        if place_of_key(key) > place_of_key(asked.after):
            items.setdefault((common or key, bool(common)), Item(place_of_key(key), common or key, bool(common)))
    return list(items.values())


def prefix_of(asked: ListRequest, key: str) -> str:
    if not asked.delimiter or not key.startswith(asked.prefix):
        return ""
    at = key.find(asked.delimiter, len(asked.prefix))
    return key[: at + len(asked.delimiter)] if at >= 0 else ""


def store_with(keys: list[str]) -> MemoryStore:
    store = MemoryStore(1 << 30)
    for key in keys:
        store.put(name_of_key(key), b"x")
    for name in RESERVED:
        store.put(name, b"")
    return store


def pages(store: MemoryStore, asked: ListRequest) -> list[tuple[str, bool]]:
    """Everything, page by page."""
    found: list[tuple[str, bool]] = []
    after = asked.after
    for _ in range(1000):
        request = ListRequest("b", asked.prefix, asked.delimiter, after, asked.max_keys)
        page = list_page(store, request)
        assert len(page.objects) + len(page.prefixes) <= asked.max_keys
        merged = [(place_of_key(key), key, False) for key, _ in page.objects]
        merged += [(place_of_key(prefix), prefix, True) for prefix in page.prefixes]
        found += [(text, is_prefix) for _, text, is_prefix in merged]
        if not page.is_truncated:
            return found
        assert len(merged) == asked.max_keys
        assert page.next_after in {text for _, text, _ in merged}
        after = page.next_after
    raise AssertionError("the pages do not end")


@settings(max_examples=300)
@given(
    keys=st.lists(KEYS | st.sampled_from(NEIGHBOURS), max_size=25, unique=True),
    prefix=st.text(alphabet="/. abk.v", max_size=3),
    delimiter=st.text(alphabet="/. ab", max_size=3),
    after=st.text(alphabet="/. ab", max_size=4),
    max_keys=st.integers(1, 6),
    most_passed=st.integers(1, 4),
)
@example(["a/x", "a/\U0010ffff", "a/\U0010ffffz", "b"], "", "/", "", 1, 1)
@example(["a//b", "a/!b", "a/"], "a/", "/", "", 1, 1)
@example([".kv", ".kw/x"], "", "/", "", 1, 256)
def test_all_pages_together_are_what_is_there(
    keys: list[str], prefix: str, delimiter: str, after: str, max_keys: int, most_passed: int
) -> None:
    asked = ListRequest("b", prefix, delimiter, after, max_keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_MOST_PASSED", most_passed)
        with store_with(keys) as store:
            found = pages(store, asked)
    assert len(found) == len(set(found))
    assert set(found) == {(item.text, item.is_prefix) for item in oracle(keys, asked)}


@pytest.mark.parametrize("max_keys", [1, 2, 1000])
def test_many_objects_below_one_prefix_are_passed_over(max_keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"many/{number:05d}" for number in range(2000)] + ["after", "zoo/1"]
    with store_with(keys) as store:
        looked_at = 0
        listed = store.list

        def counting(*args: object, **kwargs: object) -> object:
            nonlocal looked_at
            for info in listed(*args, **kwargs):  # type: ignore[arg-type]
                looked_at += 1
                yield info

        monkeypatch.setattr(store, "list", counting)
        assert pages(store, ListRequest("b", "", "/", "", max_keys)) == [
            *([("after", False), ("many/", True), ("zoo/", True)]),
        ]
        assert looked_at < 1000


def test_nothing_is_asked_for() -> None:
    with store_with(["a"]) as store:
        page = list_page(store, ListRequest("b", max_keys=0))
    assert (list(page.objects), list(page.prefixes), page.is_truncated) == ([], [], False)


def test_order_is_that_of_keys() -> None:
    """Of all but the odd ones."""
    keys = ["b", "a-", "a/b", "a0", "aü", "a", "Z", "a/b/c", "a/b-c"]
    with store_with(keys) as store:
        page = list_page(store, ListRequest("b"))
    assert [key for key, _ in page.objects] == sorted(keys, key=str.encode)


def test_millions_of_reserved_names_are_passed_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with MemoryStore(1 << 30) as store:
        for number in range(3000):
            store.put(f".kv/seg/w/{number:06d}", b"")
        store.put("a", b"")
        store.put(".a", b"")
        looked_at = 0
        listed = store.list

        def counting(*args: object, **kwargs: object) -> object:
            nonlocal looked_at
            for info in listed(*args, **kwargs):  # type: ignore[arg-type]
                looked_at += 1
                yield info

        monkeypatch.setattr(store, "list", counting)
        assert [key for key, _ in list_page(store, ListRequest("b")).objects] == [".a", "a"]
        assert looked_at < 10
