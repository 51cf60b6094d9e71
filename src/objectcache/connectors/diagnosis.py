"""Why a hit rate is 0: from what a cache and the engines at it tell to a list of checks. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from objectcache.cache.explain.results import FieldDifference
from objectcache.connectors.status import DROPPED, OUTCOME, STALE_AFTER_S, EngineStatus
from objectcache.errors import (
    AccessDeniedError,
    BucketMissingError,
    BucketNotFoundError,
    ConfigError,
    GatewayUnavailableError,
    InvalidAccessKeyIdError,
    ObjectCacheError,
    RequestTimeTooSkewedError,
    SignatureDoesNotMatchError,
    StoreAccessError,
    StoreUnavailableError,
)
from objectcache.storing.reasons import Reason

LITTLE_ROOM_BYTES = 256 << 20
MANY = 0.1
"""What part of look-ups, or of saves, has to fail for it to be a problem."""
FEW = 4
"""Of fewer look-ups none need be a hit: what comes for the first time is computed."""
_UNREACHED = (GatewayUnavailableError, StoreUnavailableError)
_NOT_SIGNED_IN = (
    AccessDeniedError,
    InvalidAccessKeyIdError,
    RequestTimeTooSkewedError,
    SignatureDoesNotMatchError,
    StoreAccessError,
)
_NO_BUCKET = (BucketMissingError, BucketNotFoundError, ConfigError)
_OPTED_OUT = "opted_out"
_FAILURES = ("unavailable", "late", "damaged", "failed", "left_alone", "unnamed", "after_announcement")
_THERE_ALREADY = {Reason.COVERED.value, Reason.IN_FLIGHT.value}
_NO_FAULT = frozenset(reason.value for reason in Reason if not reason.lost)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `engine` says which process it is about, where it is about one. `next_step` is
    what to do about a problem."""

    name: str
    ok: bool
    text: str
    next_step: str = ""
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """A namespace that an engine asks in: what is stored of it (`tokens`; None: it is not known there), and otherwise
    the nearest that is stored, if any, and how the two differ."""

    digest: str
    tokens: int | None
    nearest: str = ""
    differences: tuple[FieldDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheSeen:
    """What a look at the cache has shown. `error` is what it failed with. `room` are bytes that can still be written
    (None: not known), `writable` whether anything can (None: not tried). `named` is by namespace digest, in hex."""

    url: str
    error: ObjectCacheError | None = None
    namespaces: int = 0
    tokens: int = 0
    total_bytes: int = 0
    writable: bool | None = None
    room_bytes: int | None = None
    named: Mapping[str, Named] = field(default_factory=dict)


def diagnose(
    cache: CacheSeen, engines: Sequence[EngineStatus], *, now_s: float, here: str, alive: frozenset[int]
) -> list[Check]:
    """All that can be said of them. `here` is this machine's name, and `alive` are its processes."""
    checks = list(_of_cache(cache))
    if not engines:
        step = "start one with this connector, or say where engines write with --status (their option status_dir)"
        return [*checks, Check("engines", False, "no engine has told how it is doing", step)]
    saves: Counter[tuple[str, str]] = Counter()
    for status in engines:
        saves[status.engine, status.url] += int(status.counters.get("saves", 0))
    for status in engines:
        name = f"{status.host}:{status.pid} ({status.role}, rank {status.rank} of {status.ranks})"
        gone = _is_gone(status, now_s, here, alive)
        checks += [
            Check(check.name, check.ok, check.text, check.next_step, name)
            for check in _of_process(cache, status, now_s, gone, saves[status.engine, status.url])
        ]
    return checks


# -- the cache ----------------------------------------------------------------------------------------


def _of_cache(cache: CacheSeen) -> Iterator[Check]:
    """As far as they go: what follows a failure is not known."""
    error = cache.error
    if isinstance(error, _UNREACHED):
        step = "start the gateway (`objectcache serve`), or check host, port and network"
        yield Check("reached", False, f"{cache.url} cannot be reached: {error}", step)
        return
    yield Check("reached", True, f"{cache.url} answers")
    if isinstance(error, _NOT_SIGNED_IN):
        step = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that may read, write and list here"
        yield Check("signed in", False, f"it refuses this key: {error}", step)
        return
    yield Check("signed in", True, "it takes the key that it is given")
    if isinstance(error, _NO_BUCKET):
        step = "check the name; a gateway makes a bucket when the first engine stores, or `aws s3 mb` does"
        yield Check("bucket", False, f"it cannot be opened: {error}", step)
        return
    if error is not None:
        yield Check("bucket", False, f"it cannot be looked into: {error}", "see the gateway's log for what went wrong")
        return
    yield Check("bucket", True, "it is there")
    yield _room(cache)
    if cache.namespaces:
        text = f"{cache.namespaces} namespaces, {cache.tokens:,} tokens, {cache.total_bytes / 1e9:.3g} GB"
        yield Check("stored", True, text)
    else:
        yield Check("stored", False, "nothing is stored", "send prompts, and look at what the engines below drop")


def _room(cache: CacheSeen) -> Check:
    if cache.writable is False:
        return Check("room", False, "it cannot be written", "let the user that engines run as write there")
    if cache.room_bytes is not None and cache.room_bytes < LITTLE_ROOM_BYTES:
        step = "free disk space, or raise the byte limit: stores are dropped"
        return Check("room", False, f"{cache.room_bytes / 1e6:.0f} MB are free", step)
    known = "how much is not known" if cache.room_bytes is None else f"{cache.room_bytes / 1e9:.3g} GB"
    return Check("room", True, f"there is room ({known})")


# -- an engine ----------------------------------------------------------------------------------------


def _is_gone(status: EngineStatus, now_s: float, here: str, alive: frozenset[int]) -> bool:
    if status.host == here and status.pid not in alive:
        return True
    return now_s - status.written_s > STALE_AFTER_S


def _of_process(cache: CacheSeen, status: EngineStatus, now_s: float, gone: bool, saves: int) -> Iterator[Check]:
    """`saves` are those of all processes of its engine: one side orders what the other stores."""
    told = f"{status.engine}, at {status.url}, told {max(0.0, now_s - status.written_s):.0f} s ago"
    if gone:
        yield Check(
            "running", False, f"{told}: it is gone without saying so", "start it again; its file may be removed"
        )
    else:
        yield Check("running", True, told)
    if status.idle_reason:
        yield Check(
            "idle", False, f"nothing is loaded or stored: {status.idle_reason}", "see docs/vllm.md, what is cached"
        )
        return
    if status.url.rstrip("/") != cache.url.rstrip("/"):
        step = "give the doctor the engine's URL, or the engine this one"
        yield Check("url", False, f"it uses {status.url}, not {cache.url}", step)
    elif cache.error is None:
        yield from _namespaces(cache, status)
    yield from _loading(status)
    yield from _storing(status, saves)
    if status.announced:
        why = f" ({status.announced_why})" if status.announced_why else ""
        yield Check("announced", True, f"prefixes are announced {status.announced}{why}")
    for error in status.errors:
        yield Check("error", False, error, "")


def _namespaces(cache: CacheSeen, status: EngineStatus) -> Iterator[Check]:
    asked = status.known_namespaces()
    if not asked:
        if status.role == "scheduler":  # which names nothing itself
            return
        yield Check("namespace", True, "it has not asked for anything yet")
        return
    named = cache.named.get(asked[-1].digest.hex())
    if named is None:
        return
    if named.tokens is not None:
        yield Check("namespace", True, f"{named.digest} holds {named.tokens:,} tokens")
        return
    text = f"nothing is stored in the namespace that it asks in, {named.digest}"
    if not named.nearest:
        yield Check(
            "namespace", False, text, "nothing of any engine like it is stored: send prompts, and look at drops"
        )
        return
    fields = ", ".join(
        f"{item.field} ({item.asked or '(empty)'} here, {item.stored or '(empty)'} stored)"
        for item in named.differences
    )
    step = next(
        (step for name, step in _STEPS.items() if any(item.field == name for item in named.differences)), _ALIKE
    )
    yield Check("namespace", False, f"{text}; the nearest that is stored, {named.nearest}, differs in {fields}", step)


_ALIKE = "KV is reused only where all of these are alike: start engines that share KV alike"
_STEPS = {
    "epoch": "the epoch is new after a weight update or a reset of the cache: prompts must be stored again",
    "model": "these are other weights, or another model_fingerprint",
    "hash_seed": "set PYTHONHASHSEED to the same number on all servers that share KV",
    "salt": "KV of another salt is not reused: give engines that share KV the same one",
}


def _loading(status: EngineStatus) -> Iterator[Check]:
    counts = status.counters
    outcomes = {name[len(OUTCOME) :]: amount for name, amount in counts.items() if name.startswith(OUTCOME) and amount}
    opted_out = outcomes.pop(_OPTED_OUT, 0)
    hits = counts.get("hits", 0)
    asked = hits + sum(outcomes.values())
    if status.breaker_open:
        step = "look at the gateway: is it up, overloaded, or too far away for the deadline?"
        yield Check("breaker", False, "the storage side failed lately, and is left alone for a while", step)
    if opted_out:
        yield Check("opt-outs", True, f"{opted_out:,.0f} requests asked for no loading or no storing")
    if not asked:
        if status.role != "worker":  # which does what the scheduler's side asks for
            yield Check("look-ups", True, "it has looked nothing up yet")
        return
    failed = {name: outcomes[name] for name in _FAILURES if name in outcomes}
    said = ", ".join(f"{name} {amount:,.0f}" for name, amount in sorted(outcomes.items(), key=lambda item: -item[1]))
    text = f"{asked:,.0f} look-ups, {hits:,.0f} hits" + (f"; others: {said}" if said else "")
    if sum(failed.values()) > MANY * asked:
        yield Check("look-ups", False, text, _FAILED_STEPS[max(failed, key=lambda name: failed[name])])
    elif not hits and outcomes.get("too_short", 0) + outcomes.get("too_little", 0) > asked / 2:
        chunk = f": a chunk is of {status.chunk_tokens:,} tokens, and must be whole" if status.chunk_tokens else ""
        step = "send longer prompts with common beginnings, or lower min_tokens or the engine's block size"
        yield Check("look-ups", False, f"{text}; prompts are too short{chunk}", step)
    elif not hits and outcomes.get("recompute", 0) > asked / 2:
        step = 'computing is taken to be faster here; "advise": false loads all the same'
        yield Check("look-ups", False, text, step)
    elif not hits and asked < FEW:
        yield Check("look-ups", True, f"{text}; too few to say anything")
    elif not hits:
        step = "`objectcache why` says of one prompt how far it matches; do prompts begin alike?"
        yield Check("look-ups", False, text, step)
    else:
        yield Check("look-ups", True, text)


_FAILED_STEPS = {
    "unavailable": "the gateway or the bucket does not answer: see whether it runs",
    "late": "raise deadline_s, or look at what slows the gateway and its store (`objectcache bandwidth`)",
    "damaged": "what came is not what was stored: `objectcache inspect SEGMENT --verify`",
    "failed": "see the engine's log, and the errors below",
    "left_alone": "the storage side failed before: see the errors below",
    "after_announcement": "vLLM computed what did not come in time: see the engine's log, and deadline_s",
    "unnamed": "the engine cannot tell which weights it has: see the errors below",
}


def _storing(status: EngineStatus, saves: int) -> Iterator[Check]:
    counts = status.counters
    drops = {name[len(DROPPED) :]: amount for name, amount in counts.items() if name.startswith(DROPPED) and amount}
    stored, lost = counts.get("stored_bytes", 0), sum(amount for name, amount in drops.items() if name not in _NO_FAULT)
    if not stored and not drops:
        if status.role != "scheduler":  # which stores nothing itself
            yield Check("stores", True, "it has stored nothing yet")
        return
    said = ", ".join(f"{name} {amount:,.0f}" for name, amount in sorted(drops.items(), key=lambda item: -item[1]))
    text = f"{stored / 1e6:,.1f} MB stored" + (f"; not stored: {said}" if said else "")
    nothing = not stored and status.role != "scheduler" and not drops.keys() <= _THERE_ALREADY
    if nothing or lost > MANY * max(saves, lost, 1):
        worst = max(drops, key=lambda name: (name not in _NO_FAULT, drops[name]), default="")
        yield Check("stores", False, text, _DROPPED_STEPS.get(worst, "see the engine's log, and the errors below"))
    else:
        yield Check("stores", True, text)


_DROPPED_STEPS = {
    Reason.FULL.value: "give the cache more room",
    Reason.BACKLOG.value: "raise saving_bytes, or the bandwidth to the store",
    Reason.LATE.value: "the store takes too long: look at the gateway and its store",
    Reason.FIRST_SIGHT.value: "second_sight stores prefixes when they are seen again: send them again",
    Reason.TOO_SHORT.value: "prompts are shorter than store_min_tokens: lower it, or send longer ones",
    Reason.TOO_FEW.value: "they are held until there are more, or the request ends",
    Reason.COVERED.value: "all of it is stored already",
    Reason.IN_FLIGHT.value: "it is being stored at this moment",
    "not_saved": "its blocks were gone, or their content not certain: a failed load, or a reset",
    "held": "too many of the engine's blocks were held at once: the store does not keep up",
}
