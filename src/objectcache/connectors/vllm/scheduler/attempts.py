"""One attempt to load a request's prefix: what each rank has said of it, and what follows for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from objectcache.connectors.vllm.messages import Progress, Stage

OVER = frozenset((Stage.MISSED, Stage.FAILED))
READY = frozenset((Stage.STAGED, Stage.LOADED))


def agreed_tokens(limit: int, aligned: int, said: Iterable[Progress]) -> int:
    """The longest prefix that every rank can load, within `limit` tokens and a multiple of `aligned`; 0: there is none.

    It ends where all of those that have more can be shortened to.
    """
    ranks = tuple(said)
    tokens = min((limit, *(one.tokens for one in ranks)))
    while tokens > 0:
        shorter = tokens - tokens % aligned
        for one in ranks:
            if one.tokens > shorter:
                shorter -= shorter % one.boundary_tokens if one.boundary_tokens else shorter
        if shorter == tokens:
            return tokens
        tokens = shorter
    return 0


@dataclass(slots=True)
class Attempt:
    """`have_tokens` were computed when it began; at most `limit_tokens` may be loaded, a multiple of `aligned`."""

    number: int
    request: str
    have_tokens: int
    limit_tokens: int
    aligned: int
    news_at: float
    """When it last got further, seconds of the scheduler's clock."""
    ranks: dict[int, Progress] = field(default_factory=dict)
    fits_at: dict[int, float | None] = field(default_factory=dict)
    tokens: int | None = None
    """What all ranks can load, counted from the prompt's start. None: not all of them know."""

    def told(self, said: Mapping[int, Progress], ranks: int, now: float) -> None:
        """Take what some of `ranks` ranks say. The same as before is no news: a stalled transfer says so, too."""
        for rank, progress in said.items():
            before, before_fits_at = self.ranks.get(rank), self.fits_at.get(rank)
            fits_at = None if progress.fits_in_s is None else now + progress.fits_in_s
            if (
                before is None
                or (before.stage, before.tokens) != (progress.stage, progress.tokens)
                or progress.arrived_bytes > before.arrived_bytes
                or _less(progress.fits_in_s, before.fits_in_s)
                or _less(fits_at, before_fits_at)
            ):
                self.news_at = now
            self.ranks[rank], self.fits_at[rank] = progress, fits_at
        if len(self.ranks) >= ranks:
            self.tokens = agreed_tokens(self.limit_tokens, self.aligned, self.ranks.values())

    @property
    def over(self) -> Progress | None:
        """What the first rank said that has nothing."""
        return next((one for one in self.ranks.values() if one.stage in OVER), None)

    @property
    def staged(self) -> bool:
        """All ranks know what they can load, and have it verified."""
        return self.tokens is not None and all(one.stage in READY for one in self.ranks.values())

    @property
    def arriving(self) -> bool:
        """Every rank knows what it can load, and has some of it: a store that hangs does not get that far."""
        return self.tokens is not None and all(
            one.stage in READY or one.arrived_bytes > 0 for one in self.ranks.values()
        )

    def fits(self, now: float) -> bool:
        """A step that begins now waits for nothing."""
        return self.tokens is not None and all(
            progress.stage in READY or (fits_at is not None and fits_at <= now)
            for progress, fits_at in zip(self.ranks.values(), self.fits_at.values(), strict=True)
        )


def _less(one: float | None, other: float | None) -> bool:
    return one is not None and (other is None or one < other)
