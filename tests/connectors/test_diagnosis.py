"""Each check, as it should be and as it should not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from objectcache.cache.explain.results import FieldDifference
from objectcache.connectors.diagnosis import CacheSeen, Check, Named, diagnose
from objectcache.connectors.status import DROPPED, OUTCOME, STALE_AFTER_S, EngineStatus
from objectcache.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    CatalogError,
    ConfigError,
    GatewayUnavailableError,
    ObjectCacheError,
    SignatureDoesNotMatchError,
    StoreAccessError,
    StoreUnavailableError,
)
from objectcache.storing.reasons import Reason
from tests.cache.explaining import namespace_of

URL = "http://gateway:9000/kvcache"
NOW_S = 1000.0
DIGEST = namespace_of().digest.hex()


def cache(**fields: object) -> CacheSeen:
    named = {DIGEST: Named("3fb1", 4096)}
    return replace(CacheSeen(URL, None, 1, 4096, 1 << 30, True, 1 << 40, named), **fields)  # type: ignore[arg-type]


def engine(counters: dict[str, float] | None = None, **fields: object) -> EngineStatus:
    good = {"hits": 10.0, "saves": 10.0, "stored_bytes": 1e6} if counters is None else counters
    plain = EngineStatus(
        "vllm 0.32.0",
        URL,
        chunk_tokens=16,
        namespaces=(namespace_of().to_dict(),),
        counters=good,
        pid=7,
        host="here",
        written_s=NOW_S,
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


def checks(
    seen: CacheSeen | None = None, *engines: EngineStatus, alive: frozenset[int] = frozenset({7})
) -> list[Check]:
    return diagnose(seen or cache(), engines, now_s=NOW_S, here="here", alive=alive)


def problems(*args: CacheSeen | EngineStatus, alive: frozenset[int] = frozenset({7})) -> dict[str, Check]:
    seen = next((one for one in args if isinstance(one, CacheSeen)), cache())
    engines = [one for one in args if isinstance(one, EngineStatus)] or [engine()]
    found = diagnose(seen, engines, now_s=NOW_S, here="here", alive=alive)
    return {check.name: check for check in found if not check.ok}


def test_where_all_is_well_nothing_is_wrong() -> None:
    found = checks(cache(), engine(announced="when they are verified"))
    assert [check.name for check in found if not check.ok] == []
    assert {"reached", "signed in", "bucket", "room", "stored", "running", "namespace", "look-ups", "stores"} <= {
        check.name for check in found
    }


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (GatewayUnavailableError("refused"), "reached"),
        (StoreUnavailableError("refused"), "reached"),
        (AccessDeniedError("no"), "signed in"),
        (SignatureDoesNotMatchError("no"), "signed in"),
        (StoreAccessError("no"), "signed in"),
        (BucketNotFoundError("kvcache"), "bucket"),
        (ConfigError("there is no cache at /data"), "bucket"),
        (CatalogError("damaged"), "bucket"),
    ],
)
def test_a_cache_that_cannot_be_looked_into(error: ObjectCacheError, name: str) -> None:
    found = problems(CacheSeen(URL, error), engine())
    assert list(found) == [name]
    assert str(error) in found[name].text
    assert found[name].next_step


def test_room() -> None:
    assert list(problems(cache(writable=False))) == ["room"]
    assert list(problems(cache(room_bytes=1 << 20))) == ["room"]
    assert problems(cache(writable=None, room_bytes=None)) == {}


def test_nothing_is_stored() -> None:
    assert "stored" in problems(cache(namespaces=0, named={}))


def test_no_engine() -> None:
    (found,) = (check for check in checks() if not check.ok)
    assert found.name == "engines"
    assert "--status" in found.next_step


def test_engines_that_are_gone() -> None:
    assert problems(engine(), alive=frozenset()).keys() == {"running"}
    assert problems(engine(host="elsewhere"), alive=frozenset()) == {}
    assert problems(engine(host="elsewhere", written_s=NOW_S - STALE_AFTER_S - 1)).keys() == {"running"}


def test_an_idle_engine_says_why() -> None:
    found = problems(engine(idle_reason="MambaSpec is not cached"))
    assert list(found) == ["idle"]
    assert "MambaSpec" in found["idle"].text


def test_an_engine_at_another_cache() -> None:
    assert list(problems(engine(url="file:///other"))) == ["url"]
    assert problems(engine(url=f"{URL}/")) == {}


def test_a_namespace_that_nobody_stored_in() -> None:
    assert "namespace" in problems(cache(named={DIGEST: Named("3fb1", None)}))


@pytest.mark.parametrize(
    ("field", "step"),
    [
        ("hash_seed", "PYTHONHASHSEED"),
        ("epoch", "stored again"),
        ("model", "weights"),
        ("salt", "salt"),
        ("kv_dtype", "alike"),
    ],
)
def test_what_differs_from_the_nearest_is_told(field: str, step: str) -> None:
    named = Named("3fb1", None, "9999", (FieldDifference(field, "mine", ""),))
    found = problems(cache(named={DIGEST: named}))["namespace"]
    assert all(text in found.text for text in ("9999", f"{field} (mine here, (empty) stored)"))
    assert step in found.next_step


def test_an_engine_that_has_asked_for_nothing_yet() -> None:
    assert problems(engine({}, namespaces=())) == {}


@pytest.mark.parametrize(
    ("outcome", "step"),
    [
        ("unavailable", "whether it runs"),
        ("late", "deadline_s"),
        ("damaged", "--verify"),
        ("failed", "log"),
        ("unnamed", "weights"),
    ],
)
def test_look_ups_that_fail(outcome: str, step: str) -> None:
    found = problems(engine({"hits": 5, "saves": 1, "stored_bytes": 1, f"{OUTCOME}{outcome}": 5}))
    assert list(found) == ["look-ups"]
    assert step in found["look-ups"].next_step
    assert problems(engine({"hits": 500, "saves": 1, "stored_bytes": 1, f"{OUTCOME}{outcome}": 5})) == {}


def test_prompts_that_are_too_short() -> None:
    found = problems(engine({f"{OUTCOME}too_short": 9, "saves": 1, "stored_bytes": 1}))["look-ups"]
    assert "16 tokens" in found.text
    assert "longer prompts" in found.next_step


def test_prefixes_that_are_computed_faster() -> None:
    found = problems(engine({f"{OUTCOME}recompute": 9, "saves": 1, "stored_bytes": 1}))["look-ups"]
    assert "advise" in found.next_step


def test_look_ups_that_find_nothing() -> None:
    found = problems(engine({f"{OUTCOME}not_stored": 9, "saves": 1, "stored_bytes": 1}))["look-ups"]
    assert "objectcache why" in found.next_step


def test_first_look_ups_need_not_find_anything() -> None:
    assert problems(engine({f"{OUTCOME}not_stored": 2, "saves": 1, "stored_bytes": 1})) == {}


def test_a_breaker_that_is_open() -> None:
    assert list(problems(engine(breaker_open=True))) == ["breaker"]


def test_opt_outs_are_told() -> None:
    found = checks(cache(), engine({"hits": 1, f"{OUTCOME}opted_out": 3, "saves": 1, "stored_bytes": 1}))
    assert any(check.name == "opt-outs" and check.ok and "3 requests" in check.text for check in found)


@pytest.mark.parametrize("reason", [*(reason.value for reason in Reason if reason.lost), "held"])
def test_stores_that_are_lost(reason: str) -> None:
    found = problems(engine({"hits": 9, "saves": 20, "stored_bytes": 1, f"{DROPPED}{reason}": 5}))
    assert list(found) == ["stores"]
    assert reason in found["stores"].text
    assert found["stores"].next_step


@pytest.mark.parametrize("reason", [Reason.FIRST_SIGHT, Reason.TOO_SHORT, Reason.TOO_FEW])
def test_stores_that_are_never_made(reason: Reason) -> None:
    counted = {"hits": 9.0, f"{DROPPED}{reason.value}": 5.0}
    assert list(problems(engine(counted))) == ["stores"]
    assert problems(engine(counted | {"saves": 1, "stored_bytes": 1})) == {}


def test_few_drops_are_no_problem() -> None:
    """One side orders, the other stores."""
    orders = engine({"hits": 9, "saves": 100, f"{DROPPED}held": 1}, role="scheduler")
    stores = engine({"stored_bytes": 1, f"{DROPPED}late": 5}, role="worker", pid=8)
    both = frozenset({7, 8})
    assert problems(orders, stores, alive=both) == {}
    late = replace(stores, counters={"stored_bytes": 1.0, f"{DROPPED}late": 50.0})
    assert list(problems(orders, late, alive=both)) == ["stores"]


def test_sides_are_not_asked_for_what_the_other_does() -> None:
    names = [check.name for check in checks(cache(), engine({}, role="worker"))]
    assert "look-ups" not in names
    names = [check.name for check in checks(cache(), engine({}, role="scheduler", namespaces=()))]
    assert {"stores", "namespace"}.isdisjoint(names)


def test_what_is_stored_already_need_not_be_stored() -> None:
    assert problems(engine({"hits": 9, f"{DROPPED}covered": 5})) == {}


def test_errors_are_told_by_engine() -> None:
    found = problems(engine(errors=("late",)))["error"]
    assert found.text == "late"
    assert found.engine.startswith("here:7")
