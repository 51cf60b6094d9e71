"""What is kept is the latest, within its weight."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from objectcache.recent import Recent


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=40), st.integers(0, 9))
def test_it_keeps_the_latest_that_fit(puts: list[tuple[int, int]], limit: int) -> None:
    kept: Recent[int, int] = Recent(limit)
    model: dict[int, int] = {}
    for number, (key, weight) in enumerate(puts):
        kept.put(key, number, weight)
        model.pop(key, None)
        model[key] = weight
        while sum(model.values()) > limit:
            del model[next(iter(model))]
        assert {key for key in range(6) if kept.get(key) is not None} == model.keys()
        for used in range(6):  # in one order on both sides
            if used in model:
                model[used] = model.pop(used)


def test_what_is_used_stays_and_clear_forgets_all() -> None:
    kept: Recent[str, int] = Recent(2)
    kept.put("a", 1, 1)
    kept.put("b", 2, 1)
    assert kept.get("a") == 1
    kept.put("c", 3, 1)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (1, None, 3)
    kept.clear()
    assert kept.get("a") is None
    kept.put("d", 4, 2)
    assert kept.get("d") == 4
