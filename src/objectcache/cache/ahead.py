"""Who takes what the local tier holds of a prefix while the storage side is still asked whether that matches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from objectcache.cache.in_place import Slices


class Ahead(ABC):
    """Given with what is asked for. What it has taken counts only if the `Retrieval` says so (`Retrieval.ahead`): less
    may match, or the store have other versions than were held."""

    @abstractmethod
    def begin(self) -> bool:
        """Something is about to be given, of one request. Whether it is wanted: no more than one is."""

    @abstractmethod
    def take(self, part: int, layer: int, blocks: Sequence[Slices]) -> None:
        """What is held of the part at index `part` of what is asked for, at `layer`: its chunks from the first on, in
        as many arrays as they lie in. They are only to be read, and stay as they are until `wait` has returned.

        Whoever raises is given no more, and what was taken does not count: all of it comes as if nothing were.
        """

    @abstractmethod
    def wait(self) -> None:
        """Return when nothing reads any more what was taken, and never will again. Raises nothing: what cannot be
        waited for must not read on."""
