"""What is asked of LIST for any prefix and start, and that obstore takes every legal name."""

from __future__ import annotations

import obstore
from hypothesis import example, given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from objectcache.errors import InvalidObjectNameError
from objectcache.stores.base import check_name
from objectcache.stores.s3.listing import plan_listing

# Few characters, so that names and prefixes meet; those around what is special.
_CHARACTERS = "ab/.-0 !~\x7f\x80\x00\x1f\ud7ff\ue000\uffff\U0010ffff\ud800%"
_TEXTS = st.text(st.sampled_from(_CHARACTERS), max_size=6)


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except InvalidObjectNameError:
        return False
    return True


_NAMES = _TEXTS.filter(_is_name)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@given(st.lists(_NAMES, unique=True, max_size=30), _TEXTS, _TEXTS)
@example(["a/0", "a/b"], "a/0", "")
@example(["a/b0"], "a/b0", "")
@example(["\ue000"], "\ue000", "")
@example(["a!"], "a!", "a ")
@example(["..."], "..", ".")
def test_a_plan_finds_exactly_what_is_wanted(names: list[str], prefix: str, start_after: str) -> None:
    names.sort(key=str.encode)
    wanted = [name for name in names if name.startswith(prefix) and name.encode() > _bytes(start_after)]
    plan = plan_listing(prefix, start_after)
    if plan is None:
        assert wanted == []
        return
    assert plan.offset == "" or _is_name(plan.offset)
    directory = plan.directory + "/" if plan.directory else ""
    found = []
    for name in names:
        if name.startswith(directory) and name.encode() > plan.offset.encode():
            if plan.admits(name):
                found.append(name)
            elif plan.ends_before(name):
                break
    assert found == wanted


def test_plans_are_close() -> None:
    """What is listed and thrown away is little."""
    for prefix, start_after, directory, offset in [
        ("", "", "", ""),
        ("a/b/", "", "a/b", ""),
        ("a/b/", "a/b/0017", "a/b", "a/b/0017"),
        ("a/b/12", "", "a/b", "a/b/11\U0010ffff"),
        ("a/b/12", "a/b/1207", "a/b", "a/b/1207"),
        ("a/b/12", "a/b/1", "a/b", "a/b/11\U0010ffff"),
        ("a/0", "", "a", "a/.\U0010ffff"),
        ("", "a/", "", "a"),
    ]:
        plan = plan_listing(prefix, start_after)
        assert plan is not None
        assert (plan.directory, plan.offset) == (directory, offset)


def test_nothing_is_asked_for_what_cannot_be() -> None:
    for prefix, start_after in [("a//", ""), ("../", ""), ("/", ""), ("\ud800", ""), ("x" * 1025, ""), ("a", "b")]:
        assert plan_listing(prefix, start_after) is None


@given(st.text(min_size=1, max_size=12).filter(_is_name) | _NAMES)
def test_obstore_takes_every_name_as_it_is(name: str) -> None:
    store = MemoryStore()
    obstore.put(store, name, b"")
    assert [found["path"] for page in obstore.list(store) for found in page] == [name]
