"""Why a prompt or a chunk key matches as far as it does: from what was asked to a chain, or to why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from objectcache.cache.base import all_parts
from objectcache.cache.explain.reasons import NEXT_STEPS, explain_chain, removal_notes
from objectcache.cache.explain.results import Explanation, Neighbour, Reason
from objectcache.cache.explain.stored import Orphan, Stored
from objectcache.cache.explain.tracing import Hole, trace
from objectcache.cache.explain.words import differences, moment, plural, short
from objectcache.catalog import SegmentRecord, match
from objectcache.catalog.scanning import Holders, chunks_beginning
from objectcache.errors import NamespaceMismatchError, RequestError
from objectcache.keys import KEY_BYTES, Namespace, chain_keys
from objectcache.segment import SegmentHeader

TOKEN_HASH = "sha256"
MAX_NEIGHBOURS = 3
_DIFFERENCES_SAID = 3

_COMPARE = "compare the fields: a namespace matches only where all of them do"
_STEPS = {
    "epoch": "the epoch is bumped when weights change in place: KV of another epoch is not reusable",
    "salt": "KV of another tenant's salt is not reusable; ask with the salt that it was stored under",
}


# -- a prompt -----------------------------------------------------------------------------------------


def why_tokens(stored: Stored, asked: Namespace | str, tokens: Sequence[int], *, salted_by_prefix: bool) -> Explanation:
    """`asked` is the namespace, or how its digest begins (hex). Unless `salted_by_prefix`, a salted one is only
    answered for where the whole digest or namespace is given: to know it is what keeps others from asking.

    Raises RequestError for digits that several namespaces begin with, and for keys that do not come from tokens.
    """
    known = stored.namespaces()
    if isinstance(asked, str):
        found = [digest for digest in known if digest.hex().startswith(asked)]
        if len(found) > 1:
            raise RequestError(
                f"{asked} is how several namespaces begin: {', '.join(map(short, found))}: give more digits"
            )
        if not found:
            return _unknown(len(tokens), asked, known)
        namespace = stored.namespace(found[0])
        if namespace.salt_sha256 and not salted_by_prefix and len(asked) < 2 * KEY_BYTES:
            raise RequestError(
                f"namespace {asked} is salted: give its description as a file, or the whole digest, which only its "
                "tenant has"
            )
    else:
        namespace = asked
    if namespace.digest not in known:
        return _unknown_namespace(stored, namespace, tokens, known, salted_by_prefix)
    if namespace.hash_algorithm != TOKEN_HASH:
        raise RequestError(
            f"keys of namespace {short(namespace.digest)} are the engine's own block hashes "
            f"({namespace.hash_algorithm}), which do not follow from tokens alone: ask with a chunk's key"
        )
    explained = explain_chain(stored, namespace, chain_keys(namespace, tokens), len(tokens))
    if explained.reason is not Reason.NOTHING_STORED:
        return explained
    near = _neighbours(stored, namespace, tokens, known, salted_by_prefix)
    elsewhere = [other for other in near if other.matched_tokens]
    notes = [
        f"{other.matched_tokens:,} of its tokens match in namespace {other.namespace}, which differs in "
        + ", ".join(item.field for item in other.differences)
        for other in elsewhere
    ]
    return replace(explained, neighbours=near, notes=(*notes, *explained.notes))


def _unknown(asked_tokens: int, digits: str, known: Mapping[bytes, Namespace | None]) -> Explanation:
    names = ", ".join(short(digest) for digest in known) or "none"
    return Explanation(
        reason=Reason.NAMESPACE_UNKNOWN,
        sentence=f"matches 0 of {asked_tokens:,} tokens: no namespace that begins with {digits} is known here",
        asked_tokens=asked_tokens,
        matched_tokens=0,
        namespace=digits,
        next_step="give the namespace as a JSON file, to see in which fields it differs from those stored",
        notes=(f"known here: {names}",),
    )


def _unknown_namespace(
    stored: Stored,
    asked: Namespace,
    tokens: Sequence[int],
    known: Mapping[bytes, Namespace | None],
    salted_by_prefix: bool,
) -> Explanation:
    near = _neighbours(stored, asked, tokens, known, salted_by_prefix)
    sentence = f"matches 0 of {len(tokens):,} tokens: namespace {short(asked.digest)} is not known here"
    step = "nothing is stored here yet: check the URL, and that the engine stores"
    if near:
        nearest = near[0]
        fields = [_said(item.field, item.asked, item.stored) for item in nearest.differences[:_DIFFERENCES_SAID]]
        more = len(nearest.differences) - len(fields)
        sentence += f"; the nearest that is stored, {nearest.namespace}, differs in {', '.join(fields)}"
        sentence += f" and {plural(more, 'more field')}" if more else ""
        only = {item.field for item in nearest.differences}
        step = _STEPS.get(only.pop(), _COMPARE) if len(only) == 1 else _COMPARE
    return Explanation(
        reason=Reason.NAMESPACE_UNKNOWN,
        sentence=sentence,
        asked_tokens=len(tokens),
        matched_tokens=0,
        namespace=short(asked.digest),
        next_step=step,
        neighbours=near,
    )


def _said(field: str, asked: str, stored: str) -> str:
    return f"{field} ({asked or '(empty)'} asked for, {stored or '(empty)'} stored)"


def _neighbours(
    stored: Stored,
    asked: Namespace,
    tokens: Sequence[int],
    known: Mapping[bytes, Namespace | None],
    salted_by_prefix: bool,
) -> tuple[Neighbour, ...]:
    """The stored namespaces that differ least."""
    found = [(differences(asked, other), other) for other in known.values() if other is not None and other != asked]
    found.sort(key=lambda item: (len(item[0]), item[1].digest))
    near = []
    for fields, other in found[:MAX_NEIGHBOURS]:
        # What another tenant has stored is nobody else's to learn.
        may_tell = salted_by_prefix or other.salt_sha256 in ("", asked.salt_sha256)
        matched = None
        if may_tell and other.hash_algorithm == TOKEN_HASH:
            matched = match(stored.catalog, other, chain_keys(other, tokens), all_parts(other)).tokens
        near.append(Neighbour(short(other.digest), fields, matched))
    return tuple(near)


# -- a key --------------------------------------------------------------------------------------------


def why_key(stored: Stored, digits: str) -> Explanation:
    """`digits` is a chunk key, or how it begins (hex). Raises RequestError where that is ambiguous or no chunk's."""
    keys = chunks_beginning(stored.catalog, digits, 2)
    if len(keys) > 1:
        raise RequestError(f"{digits} is how several stored chunks begin: give more digits")
    if not keys:
        return _not_stored(stored, digits)
    ((key, holders),) = keys.items()
    record, index = holders[0]
    asked_tokens = (record.depth + index + 1) * record.chunk_tokens
    try:
        namespace = stored.namespace(record.namespace)
    except NamespaceMismatchError as error:
        return Explanation(
            reason=Reason.NAMESPACE_UNKNOWN,
            sentence=f"matches 0 of {asked_tokens:,} tokens: {error}",
            asked_tokens=asked_tokens,
            matched_tokens=0,
            namespace=short(record.namespace),
        )
    traced = trace(stored, namespace, key, holders)
    if isinstance(traced, Hole):
        return _broken(stored, namespace, traced, holders, asked_tokens)
    return explain_chain(stored, namespace, traced, asked_tokens)


def _broken(stored: Stored, namespace: Namespace, hole: Hole, holders: Holders, asked_tokens: int) -> Explanation:
    """The chunk is stored, and the way back from it ends in a hole."""

    def wanted(header: SegmentHeader) -> bool:
        return header.namespace == namespace.digest and hole.key in header.keys

    size = namespace.layout.key_tokens
    where = f"chunk {hole.chunk} (tokens {hole.chunk * size:,} to {(hole.chunk + 1) * size - 1:,})"
    orphans = stored.orphans(wanted)
    if orphans:
        reason, because = Reason.UNCOMMITTED, _uncommitted(orphans)
    elif hole.unreadable:
        reason, because = Reason.GAP, f"segment {hole.unreadable} holds it, but cannot be read"
    elif (hole.chunk + 1) * size == asked_tokens:
        record, _ = holders[0]
        held_by = namespace.layout.group(record.group).name
        reason = Reason.SHARD_LACKS
        because = f"it is held only by group {held_by}, whose chunks are {record.chunk_tokens} tokens, and by no other"
    else:
        reason, because = Reason.GAP, "of a gap: it is missing (evicted or expired), while chunks after it are stored"
    return Explanation(
        reason=reason,
        sentence=f"of {asked_tokens:,} tokens, those from token {hole.chunk * size:,} on do not match; stops at or "
        f"before {where} because {because}",
        asked_tokens=asked_tokens,
        matched_tokens=None,
        namespace=short(namespace.digest),
        chunk=hole.chunk,
        chunk_tokens=size,
        next_step=NEXT_STEPS[reason],
        notes=(
            *removal_notes(stored, wanted),
            "what lies before cannot be told from the key: ask with the tokens",
        ),
    )


def _uncommitted(orphans: Sequence[Orphan]) -> str:
    orphan = orphans[0]
    return (
        f"it is in an upload that was never committed: segment {orphan.header.name}, finished "
        f"{moment(orphan.modified_s)}, is named by no log record"
    )


def _not_stored(stored: Stored, digits: str) -> Explanation:
    if stored.digests_beginning(digits):
        raise RequestError(f"{digits} is a namespace's digest, not a chunk's key: `objectcache inspect {digits}`")

    def wanted(header: SegmentHeader) -> bool:
        return any(key.hex().startswith(digits) for key in header.keys)

    orphans = stored.orphans(wanted)
    if orphans:
        header = orphans[0].header
        index = next(i for i, key in enumerate(header.keys) if key.hex().startswith(digits))
        return _missing(Reason.UNCOMMITTED, _uncommitted(orphans), header, header.depth + index)
    child = next((r for r in stored.catalog.segments() if r.depth and r.parent.hex().startswith(digits)), None)
    notes = removal_notes(stored, wanted)
    if child is not None:
        because = f"of a gap: it is missing (evicted or expired), while what follows it is stored: segment {child.name}"
        return replace(_missing(Reason.GAP, because, child, child.depth - 1), notes=tuple(notes))
    return Explanation(
        reason=Reason.KEY_UNKNOWN,
        sentence=f"no stored chunk's key begins with {digits}, no upload holds one, and nothing stored follows on it",
        asked_tokens=None,
        matched_tokens=None,
        namespace="",
        next_step="ask with the tokens and the namespace: that tells how far the prompt does match",
        notes=tuple(notes),
    )


def _missing(reason: Reason, because: str, near: SegmentHeader | SegmentRecord, chunk: int) -> Explanation:
    """A key that is not stored, but whose place is known."""
    size = near.chunk_tokens
    asked = (chunk + 1) * size
    return Explanation(
        reason=reason,
        sentence=f"does not match all of {asked:,} tokens; stops at chunk {chunk} (tokens {chunk * size:,} to "
        f"{asked - 1:,}) or before because {because}",
        asked_tokens=asked,
        matched_tokens=None,
        namespace=short(near.namespace),
        chunk=chunk,
        chunk_tokens=size,
        next_step=NEXT_STEPS[reason],
    )
