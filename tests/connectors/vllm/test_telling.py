from __future__ import annotations

from dataclasses import dataclass, field

from objectcache.connectors.diagnosis import CacheSeen, diagnose
from objectcache.connectors.status import EngineStatus
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.telling import engine_status, scheduler_counts, worker_counts
from tests.connectors.vllm.described import engine, full, window

OPTIONS = VllmOptions("memory://x")


@dataclass
class Stats:
    hits: int = 0
    tokens: int = 0
    bytes: int = 0
    failed_loads: int = 0
    stored_bytes: int = 0
    saves: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


def test_an_engine_in_the_words_of_a_status() -> None:
    found = engine_status(engine(tensor_parallel=2, tensor_rank=1), OPTIONS, worker=True)
    assert (found.engine, found.url, found.role, found.rank, found.ranks) == (
        "vllm 0.32.0",
        "memory://x",
        "worker",
        1,
        2,
    )
    assert (found.chunk_tokens, found.idle_reason, found.announced) == (16, "", "")
    found = engine_status(engine(), OPTIONS, worker=False)
    assert (found.role, found.announced) == ("scheduler", "before they are verified")
    found = engine_status(engine(groups=(full(0), window(1, problem="odd"))), OPTIONS, worker=False)
    assert found.announced == "when they are verified"
    assert "odd" in found.idle_reason


def test_what_workers_count() -> None:
    stats = Stats(hits=1, bytes=5, outcomes={"late": 2}, dropped={"full": 3})
    assert worker_counts(stats) == {"hits": 1, "bytes": 5, "outcome:late": 2, "dropped:full": 3}
    assert worker_counts(Stats()) == {}


def test_what_the_schedulers_side_counts() -> None:
    counters = {"hits": 1, "too_short": 2, "too_little": 1, "missed:not_stored": 4, "failed:late": 5, "late": 1}
    counters |= {"dropped:held": 6, "opted_out": 7, "save_jobs": 8}
    assert scheduler_counts(counters) == {
        "hits": 1,
        "outcome:too_short": 3,
        "outcome:not_stored": 4,
        "outcome:late": 6,
        "dropped:held": 6,
        "opted_out": 7,
    }


def test_a_doctor_understands_them() -> None:
    counts = scheduler_counts({"too_short": 20, "look_ups": 0})
    status = engine_status(engine(), OPTIONS, worker=False)
    told = EngineStatus(**{name: getattr(status, name) for name in status.__slots__} | {"counters": counts})
    checks = diagnose(CacheSeen("memory://x"), [told], now_s=0.0, here="", alive=frozenset())
    assert [check.name for check in checks if not check.ok] == ["stored", "look-ups"]
