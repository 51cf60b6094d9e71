"""Why a chain of a known namespace matches as far as it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from objectcache.cache.base import all_parts
from objectcache.cache.core import ORPHAN_AGE_S
from objectcache.cache.explain.holdings import Holding, holdings, longest_match
from objectcache.cache.explain.results import Explanation, PartState, Reason
from objectcache.cache.explain.stored import Stored
from objectcache.cache.explain.words import moment, place, plural, short
from objectcache.catalog import match
from objectcache.keys import KeyChain, Namespace
from objectcache.segment import SegmentHeader

MAX_RANGES = 16
MAX_NOTED = 3

NEXT_STEPS = {
    Reason.TOO_SHORT: "nothing to do: KV is stored by whole chunks",
    Reason.NOTHING_STORED: "if it should be there: compare the tokens (template, BOS, system prompt) and the namespace",
    Reason.UNCOMMITTED: "an engine commits once its step is clean on every rank: look for why this one did not; it is "
    f"deleted after {ORPHAN_AGE_S / 3600:g} hours",
    Reason.SHARD_LACKS: "look at the ranks that write it: uploads that failed, found no room, or were not committed",
    Reason.GAP: "a larger byte limit, or no lifecycle rule on these objects, keeps whole prefixes",
    Reason.RULE: "store the state or window at more boundaries, or expect to recompute from the one that is stored",
    Reason.BRANCH: "compare the prompts from this chunk on: their tokens differ there",
    Reason.ENDS: "nothing was stored beyond: the engine stored no more, or has not yet",
}


@dataclass(frozen=True)
class Lacking:
    """A part, and the chunk of it that the match stops at."""

    held: Holding
    chunk: int

    @property
    def first_token(self) -> int:
        return self.chunk * self.held.chunk_tokens

    @property
    def stop_token(self) -> int:
        return self.first_token + self.held.chunk_tokens

    @property
    def key(self) -> bytes:
        return self.held.chain[self.chunk]

    def in_header(self, header: SegmentHeader) -> bool:
        return (header.group, header.shard) == self.held.id and self.key in header.keys

    @property
    def named(self) -> str:
        return part_name(self.held)


def part_name(held: Holding) -> str:
    return f"shard {held.shard.index} of group {held.group.name} ({place(held.group, held.shard)})"


def explain_chain(stored: Stored, namespace: Namespace, chain: KeyChain, asked_tokens: int) -> Explanation:
    """`chain` is of the prompt's whole chunks, at `layout.key_tokens` a key; `asked_tokens` is its length."""
    with stored.catalog.view() as view:
        held = holdings(view, namespace, chain, all_parts(namespace))
    boundary = namespace.layout.boundary_tokens
    usable = asked_tokens // boundary * boundary
    matched = longest_match(held, usable, boundary)
    notes = _gone(stored, namespace, chain, matched)
    if usable < asked_tokens:
        notes.append(f"the last {plural(asked_tokens - usable, 'token')} fill no whole chunk: they have no key")
    lacking: list[Lacking] = []
    if matched == usable:
        reason, because = (Reason.ALL_MATCHED, "") if usable else (Reason.TOO_SHORT, _too_short(boundary))
    else:
        lacking, broken_at = _stop(held, matched, usable, boundary)
        reason, because, more = _Reasoning(stored, namespace, held, lacking, broken_at, matched).result()
        notes = more + notes
    sentence = f"matches {matched:,} of {asked_tokens:,} tokens"
    if lacking:
        first = lacking[0]
        where = f"chunk {first.chunk} (tokens {first.first_token:,} to {first.stop_token - 1:,})"
        sentence += f"; stops at {where} because {because}"
    elif because:
        sentence += f": {because}"
    return Explanation(
        reason=reason,
        sentence=sentence,
        asked_tokens=asked_tokens,
        matched_tokens=matched,
        namespace=short(namespace.digest),
        chunk=lacking[0].chunk if lacking else None,
        chunk_tokens=lacking[0].held.chunk_tokens if lacking else None,
        next_step=NEXT_STEPS.get(reason, ""),
        notes=tuple(notes),
        parts=tuple(_state(part, usable, boundary) for part in held),
    )


def _too_short(boundary_tokens: int) -> str:
    return f"KV is stored and matched in steps of {plural(boundary_tokens, 'token')}, and the prompt is shorter"


def _state(held: Holding, usable: int, boundary_tokens: int) -> PartState:
    return PartState(
        group=held.group.name,
        rule=held.group.rule.value,
        shard=held.shard.index,
        place=place(held.group, held.shard),
        chunk_tokens=held.chunk_tokens,
        stored=held.stored[:MAX_RANGES],
        alone_tokens=longest_match([held], usable, boundary_tokens),
    )


def _gone(stored: Stored, namespace: Namespace, chain: KeyChain, matched: int) -> list[str]:
    """What matches by the catalog but is not in the store any more."""
    keys = chain[: matched // namespace.layout.key_tokens]
    found = match(stored.catalog, namespace, keys, all_parts(namespace))
    names = dict.fromkeys(run.segment.name for part in found.parts for run in part.runs)
    gone = (name for name in names if not stored.is_there(name))
    return [
        f"segment {name} matches, but its object is gone from the store (a lifecycle rule, or a person): the next "
        "retrieval that needs it fails and drops it from the catalog"
        for name in islice(gone, MAX_NOTED)
    ]


def _stop(held: Sequence[Holding], matched: int, usable: int, boundary: int) -> tuple[list[Lacking], int | None]:
    """Which parts the match stops at, and, where a window or state rule is broken, the boundary (tokens) that the
    parts which need everything would reach."""
    whole = [part for part in held if part.from_start]
    reach = longest_match(whole, usable, boundary) if whole else matched
    lacking = []
    for part in held if reach > matched or not whole else whole:
        if reach > matched:
            stop = reach // part.chunk_tokens
            missing = part.last_missing(part.needed(stop), stop)
        else:
            missing = part.first_missing(matched // part.chunk_tokens, (matched + boundary) // part.chunk_tokens)
        if missing is not None:
            lacking.append(Lacking(part, missing))
    lacking.sort(key=lambda item: item.first_token)
    return lacking, reach if reach > matched else None


@dataclass(frozen=True)
class _Reasoning:
    """From what is missing to why, the most telling reason first. `broken_at` is as `_stop` returns it."""

    stored: Stored
    namespace: Namespace
    held: Sequence[Holding]
    lacking: Sequence[Lacking]
    broken_at: int | None
    matched: int

    def result(self) -> tuple[Reason, str, list[str]]:
        """The reason, the clause that says it, and notes."""
        asked = (self._uncommitted, self._lacked_by_some, self._rule, self._gap, self._nothing, self._branch)
        found = next((found for ask in asked if (found := ask()) is not None), None)
        reason, because = found or (Reason.ENDS, "the stored prefix ends there: nothing is stored that goes on")
        notes = [] if reason is Reason.UNCOMMITTED else removal_notes(self.stored, self._wanted)
        return reason, because, notes

    @property
    def _first(self) -> Lacking:
        return self.lacking[0]

    def _wanted(self, header: SegmentHeader) -> bool:
        return header.namespace == self.namespace.digest and any(item.in_header(header) for item in self.lacking)

    def _uncommitted(self) -> tuple[Reason, str] | None:
        orphans = self.stored.orphans(self._wanted)
        if not orphans:
            return None
        orphan = orphans[0]
        part = next(item for item in self.lacking if item.in_header(orphan.header))
        more = f" (and {len(orphans) - 1} more)" if len(orphans) > 1 else ""
        return Reason.UNCOMMITTED, (
            f"an upload of {part.named} holds it that was never committed: segment {orphan.header.name}{more}, "
            f"finished {moment(orphan.modified_s)}, is named by no log record"
        )

    def _lacked_by_some(self) -> tuple[Reason, str] | None:
        first = self._first
        others = [part for part in self.held if self._comparable(part) and _covers(part, first)]
        if not others:
            return None
        other, size = others[0], first.held.chunk_tokens
        stop = first.held.next_stored(first.chunk) or len(first.held.chain)
        until = other.first_missing(first.first_token // other.chunk_tokens, len(other.chain))
        if until is not None:
            stop = min(stop, until * other.chunk_tokens // size)
        what = f"chunks {first.chunk} to {stop - 1}" if stop - first.chunk > 1 else f"chunk {first.chunk}"
        lacking = [item.named for item in self.lacking if item.first_token == first.first_token]
        return Reason.SHARD_LACKS, (
            f"{'; '.join(lacking)} {'lacks' if len(lacking) == 1 else 'lack'} what others have: {what}, which "
            f"{part_name(other)} holds"
        )

    def _comparable(self, part: Holding) -> bool:
        """Whether a part that has the chunk shows that the lacking ones should."""
        same_group = part.id.group == self._first.held.id.group
        return same_group or (self.broken_at is None and part.from_start and self._first.held.from_start)

    def _rule(self) -> tuple[Reason, str] | None:
        if self.broken_at is None:
            return None
        group, stop = self._first.held.group, self.broken_at // self._first.held.chunk_tokens
        first = self._first.held.needed(stop)
        needs = f"chunks {first} to {stop - 1}" if stop - first > 1 else f"chunk {first}"
        boundary = f"the farthest boundary at which it is whole is token {self.matched:,}"
        return Reason.RULE, (
            f"group {group.name} ({group.rule.value}) needs {needs} to go on at token {self.broken_at:,}, as far as "
            f"the other groups reach, and chunk {self._first.chunk} is missing; "
            + (boundary if self.matched else "there is no earlier boundary at which it is whole")
        )

    def _gap(self) -> tuple[Reason, str] | None:
        first = self._first
        size = first.held.chunk_tokens
        later = first.held.next_stored(first.chunk)
        if later is None:
            tokens = [
                chunk * part.chunk_tokens
                for part in self.held
                if (chunk := part.next_stored(-(-first.stop_token // part.chunk_tokens))) is not None
            ]
            if not tokens:
                return None
            later = min(tokens) // size
        missing = f"chunks {first.chunk} to {later - 1} are" if later - first.chunk > 1 else f"chunk {first.chunk} is"
        return Reason.GAP, f"of a gap: {missing} missing (evicted or expired), while chunk {later} and more are stored"

    def _nothing(self) -> tuple[Reason, str] | None:
        if self._first.chunk:
            return None
        part = tuple(self._first.held.id)
        others = sum(
            1
            for record in self.stored.catalog.segments()
            if record.namespace == self.namespace.digest and not record.depth and (record.group, record.shard) == part
        )
        begin = "1 other prompt begins" if others == 1 else f"{others:,} other prompts begin"
        more = f": {begin} with other tokens in this namespace" if others else " in this namespace"
        return Reason.NOTHING_STORED, "nothing is stored for the first chunk" + more

    def _branch(self) -> tuple[Reason, str] | None:
        first = self._first
        parent, part = first.held.chain[first.chunk - 1], tuple(first.held.id)
        inside = [
            record.name
            for record, index in self.stored.catalog.find(parent, *first.held.id)
            if record.namespace == self.namespace.digest and index + 1 < record.num_chunks
        ]
        after = (
            record.name
            for record in self.stored.catalog.segments()
            if record.parent == parent and record.depth and (record.group, record.shard) == part
        )
        names = [*inside, *after]
        if not names:
            return None
        more = f" and {plural(len(names) - 1, 'other segment')}" if len(names) > 1 else ""
        return Reason.BRANCH, f"the stored chain goes on with other tokens there: in segment {names[0]}{more}"


def _covers(part: Holding, lacking: Lacking) -> bool:
    first, stop = lacking.first_token // part.chunk_tokens, -(-lacking.stop_token // part.chunk_tokens)
    return stop <= len(part.chain) and part.holds(first, stop)


def removal_notes(stored: Stored, wanted: Callable[[SegmentHeader], bool]) -> list[str]:
    """What the logs tell of segments that held what is missing."""
    removed = sorted(stored.removed(wanted), key=lambda item: -item.removed_s)
    return [
        f"it was in segment {item.name}, committed {moment(item.committed_s)} and removed {moment(item.removed_s)} "
        f"by writer {item.remover}"
        for item in removed[:MAX_NOTED]
    ]
