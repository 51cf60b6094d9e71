"""The data workers that carry one session: what is told to all of them, and what comes of a delivery that all send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from objectcache.errors import ObjectCacheError
from objectcache.transports.dealing import Portion, own_streams
from objectcache.workers.channel import Message, error_fields
from objectcache.workers.pool import WorkerHandle, WorkerOrderError

CANCEL_GRACE_S = 0.2

Ended = asyncio.Future[Message]


class Carriers:
    """In the order in which the session's streams are dealt out to them. What is not spread the first sends alone; the
    others only say its last word then, on their streams.

    `session` is the workers' name for it. A response is a session of one stream, whose worker opens it by itself.
    """

    def __init__(self, workers: Sequence[WorkerHandle], session: bytes, streams: int = 1) -> None:
        self.workers = tuple(workers)
        self.session = session
        self._streams = streams

    def __len__(self) -> int:
        return len(self.workers)

    @property
    def first(self) -> WorkerHandle:
        return self.workers[0]

    # -- the session ------------------------------------------------------------------------------

    def open(self) -> None:
        self.first.led.add(self.session)
        for carrier, worker in enumerate(self.workers):
            worker.sessions.add(self.session)
            own = own_streams(self._streams, len(self), carrier)
            worker.tell("session", session=self.session, streams=own, leads=not carrier)

    def share(self, memory: int, *, prefaulted: bool) -> None:
        """`memory` is the descriptor of the client's."""
        for worker in self.workers:
            worker.tell("share", fds=[memory], session=self.session, prefaulted=prefaulted)

    def narrow(self) -> None:
        """To the first of them, for what only one can do, with all streams. Before any is attached."""
        for worker in self.workers[1:]:
            worker.sessions.discard(self.session)
            worker.tell("end_session", session=self.session)
        self.workers = self.workers[:1]

    def attach(self, stream: int, sock: int) -> None:
        """`sock` is the descriptor of the connection that is the session's stream `stream`."""
        at, carrier = divmod(stream, len(self))
        self.workers[carrier].tell("attach", fds=[sock], session=self.session, stream=at)

    def end(self) -> None:
        self.first.led.discard(self.session)
        for worker in self.workers:
            worker.sessions.discard(self.session)
            worker.tell("end_session", session=self.session)

    # -- deliveries -------------------------------------------------------------------------------

    def deliver(self, order: Message, spread: int) -> Ended:
        """A delivery by the first `spread` of them: all, or one. It has ended when each stream has had its last word; a
        failure is told when it is the first."""
        if spread == 1:
            ended = self.first.order("deliver", **order)
            return ended if len(self) == 1 else self._concluded(ended, order)
        portions = [Portion(self._streams, spread, carrier) for carrier in range(spread)]
        orders = zip(self.workers, portions, strict=True)
        return _together(
            [worker.order("deliver", **order, portion=portion) for worker, portion in orders],
            lambda error: self._fail(order, error),
        )

    def _concluded(self, ended: Ended, order: Message) -> Ended:
        """When the first has ended it, the others say so."""

        def conclude(future: Ended) -> None:
            problem = future.exception()
            how = error_fields(problem.error) if isinstance(problem, WorkerOrderError) else {}
            how |= {name: order[name] for name in ("session", "delivery", "epoch", "deadline_s")}
            for worker in self.workers[1:]:
                worker.order("conclude", **how)

        ended.add_done_callback(conclude)
        return ended

    def _fail(self, order: Message, error: ObjectCacheError) -> None:
        how = error_fields(error)
        for worker in self.workers:
            worker.tell("fail", session=self.session, delivery=order["delivery"], epoch=order["epoch"], **how)

    def pace(self, delivery: int, epoch: int, slot: int, spread: int) -> None:
        """A delivery that is under way goes by that slot of the board from now on."""
        for carrier, worker in enumerate(self.workers[:spread]):
            fraction = Portion(self._streams, spread, carrier).fraction if spread > 1 else 1.0
            how: Message = {"slot": slot, "carrier": carrier, "fraction": fraction}
            worker.tell("pace", session=self.session, delivery=delivery, epoch=epoch, **how)

    def grant(self, delivery: int, epoch: int, total_bytes: int) -> None:
        """What bounds a delivery by credit is not spread."""
        self.first.tell("grant", session=self.session, delivery=delivery, epoch=epoch, total_bytes=total_bytes)

    async def cancel(self, delivery: int, epoch: int, timeout_s: float) -> bool:
        """Whether nothing more of it will be written but last words. Raises ObjectCacheError."""
        about: Message = {"session": self.session, "delivery": delivery, "epoch": epoch, "timeout_s": timeout_s}
        orders = [worker.order("cancel", **about) for worker in self.workers]
        done, hanging = await asyncio.wait(orders, timeout=timeout_s + CANCEL_GRACE_S)
        try:
            quiet = [order.result()["quiet"] for order in done]
        except WorkerOrderError as problem:
            raise problem.error from None
        return all(quiet) and not hanging  # whatever one that hangs had begun may still be written


def _together(parts: Sequence[Ended], on_failed: Callable[[ObjectCacheError], None]) -> Ended:
    """What comes of all parts: numbers are added up, lists joined, and the first failure counts. `on_failed(error)` is
    told of that while others may go on."""
    whole: Ended = asyncio.get_running_loop().create_future()
    whole.add_done_callback(lambda done: done.cancelled() or done.exception())
    left, problems = len(parts), list[BaseException]()
    totals: Message = {}

    def over(part: Ended) -> None:
        nonlocal left
        left -= 1
        problem = part.exception()
        if problem is None:
            for name, value in part.result().items():
                totals[name] = totals[name] + value if name in totals else value
        else:
            problems.append(problem)
            if len(problems) == 1 and isinstance(problem, WorkerOrderError):
                on_failed(problem.error)
        if left or whole.done():
            return
        if problems:
            whole.set_exception(problems[0])
        else:
            whole.set_result(totals)

    for part in parts:
        part.add_done_callback(over)
    return whole
