"""Keys of S3 clients as names of a store, and back."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from objectcache.errors import InvalidArgumentError, KeyTooLongError, RequestError
from objectcache.gateway.object_keys import (
    is_kept_for_kv,
    key_of_name,
    name_of_key,
    place_of_key,
    prefix_of_key,
    writable_name,
)
from objectcache.stores import check_name

# Few characters, so that components are often odd: empty, dots, spaces.
ODD = st.text(alphabet="/. ab", min_size=1, max_size=12)
ANY = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
KEYS = ODD | ANY


@given(KEYS)
def test_names_are_legal_and_keys_come_back(key: str) -> None:
    name = name_of_key(key)
    assert check_name(name) == name
    assert key_of_name(name) == key


@given(KEYS, KEYS)
def test_different_keys_have_different_names(one: str, other: str) -> None:
    assert (one == other) == (name_of_key(one) == name_of_key(other))


@given(KEYS, st.text(alphabet="/. ab", max_size=6))
def test_a_key_begins_with_a_prefix_if_and_only_if_its_name_does(key: str, prefix: str) -> None:
    assert name_of_key(key).startswith(prefix_of_key(prefix)) == key.startswith(prefix)


@given(KEYS, st.data())
def test_a_prefix_of_a_key_is_one_of_its_name(key: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(key)))
    assert name_of_key(key).startswith(prefix_of_key(key[:cut]))


@given(st.lists(st.text(alphabet="/-ab0", min_size=1, max_size=8), min_size=2, max_size=2))
def test_ordinary_keys_are_their_own_names_and_sort_alike(keys: list[str]) -> None:
    assume(all(component for key in keys for component in key.split("/")))
    assert [name_of_key(key) for key in keys] == keys


@given(st.text(max_size=20))
def test_any_text_has_a_place(key: str) -> None:
    """Markers are anything that a client says."""
    assert isinstance(place_of_key(key), str)
    assert isinstance(prefix_of_key(key), str)


@pytest.mark.parametrize("key", ["", "a\nb", "\x00", "a\x7f", "\ud800"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(InvalidArgumentError):
        name_of_key(key)


@pytest.mark.parametrize("key", ["x" * 1025, "ü" * 513, "/" * 700])
def test_what_is_too_long(key: str) -> None:
    """The last of them as a name only."""
    with pytest.raises(KeyTooLongError):
        name_of_key(key)


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        (".kv/x", True),
        (".kv/", True),
        (".kv//x", True),
        (".kv/../x", True),
        (".chunks/x", True),
        (".kv", False),
        ("a/.kv/x", False),
        (".kvx/y", False),
        ("./.kv/x", False),
        ("/.kv/x", False),
        ("a/../.kv/x", False),
    ],
)
def test_what_is_kept_for_kv(key: str, kept: bool) -> None:
    assert is_kept_for_kv(name_of_key(key)) is kept
    if kept:
        with pytest.raises(RequestError):
            writable_name(key)
    else:
        assert writable_name(key) == name_of_key(key)
