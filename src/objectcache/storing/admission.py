"""What is worth storing. Pure: offers in, decisions out, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from objectcache.cache.base import PartId
from objectcache.errors import ConfigError
from objectcache.keys import KeyChain
from objectcache.storing.reasons import Reason
from objectcache.storing.sketch import SightSketch


@dataclass(frozen=True, slots=True)
class Offer:
    """Chunks [first, stop) of one part. `keys` are the part's from the start of the prompt, at least `stop` of them.

    `ended`: no more chunks of this request will come (a prefill is at its end; decoding has stopped).
    """

    part: PartId
    keys: KeyChain
    first: int
    stop: int
    chunk_tokens: int
    ended: bool = True


@dataclass(frozen=True, slots=True)
class AdmissionOptions:
    """What to store.

    `second_sight`: chunks only when they are offered for the second time, among the last `sight_chunks` chunks or so.
    `min_tokens`: prefixes that are at least so long. `min_new_chunks`: while a request goes on, at least so many chunks
    at once. `seed` is the sketch's. Raises ConfigError.
    """

    second_sight: bool = False
    min_tokens: int = 256
    min_new_chunks: int = 64
    sight_chunks: int = 1 << 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_tokens < 0 or self.min_new_chunks < 0:
            raise ConfigError("min_tokens and min_new_chunks cannot be negative")
        if self.sight_chunks < 1:
            raise ConfigError(f"second sight must remember at least one chunk, got {self.sight_chunks}")


ALL = AdmissionOptions(min_tokens=0, min_new_chunks=0)
"""Everything, always."""


class Admission:
    """Decides by `options`; remembers what was offered when those want it. Not thread-safe."""

    def __init__(self, options: AdmissionOptions | None = None) -> None:
        self.options = options or AdmissionOptions()
        self._sights = SightSketch(self.options.sight_chunks, self.options.seed) if self.options.second_sight else None

    def admit(self, offer: Offer) -> int | Reason:
        """Where to stop: chunks [first, that) are to be stored. Or why none are."""
        options = self.options
        if offer.stop * offer.chunk_tokens < options.min_tokens:
            return Reason.TOO_SHORT
        if not offer.ended and offer.stop - offer.first < options.min_new_chunks:
            return Reason.TOO_FEW  # before it is seen: the same chunks are offered again
        stop = offer.stop
        if self._sights is not None:
            stop = offer.first + self._sights.see(offer.part, offer.keys[offer.first : offer.stop])
        return stop if stop > offer.first else Reason.FIRST_SIGHT
