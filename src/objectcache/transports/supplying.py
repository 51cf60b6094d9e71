"""Spans for the streams of a session, read from a store.

Spans come out of an iterator that reads digest rows. Where the store is near a stream that finds few of them ready
makes more, for itself and the others, which send meanwhile what is left; where it is far, that and bringing the bytes
to hand is done by a thread of the delivery, a little ahead, and streams serve other deliveries meanwhile. `changed` is
the session's lock.
"""

from __future__ import annotations

import threading

from objectcache.errors import ObjectCacheError
from objectcache.transports.active import ActiveDelivery, ReadySpan


def prepare(active: ActiveDelivery, changed: threading.Condition, streams: int) -> None:
    """Spans for a turn of every stream, read from a store that is near; at first for one: that it sends at once."""
    try:
        for _ in range(streams if active.begun else 1):
            spans, last = _read(active, active.turn_bytes if active.begun else 1)
            _offer(active, changed, spans, last=last)
            if last:
                break
        active.begun = True
    except ObjectCacheError as error:
        fail(active, changed, error)
    finally:
        with changed:
            active.preparing = False
            changed.notify_all()


def first(active: ActiveDelivery, changed: threading.Condition) -> None:
    """As `prepare` at first, but `active.preparing` stays: other streams are not woken to make more."""
    try:
        spans, last = _read(active, 1)
    except ObjectCacheError as error:
        with changed:
            active.state.fail(error)
    else:
        with changed:
            active.offer(spans, last=last)
            active.begun = True


def second(active: ActiveDelivery, changed: threading.Condition, streams: int) -> None:
    """A span for each of the other streams, which are woken for them, and from then on make more themselves."""
    try:
        spans: list[ReadySpan] = []
        last = False
        while not (last or active.ended) and len(spans) < streams - 1:
            more, last = _read(active, 1)
            spans += more
        with changed:
            active.offer(spans, last=last)
    except ObjectCacheError as error:
        fail(active, changed, error)
    finally:
        with changed:
            active.preparing = False
            changed.notify_all()


def _read(active: ActiveDelivery, wanted_bytes: int) -> tuple[list[ReadySpan], bool]:
    """Spans of so many bytes at least, and whether they are the last."""
    spans: list[ReadySpan] = []
    while wanted_bytes > 0:
        frames = active.next_span()
        if frames is None:
            return spans, True
        spans.append(ReadySpan(frames))
        wanted_bytes -= spans[-1].wire_bytes
    return spans, False


def feed(active: ActiveDelivery, changed: threading.Condition) -> None:
    """All spans of a delivery from far, as they are needed, from a thread of its own."""
    threading.Thread(target=_feed, args=(active, changed), name="feed", daemon=True).start()


def _feed(active: ActiveDelivery, changed: threading.Condition) -> None:
    """Each span with the bytes of its first frame."""
    try:
        while (frames := active.next_span()) is not None:
            body = frames[0].hold(frames[0].data_bytes)
            _offer(active, changed, [ReadySpan(frames, body)])
            with changed:
                while not active.wants_more and not active.ended:
                    changed.wait()
                if active.ended:
                    return
        _offer(active, changed, [], last=True)
    except ObjectCacheError as error:
        fail(active, changed, error)


def fail(active: ActiveDelivery, changed: threading.Condition, error: ObjectCacheError) -> None:
    with changed:
        active.state.fail(error)
        changed.notify_all()


def _offer(active: ActiveDelivery, changed: threading.Condition, spans: list[ReadySpan], *, last: bool = False) -> None:
    with changed:
        active.offer(spans, last=last)
        changed.notify_all()
